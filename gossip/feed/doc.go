// Package feed is the record core of the signed state mesh: what a node says
// about itself, how others check it, and how a lie becomes a proof. It is the
// specification of version 1; everything here is pure.
//
// # Names
//
// An origin is a node, named by its SPIFFE ID with a path. An epoch (from 1) is
// one life of its feed, allowed by an epoch certificate that binds (origin,
// epoch) to one P-256 key. A feed is one (origin, epoch): a chain of records
// numbered by seq from 1. Two feeds of one origin are separate chains.
//
// # Record
//
// A record is a signed header and a body. The header is the payload of a
// statement (package statement) of type record/1 in the origin's trust domain.
// All encodings are deterministic CBOR maps with integer keys:
//
//	header = {
//	   1: kind         uint   1 ops, 2 snapshot, 3 leave
//	   2: origin       tstr   SPIFFE ID with a path, at most 2048 bytes
//	   3: epoch        uint   from 1
//	   4: seq          uint   from 1
//	   5: prev         bstr32 RecordID of seq-1; in seq 1 that of the newest record of an
//	                          earlier epoch the origin goes on from, or 32 zero bytes
//	   6: hlc          uint   milliseconds since 1970 << 16 | counter
//	   7: policy       tstr   policy revision the origin ran, at most 128 bytes, may be empty
//	   8: ttl          uint   seconds until the origin promises its next record; 0: no promise
//	   9: root         bstr32 ops root
//	  10: count        uint   number of ops, at most 256
//	  11: size         uint   length of the body in bytes, at most 16384
//	  12: traceparent  tstr   W3C trace context, 55 bytes; absent where there is none
//	}
//	body   = [ op... ]
//	op     = { 1: key tstr, 2: action uint (1 put, 2 del), 3: value bstr (absent when
//	          empty, and in a del), 4: scope uint (1 zone, 2 region, 3 global) }
//	record = { 1: statement bstr, 2: body bstr }
//
// RecordID = SHA-256(header): never of the signature, which is malleable. The
// statement is at most MaxHeader bytes.
//
// The ops root is the Merkle tree hash of RFC 6962 §2.1 with SHA-256, over one
// leaf per op in order. A leaf's input holds the hash of the value, so that a
// proof about a key is short whatever the value:
//
//	leaf   = { 1: key, 2: action, 3: SHA-256(value) bstr32, 4: scope }
//
// An ops record may have no ops: it renews the lease. A snapshot has puts
// only and restates live keys; it deletes nothing, and nothing is pruned by it
// in version 1. A leave has no ops: its origin's lease ends at once. Within a
// record later ops win.
//
// # Keys
//
// A key is /<owner path>/<kind>/<name>, at most 512 bytes. The owner path is the
// path of a SPIFFE ID, name is one path segment of at most 128 bytes, kind is
// in the registry (Kinds) or x-<something>. An origin may write only keys whose
// owner path is its own. The trust domain of a key is its origin's. Each kind
// has a schema, a pure function of name and value.
//
// # Chain rules
//
// A record is judged by Chain.Admit in this order; the first rule broken gives
// the verdict:
//
//	known epoch key                       else UnknownOrigin
//	feed not frozen at or before seq      else Frozen
//	not held or parked already            else Duplicate
//	signature by the epoch key            else BadSignature  (relay)
//	hlc not past the certificate's end    else Expired
//	no signed header contradicts it       else Fork          (proof)
//	origin's bucket                       else OverQuota
//	body matches size, count and root     else BodyMismatch  (relay)
//	seq = head + 1                        else ParkedGap
//	hlc > hlc of prev                     else ClockBack     (proof)
//	hlc <= now + 500 ms                   else ParkedFuture
//	every key the origin's own            else ForeignKey    (proof)
//	live keys and bytes within the class  else OverQuota
//	every value within its kind's schema  else BadSchema
//	                                           Admitted
//
// Up to the signature nothing is remembered about a record. Relay verdicts say
// nothing about the origin: whoever handed the bytes over failed to check them.
// Parking holds at most 64 records and 256 KiB a feed, those nearest the head.
// The bucket passes a record that keeps the class's rate by the origin's own
// signed clock (as every honest writer does, so catching up is never slowed) or,
// failing that, by the receiver's.
//
// A header contradicts another of its feed when both have one seq and different
// RecordIDs, or when they are neighbours and the later's prev is not the
// earlier's RecordID.
//
// # Proofs and freezing
//
// A proof convinces anyone who can check the epoch certificate in it:
//
//	proof = {
//	  1: form   uint 1 pair, 2 key
//	  2: certificate bstr (DER)
//	  3: first  bstr statement
//	  4: second bstr statement            pair: ordered by (seq, RecordID)
//	  5: leaf   bstr                      key: the leaf input,
//	  6: index  uint                           its place (absent when 0)
//	  7: path   [bstr32...]                    and audit path, RFC 6962 §2.1.1
//	}
//
// A pair shows equivocation (the two contradict) or clock-back (linked
// neighbours, hlc not growing); a key shows foreign-key. The finding's digest is
// SHA-256("bailiwick finding 1" 0x00 || class || 0x00 || RecordIDs in order ||
// leaf hash, for a key): the same on every machine, whichever signature bytes
// or renewal of the certificate it saw. Equivocation under an epoch that no TPM
// backs has class fork-unattested: it freezes the feed and convicts nobody,
// because a copied disk does the same.
//
// A finding freezes its feed at the last common record: seq-1 of the breach,
// or seq-2 for a pair of one seq whose prevs differ. With several findings the
// lowest counts. What was admitted after that point is not state any more.
//
// # Epochs
//
// A newer epoch starts a new feed and deletes nothing. Its writes win over older
// epochs' by (epoch, seq). Records of an older feed beyond the point the newer one
// went on from stay and are shown as rewind. The limits class belongs to an epoch:
// an authority changes it only with a new epoch.
//
// # Seal, frontier, lease
//
// A seal is a statement of type seal/1 by the epoch key over {1: origin, 2:
// epoch, 3: seq, 4: RecordID}: the owner's word about its head. It is no member
// of the chain. A record's own header serves as well, for anyone who holds it.
//
// A frontier maps feeds to heads. Its root is an RFC 6962 tree over the leaves
// {1: origin, 2: epoch, 3: seq, 4: RecordID} ordered by (origin, epoch), feeds
// without records left out.
//
// With age = now - time of the origin's newest record: live up to ttl, delayed
// to 2 ttl, stale to 8 ttl, then expired; always live with ttl 0, expired after
// a leave.
//
// Package feed does not verify certificates (KeyFunc), store, send, or decide
// what standing a finding leads to. Values are not safe for concurrent use
// unless they say so.
package feed
