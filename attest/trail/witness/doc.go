// Package witness lets the peers of a node see that it keeps one history: they cosign
// the heads of its trail, each only if it extends what they cosigned before.
//
// The formats are those of C2SP: tlog-checkpoint for heads, tlog-cosignature for
// cosignatures, tlog-witness for the exchange. Deciding is pure (Decide, Judge, Choose);
// Keeper adds a store and a clock.
//
// # Who witnesses
//
// A roster is the nodes of a region that may be witnesses, with their keys. Its bytes
// are a line for each node in the syntax of C2SP tlog-policy, in the order of the bytes:
//
//	witness <SPIFFE ID> <verifier key>
//
// A head names the SHA-256 of these bytes in its one extension line, "roster <hex>", and
// with it its witnesses: Of members other than the owner, those four with the smallest
//
//	SHA-256("bailiwick witness/1" 0x00 owner's SPIFFE ID 0x00 member's SPIFFE ID)
//
// but where the roster has them, two at least outside of the owner's failure domain, so
// that three cannot do without one. The failure domain is the zone; without zones each
// node is its own. Three of the four make a head witnessed: two such quorums share two
// witnesses, so two histories need two that lie. A roster with fewer than four others
// names nobody, and such heads are unwitnessed. The owner does not choose: a witness
// cosigns only for a roster that it has worked out itself from signed records.
//
// # Keys
//
// A witness key is Ed25519 (type 0x04), named <trust domain>/witness/<node> or
// <trust domain>/witness/<zone>/<node>. It lives and dies with the memory of what it
// cosigned: a store that is lost takes the key's seed with it, and after a restored disk
// the key is retired. A witness that forgot may contradict itself; one with a new key
// says in its own name that it starts anew.
//
// # The exchange
//
// A request is the body of add-checkpoint, at most MaxRequest bytes. An answer is the
// status in decimal, a newline, and the body that HTTP would carry:
//
//	200  a line with the cosignature
//	400  not a request; or the old size is above the head's
//	403  not the trail's key, a key other than before, a trail that has been forked, a
//	     roster that is unknown here, or one by which others are its witnesses
//	404  nobody's trail
//	409  the old size is not that of the head cosigned last: its size, and a newline;
//	     also where a head of that size has another root
//	422  the proof does not prove that the head extends the one cosigned last
//	503  the witness could not write; try again
//
// # What a refusal proves
//
//	two heads of one size, different roots       Conflict
//	a larger head whose own proof shows another
//	root for the size cosigned last              Conflict (none where that size is a power
//	                                             of two: such proofs leave the old root out)
//	a smaller head, or one by another key        hint: a restored disk looks the same
//
// A Conflict holds everything to verify it but the word on whose key it is. From the
// first one on, a witness cosigns nothing more of that trail.
//
// # What it does not do
//
// Witnesses see heads, not leaves. They do not say that a node told the truth, or that it
// recorded everything. Three of the four who lie together with a node can hide a fork
// from everybody else. Cosignatures say when the head was seen, by the witness's clock.
package witness
