// Package custody keeps copies of a node's trail on other nodes of its region, so that
// neither a lost disk nor its owner takes away what was recorded.
//
// # What is mirrored
//
// All epochs of a trail: heads, those that witnesses cosigned among them, leaves and the tiles over
// them; what stands beside the trail and says what heads and leaves rest on (Config.Beside: who the
// witnesses are, whose their keys); and the files whose SHA-256 a leaf names (segments of decisions),
// for as long as their owner has them. A copy is
//
//	<state>/custody/<owner>/trail/<epoch>/...      as in package trail
//	<state>/custody/<owner>/trail/<folder>/...     as beside the trail
//	<state>/custody/<owner>/decisions/...          the files
//
// with <owner> the node's name, or <zone>+<name>. It is verified like the trail itself, and needs
// nothing of the owner's disk for it.
//
// # Who holds it
//
// Each node works out by itself whose custodian it is: Rank orders the members of the region
// by rendezvous hash, failure domain by failure domain, the owner's own a place later. The
// first Config.Copies hold a copy each. The next as many stand in for one of them that did not
// answer for LostAfter: they make copies too, and remove them once all of the first answer
// again and have at least as much.
//
// # What is asked
//
// A custodian asks; nobody pushes. It asks the owner, and where that is silent the others
// that rank, so a copy is made whole again without its owner. One question and one answer, on
// a stream of its own, in deterministic CBOR:
//
//	question = {1: owner text, 2: epoch uint, 3: from uint}     leaves of an epoch from an index on;
//	                                                            epoch 0 is the newest there
//	           {1: owner text, 4: file text, 5: offset uint, ? 7: folder text}
//	                                                            a part of a file, of one beside the trail
//	           {1: owner text, 7: folder text}                  the names of the files of a folder beside it
//	           {1: owner text, 2: epoch uint, 3: above uint, 6: true}
//	                                                            earlier heads with cosignatures, of more leaves
//	answer   = {1: epochs [uint], 2: head bstr, 3: leaves [bstr], 5: witnessed head bstr, absent where it is the head,
//	            6: hashes bstr, instead of leaves that their owner removed by age}
//	           {4: part bstr}
//	           {8: names [text]}
//	           {7: heads [bstr]}
//
// Only leaves travel; the custodian derives the tiles, and what it holds counts when the
// owner's signed head covers it. Full bundles that came are not asked for again after a cut
// or a restart, and a file goes on where it ended.
//
// # What always holds
//
//   - What was sealed under a head is never given up for what does not continue it. Then the copy
//     stays as it is, the other head is kept beside it (trail/<epoch>/conflict), and
//     Config.Found is told: the owner keeps two histories, or its disk was put back.
//   - Nothing is copied of a trail for whose key neither Config.Vouched stands nor the genesis of the
//     epoch after. From then on the key is pinned.
//   - Nothing leaves the region: a question to or about a node of another trust domain is refused,
//     as is one by a node that neither owns the trail nor ranks among twice Config.Copies. Heads alone,
//     a From of 2^62 or more, any node of the region may have.
//   - Above Config.MaxBytes no leaves are taken in, above three quarters of it no files. Nothing is
//     removed to make room. One question is open at a time, and Config.Rate bytes a second are asked for.
//   - Leaves of a copy, and the files that only they name, go by age where two agree: the owner's trail says
//     that they may (kind trail.prune), and they are older than this node's own Config.Keep.
//   - A copy on disk that does not verify at the first look after a start is removed and made again.
//
// # What it does not do
//
// It judges no leaf, and tells no other region. Who ranks may read what it is a custodian of.
// A file that its owner removed before any custodian came is lost; the trail says that it was there.
package custody
