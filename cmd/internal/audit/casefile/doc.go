// Package casefile is the case file: leaves of trails that answer one question, with
// all that is needed to check them on another machine, without a network.
//
// # Form
//
// A zip that any program opens, its entries stored, sorted by name, without dates or
// attributes. There is one spelling: what would not be packed again as the same bytes
// is refused, so no byte of the file is unread.
//
//	SHA256SUMS                         of every other entry, as sha256sum -c reads it
//	manifest.json                      Manifest: what was asked, when, of whom
//	report.html                        the same for people, written from the other entries
//	trails/<n>/<index>.leaf            a leaf as it was hashed (package trail)
//	trails/<n>/<index>.tlog-proof      that it is under the signed head in it (C2SP tlog-proof)
//	trails/<n>/<size>.seen             an earlier head with cosignatures, in the past of the one above
//	rosters/<hash>.roster              who the witnesses of a head are (package witness)
//	witnesses/<key hash>.keys          whose key cosigned (package witnessing)
//	decisions/<id>.json                a denial with its input, as it was recorded
//	policies/<digest>.policy           a signed policy (package bundle)
//	trust/<trust domain>-<n>.trust     a region's signed trust record (package trust)
//	evidence/<digest>.proof            a proof of misbehaviour (package feed)
//
// Of each trail there is leaf 0, the genesis, which names the trail's key and carries the
// issuer's endorsement of the machine that holds it. All proofs of a trail are under one
// head. The cosignatures that heads carry say by when peers had seen what is under them.
//
// # What holds it together
//
//	global keys (Trust)  sign  trust records  name  the authority's key
//	                     which signs  the endorsement in the genesis  which names  the trail key
//	trail key            signs  the head  which proves  each leaf
//	the same, of three   vouches for  the witness key  which signs  head and time
//	leaf decision.deny   is committed to    the input in decisions/, with the salt there (package payload)
//	leaf policy.activate has the digest of  the content in policies/
//	leaf peer.finding    has the digest of  the proof in evidence/
//
// Verify checks all of it and starts with Trust, the only thing the reader brings.
// Nothing in a case file is believed because it is in the case file: an entry that no
// leaf names is refused. Validity is judged as of then: certificates and endorsements
// that have expired since still count for what was signed while they were valid. The
// report is written again from the entries and compared; where another version wrote
// it, Verify says so and judges the rest.
//
// # Certificates and time
//
// Leaves of kind identity.svid and identity.epoch hold the certificates that the node received.
// Each must have been valid at the time of its leaf, give or take what clocks may be apart: the
// first as an X509-SVID of the trail's node under the X.509 roots of one of the trust records in
// the file, the second under its record roots; and the leaf must tell of no other. One that does
// not is a fault of that leaf. Whether the node could have known by then of a newer record that
// lacks the root is not judged. Where the reader has no global keys none is judged, and Verify
// says so.
//
// The time of a leaf is the node's word. Dated holds it against the time by which witnesses had
// seen the leaf: SVIDs, epoch certificates, records that were signed in an epoch, and the genesis
// with its endorsement count as made in time where that came before the certificate ended, or as
// long after it as heads are kept apart (trail.SeenEvery). What came later is told and is no
// fault: a node that was cut off from its witnesses cannot show more, and neither can a thief
// with an old key.
//
// A case file shows that its leaves are in the trails. Only one made for a span of time
// shows that no leaf of the span is missing.
package casefile
