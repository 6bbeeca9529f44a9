// Package authority is who may decide what in a region: the objects an
// authority signs, the book in which every node keeps the newest of them, and
// the role of the single node that signs them.
//
// An object is a signed statement, of a statement type per kind:
//
//	authority   {level, region, master, autonomy, sync, lease}: the authority record
//	service     service name -> SPIFFE IDs that may answer to it
//	release     answer to findings; package quarantine says what it means
//	revocation  end of an identity
//	rollback    what an origin wrote in a span of its history is not shown
//	segments    parts of an origin's state that are kept out, while the origin is not
//	beacon      root of the region's frontier, and 32 random bytes, numbered: what the root
//	            covers is older than they, and what is bound to them is younger
//
// Its payload carries, beside the body: kind, level, name, version, HLC, origin
// and the digest of the object it replaces (its parent). The slot of an object
// is (level, kind, name). In a slot versions only grow; a jump of more than 1000
// is refused unless the object names the current one as its parent (beacons, which
// decide nothing, may jump). Two objects
// of one slot and version are a conflict: the later by (HLC, origin, digest)
// wins, and the loser is kept and shown, with both signatures. Between levels
// the higher wins: global, regional, local, autonomous. The order is total and
// is Compare, so every node with the same statements holds the same book.
//
// # Segments
//
// A node that writes bad state into one part of its keys need not lose all. No schema says so by itself:
// it is policy's, and a bad one would put everybody into quarantine. It is an operator's word, signed as
// all the rest ([Segments]), about operators' kinds only: a node's own words, such as its evidence, are
// no part of it.
//
// # Approvals
//
// A region's trust record may name approvers (Approvers): a release then also carries the approvals
// of k of n keys, of which none is at a node. An approval is a statement of type
// "release-approval/1" over the SHA-256 of the release's body, which says all there is to say, the
// epoch included; so it is good for nothing else, and not twice. They lie in the object beside the body, ascending,
// and every node counts those of different keys. A [Draft] is a release on its way:
//
//	{1: trust domain text, 2: body bstr, ? 3: [1*16 approval bstr]}
//
// Only what lets somebody back in needs approvals. A revocation or a rollback takes away, and must not wait.
// A release from before the region had approvers is none for a node that reads it anew; its
// authority counts on from it all the same.
//
// What always holds:
//   - A region's authority speaks only of its own trust domain: masters, service
//     identities and accused of another one are refused, whoever signed.
//   - The book takes nothing in that does not verify under a key of its level, and no release
//     without the approvals it needs.
//   - An epoch number is given out once, above everything given out before for
//     that node, and is durable before it is returned. The same node asking
//     again with the same feed key gets the same numbers, through whichever issuer.
//     After its first, a node gets at most 4 new grants an hour and 12 a day.
//     A disk that may be an old copy voids all grants (Epochs.Restored).
//   - Publishing and its trail leaf commit together.
//   - The signing key prints itself in no log line.
//
// The book, the lease and the order are pure. Package authority does not carry
// statements between nodes, and one node is the whole quorum.
package authority
