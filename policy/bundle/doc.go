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
// Content is {1: modules, path -> source, 2: data, canonical JSON}, in deterministic CBOR, so that
// equal policies have equal digests. Modules are *.rego, tests included.
//
// Versions of a (level, scope) only grow, by at most 1000 at a time unless the level above raises
// the floor, so that a stolen key cannot lock a scope at the end of the numbers. A rollback is a
// new version with old content. Book keeps this floor, and the newest two records of each scope
// with the exact bytes that were signed.
//
// What always holds: nothing is returned by Verify that the keys given do not vouch for, now;
// a record that requires a feature this node does not have is refused, never half obeyed; parsers
// are bounded before they read, and refuse what would not re-encode to the same bytes.
//
// Package bundle does not compile Rego, and does not carry bytes between nodes.
package bundle
