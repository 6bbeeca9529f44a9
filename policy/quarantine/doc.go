// Package quarantine computes what this node makes of an identity.
//
// The input is a set of facts, the output a Standing:
//
//	finding     {accused, class, digest}: verified evidence that the accused broke a rule
//	release     the authority's answer to findings: they are covered, a new epoch begins; of a node
//	            that was released before it says so (Again), which only an operator's word brings about
//	revocation  the authority's last word on an identity
//	accusation  a node's signed word, for a while, that another is at fault; proves nothing
//	fault       something this node alone saw a relay do; proves nothing to anybody else
//	doubt       the same of a node's attestation, for as long as it is so
//
//	revoked      any revocation                                    (absorbs everything)
//	quarantined  any finding that no release covers, or accusations by a quorum (see below)
//	held         a doubt; a recent local fault: 30 s, doubled each time, at most 10 min (Thresholds)
//	watch        after a hold (half-open: one try is allowed), or some mild faults
//	released     every finding is covered and the probation runs
//	ok           nothing of the above; also what an unknown identity is
//
// A release covers the digests it lists, and every finding whose epoch is below
// the release's. So a second proof about the old epoch, arriving late, does not
// revive what was answered, and a fault in the new epoch does count.
//
// An [Appeal] is what the accused says to the authority. It is no fact and changes no standing. That of
// a node without a TPM is marked: nothing is known of its machine.
//
// What always holds:
//   - Facts come in only through Checks, which the node gives: no finding
//     without evidence that verified here, no release or revocation without the
//     authority's signature, nor a release without the approvals that the region asks
//     for (package authority). The evidence is kept, to be verified again on the spot.
//   - Adding is idempotent and free of order: two nodes with the same facts have
//     the same standings, and nothing is ever taken out. Only the times at which
//     this node first saw a fact, and who carried it, are its own.
//   - Faults and doubts end at held; they and accusations are never written out by Marshal:
//     accusations are in the feeds of their accusers.
//   - An accusation that has expired counts no more, whenever it comes, and no older one
//     of the same pair can come back: of each pair the newest is all that counts.
//   - Facts about other trust domains are refused: a region's quarantine stays
//     in the region.
//   - A proof freezes feed, relaying and issuance at once. Cutting sessions is
//     capped per 10 minutes (see Effects), because a fault in the software looks
//     like many guilty nodes. By the word of observers nothing happens beyond the cap.
//
// # Observers
//
// What cannot be proven (attestation that fails, or does not come while the node is connected)
// takes a quorum. Each identity has observers: the first 45 of the attested roster by Rank, or
// all others where there are fewer. An accusation counts if
//
//   - its accuser is an assigned observer, and no proof or revocation stands against it;
//   - it is in force: signed before now, not expired (10 minutes at most), not withdrawn;
//   - what was seen came after every release of the accused;
//   - it is among the first 3 of its accuser, by the accused's ID, of those signed in the last
//     10 minutes, withdrawn ones too: who accuses everybody has a say about few.
//
// A quorum is 67 % of the assigned observers, never fewer than a majority, and of two failure
// domains where the observers are of several. With fewer than 5 observers there is none, and the
// fault ends at held. When accusations expire or are withdrawn, so does the quarantine: whoever
// keeps it up keeps signing. No accuser has authority: it has one vote of those it was given.
//
// Why 45 and 67 %: if 30 % of a fleet collude against an honest node, they are a quorum of its
// observers never in fleets of up to 103 nodes, for they are too few in all, and by luck with a
// chance of 4e-8 in one of 1,000 (hypergeometric; 9e-8 however large it is). For 3 of 5 observers
// it is 16 %, for 15 of 21 it is 9e-5. The price: colluders who keep silent can shield one of
// theirs from quarantine, with a chance of 0.36. It is held everywhere all the same.
//
// An accuser that does have evidence which everybody can check shows that instead (kind evidence):
// where it fails, it is a proof against the accuser (feed.Accusation, the class false-accusation).
//
// More than MaxFindings proofs against one identity can no longer be released:
// such a node is enrolled anew under another name.
//
// Package quarantine reads no clock and no socket and starts no goroutine. Time
// is an argument. It does not gossip, close connections or write to disk.
package quarantine
