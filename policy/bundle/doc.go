// Package bundle is how policy travels: a signed record, and the content its digest names.
//
// Two statements (attest/statement), payloads as deterministic CBOR with the keys of the structs:
//
//	policy/1      Record       by the policy key of its level
//	delegation/1  Delegation   by the policy key of the level above
//
// The trust domain both are signed in is that of the scope; for the scope "mesh" it is empty:
//
//	level     scope                           signed by              delegations in the record
//	global    mesh                            a global policy key    none
//	regional  east.dev.example                the region's           [regional, by a global key]
//	local     east.dev.example/zone/site-17   the site's             [regional, local, by the region's key]
//
// A policy key lives for months, so that a node cut off for weeks can verify; it is not an SVID.
// A delegation states the ceiling of its level: what allows of that level may cover. A ceiling
// never reaches beyond that of the level above.
//
// Content is {1: modules, path -> source, 2: data, canonical JSON, 3: schemas, path -> source,
// absent where there are none}, in deterministic CBOR, so that equal policies have equal digests.
// Modules are *.rego, tests included. Schemas are schemas/*.json, what values of state may look
// like (package policy/schema): they travel, are signed and are activated with the rules.
//
// A record also has the digest of the list of the content's chunks, each of 64 KiB, so that it can be
// fetched in parts from anybody (package travel).
//
// Versions of a (level, scope) only grow, by at most 1000 at a time unless the level above raises
// the floor, so that a stolen key cannot lock a scope at the end of the numbers. A rollback is a
// new version with old content. Book keeps this floor, and of each scope the newest two records that
// are enforced and the newest in shadow, with the exact bytes that were signed.
//
// A record may carry a plan by which nodes put it in force ring by ring (package policy/rollout); it
// then requires "rollout-1", so that no node that does not know plans enforces it at once.
//
// What always holds: nothing is returned by Verify that the keys given do not vouch for, now;
// a record that requires a feature this node does not have is refused, never half obeyed; parsers
// are bounded before they read, and refuse what would not re-encode to the same bytes.
//
// Package bundle does not compile Rego, and does not carry bytes between nodes.
package bundle
