// Package quarantine computes what this node makes of an identity.
//
// The input is a set of facts, the output a Standing:
//
//	finding     {accused, class, digest}: verified evidence that the accused broke a rule
//	release     the authority's answer to findings: they are covered, a new epoch begins
//	revocation  the authority's last word on an identity
//	fault       something this node alone saw a relay do; proves nothing to anybody else
//
//	revoked      any revocation                                    (absorbs everything)
//	quarantined  any finding that no release covers
//	held         a recent local fault: 30 s, doubled each time, at most 10 min (Thresholds)
//	watch        after a hold (half-open: one try is allowed), or some mild faults
//	released     every finding is covered and the probation runs
//	ok           nothing of the above; also what an unknown identity is
//
// A release covers the digests it lists, and every finding whose epoch is below
// the release's. So a second proof about the old epoch, arriving late, does not
// revive what was answered, and a fault in the new epoch does count.
//
// What always holds:
//   - Facts come in only through Checks, which the node gives: no finding
//     without evidence that verified here, no release or revocation without the
//     authority's signature. The evidence is kept, to be verified again on the spot.
//   - Adding is idempotent and free of order: two nodes with the same facts have
//     the same standings, and nothing is ever taken out. Only the times at which
//     this node first saw a fact, and who carried it, are its own.
//   - Faults end at held and are never written out by Marshal.
//   - Facts about other trust domains are refused: a region's quarantine stays
//     in the region.
//   - A proof freezes feed, relaying and issuance at once. Cutting sessions is
//     capped per 10 minutes (see Effects), because a fault in the software looks
//     like many guilty nodes.
//
// More than MaxFindings proofs against one identity can no longer be released:
// such a node is enrolled anew under another name.
//
// Package quarantine reads no clock and no socket and starts no goroutine. Time
// is an argument. It does not gossip, close connections or write to disk.
package quarantine
