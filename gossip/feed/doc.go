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
//	   4: seq          uint   from 1, below 2^63
//	   5: prev         bstr32 RecordID of seq-1; in seq 1 that of the newest record of an
//	                          earlier epoch the origin goes on from, or 32 zero bytes
//	   6: hlc          uint   milliseconds since 1970 << 16 | counter
//	   7: policy       tstr   policy revision the origin ran, at most 128 bytes, may be empty
//	   8: ttl          uint   seconds until the origin promises its next record; 0: no promise
//	   9: root         bstr32 ops root
//	  10: count        uint   number of ops, at most 256
//	  11: size         uint   length of the body in bytes, at most 16384
//	  12: traceparent  tstr   W3C trace context, 55 bytes; absent where there is none
//	  13: base         uint   seq of a snapshot's first part, see Snapshots; absent when 0
//	  14: parts        uint   of a snapshot: its records, 1 to 1024; else absent
//	  15: since        [{1: epoch, 2: seq}...]  of a snapshot: at most 8 places, epochs
//	                          descending; absent where there is none
//	}
//	body   = [ op... ]
//	op     = { 1: key tstr, 2: action uint (1 put, 2 del), 3: value bstr (absent when
//	          empty, and in a del), 4: scope uint (1 zone, 2 region, 3 global),
//	          5: written (in a snapshot, else absent) }
//	written = { 1: epoch uint, 2: seq uint, 3: RecordID bstr32, 4: hlc uint }
//	record = { 1: statement bstr, 2: body bstr }
//
// RecordID = SHA-256(header): never of the signature, which is malleable. The
// statement is at most MaxHeader bytes.
//
// The ops root is the Merkle tree hash of RFC 6962 §2.1 with SHA-256. Its first leaf
// is of the values of all ops, the others of the rest of eight ops each (the last of
// what remains), all in order. Their inputs are
//
//	values = [ value bstr... ]       of all ops, empty where an op has none
//	heads  = [ head... ]             of 1 to 8 ops
//	head   = { 1: key, 2: action, 4: scope, 5: written }   as in the op
//
// so there are 1 + ceil(count / 8) leaves. Values and heads are apart so that a proof
// about a key is short whatever the values and tells nothing of them, not even their
// hashes; it shows up to seven more keys. Eight ops share a leaf so that hashing costs
// little beside the one signature over all of them.
//
// An ops record may have no ops: it renews the lease. A leave has no ops: its
// origin's lease ends at once. Within a record later ops win.
//
// # Keys
//
// A key is /<owner path>/<kind>/<name>, at most 512 bytes. The owner path is the
// path of a SPIFFE ID, name is one path segment of at most 128 bytes, kind is
// in the registry (Kinds) or x-<something>. An origin may write only keys whose
// owner path is its own. The trust domain of a key is its origin's.
//
// Each kind has a schema, a pure function of name and value. It is no part of
// admission, because versions differ in it: an op that breaks it, or whose kind is
// unknown, is held and passed on with its record like any other, and does not apply
// where the version does not take it (Kinds.Check). A writer does not write it.
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
//	seq not before the feed's start       else Pruned
//	origin's bucket                       else OverQuota
//	body matches size, count and root     else BodyMismatch  (relay)
//	may be kept by the reader             else Restricted
//	seq = head + 1, or the next part of
//	  a snapshot the feed begins with     else ParkedGap
//	hlc > hlc of prev                     else ClockBack     (proof)
//	hlc <= now + 500 ms                   else ParkedFuture
//	every key the origin's own            else ForeignKey    (proof)
//	certificate not expired, or covered   else Uncovered
//	base, parts and since in their place  else BadSnapshot
//	live keys and bytes, and the bytes of
//	  the feed, within the class          else OverQuota
//	                                           Admitted, or ParkedPart
//
// Up to the signature nothing is remembered about a record. Relay verdicts say
// nothing about the origin: whoever handed the bytes over failed to check them.
// The bucket is the origin's, for all its epochs. It passes a record that keeps the class's
// rate by the origin's own signed clock (as every honest writer does, so catching up with
// its newest epoch is never slowed) or, failing that, by the receiver's.
//
// A feed may have, by the limits class of its epoch:
//
//	class       records/s  at once  live keys  live bytes  bytes of the feed
//	gateway           400     4000      16384       4 MiB             16 MiB
//	node              100     1000       4096       1 MiB              4 MiB
//	any other          20      200        512     256 KiB              1 MiB
//
// The live keys and bytes of a snapshot are those of its own parts. The bytes of a
// feed are those of its encoded records from its start on: where there is no more
// room for others, a snapshot may still be written, up to twice as much.
//
// New epochs give an origin no more than that three times: records are kept of its three
// newest epochs that have any. Those of older ones are given up, and not taken (Pruned).
// Over all its epochs, at most 64 records and 256 KiB are parked, and parts of snapshots
// that are not complete are gathered up to what one snapshot may have; where that is too
// little, the oldest epoch makes room first, and of one feed those farthest from the head.
// Of a record that is held, the chain itself keeps 64 bytes; of a live key, the key and 32.
//
// A header contradicts another of its feed when both have one seq and different
// RecordIDs, or when they are neighbours and the later's prev is not the
// earlier's RecordID.
//
// # Snapshots
//
// A snapshot replaces the history of its feed. It is a series of 1 to 1024 records
// of kind snapshot that follow one another without others in between. All have the
// same base, the seq of the first of them, the same parts, their number, and the
// same since. Together they hold the live keys of the origin, keys ascending in
// bytes through the whole series, each with written: the record that gave it its
// value, on the owner's word. A key that is not there is deleted; there are no
// tombstones, except that a del may be restated while older epochs of the origin
// have records left (see Epochs).
//
// No part takes effect before the last one. With it, and all at once, the live
// state of the feed becomes what the parts say, and the feed starts at base. A
// series that another record cuts short takes none; its owner begins anew. There
// is no closing record and no root over the parts: the hash chain binds them
// already, and their number says when they are all there.
//
// Every other record names in base the newest snapshot that was complete before
// it, if any. So each signed header, but those of parts before the last, says from
// where on its feed is whole, and how much of it somebody lacks. since is the
// path by which its epoch came about: the newest record that the origin had of
// earlier epochs when it began, then the one that that record's epoch went on from,
// and so on. The oldest fall off.
//
// Who holds a complete snapshot forgets the records before it, in one transaction
// with its last part, and keeps the headers of the 512 newest of them. A record or
// header that contradicts one of these is proof of a fork as before.
//
// Who lacks records before a snapshot begins with it. When it holds a verified
// header that names the snapshot as complete, it gathers the parts beside what it
// has, judges each as the next in line, and takes them over when all are there.
// Of the state it believes what the origin signed: about its own keys a snapshot
// cannot be false, only new. Of the history it believes nothing: prev of the first
// part commits the origin to one, unchecked. That is safe, because from there on
// everything is chained. Two who were told different things hold, as soon as both
// feeds reach one seq, two different headers of that seq, and these are a proof.
// Before it leaves a head behind, a holder looks at the header that follows it,
// where a peer still keeps that: a prev that is not its head is the proof. A
// fork further back than 512 headers before every holder's start is not found any
// more, and changes nothing.
//
// An owner should begin an epoch with a snapshot if it holds records of an earlier
// one and the class has room for it; otherwise those stay. It should write one when
// 1024 records or 256 KiB have come after the last and these are no less than its
// live state, and make all parts durable at once.
//
// # Proofs and freezing
//
// A proof convinces anyone who can check the epoch certificate in it:
//
//	proof = {
//	  1: form   uint 1 pair, 2 key, 3 accusation
//	  2: certificate bstr (DER)
//	  3: first  bstr statement
//	  4: second bstr statement            pair: ordered by (seq, RecordID)
//	  5: leaf   bstr                      key: the input of a leaf of heads,
//	  6: index  uint                           its place, from 1; accusation: which op, from 0
//	  7: path   [bstr32...]                    and audit path, RFC 6962 §2.1.1
//	  8: body   bstr                      accusation: that of the record
//	}
//
// A pair shows equivocation (the two contradict) or clock-back (linked
// neighbours, hlc not growing); a key, whose leaf has a well-formed key that is not
// the origin's own, shows foreign-key. An accusation shows false-accusation: the
// origin put there, as evidence against another, what shows nothing. That is so only where
// every version says the same: the headers in the evidence parse, its certificate is good, and
// yet one is not signed by that key, or the two of a pair break no rule. Whatever else is
// wrong with evidence blames nobody. So form 1 never comes to mean more: a new rule about
// two headers gets a form of its own. The finding's digest is
// SHA-256("bailiwick finding 1" 0x00 || class || 0x00 || RecordIDs in order ||
// leaf hash, for a key, or SHA-256(evidence), for an accusation): the same on every machine, whichever signature bytes
// or renewal of the certificate it saw. Equivocation under an epoch that no TPM
// backs has class fork-unattested: it freezes the feed and convicts nobody,
// because a copied disk does the same.
//
// A finding freezes its feed at the last common record: seq-1 of the breach,
// or seq-2 for a pair of one seq whose prevs differ. With several findings the
// lowest counts. What was admitted after that point is not state any more. Where
// the last common record lies before the feed's start, nothing is left of the feed:
// it may be filled again, up to that record, by those who still hold it.
//
// # Epochs
//
// A newer epoch starts a new feed. Its writes win over older epochs' by (epoch,
// seq). A complete snapshot in it replaces the records of earlier epochs that lie on
// since: up to the place named there, and whole epochs before the last place. They
// are forgotten like those before its base, and a feed without records is no part
// of a frontier. The others stay and are shown as rewind; who holds none of a feed
// of them takes the one after the place as its first, whatever its prev.
//
// A feed cut like this is judged as if it had begun at its new start: by all alike,
// also by those who knew what is gone. If the place lies within a series, the parts
// that remain are opaque. They are taken when the first has a base before the feed's
// start, and the next of them the same base, parts and since; their keys need not
// ascend from part to part. They restate nothing, count for no live state, and the
// last of them completes nothing. The first record that is no part of a snapshot may
// name any base before the feed's start, and those after it the same, until a
// snapshot that lies in the feed as a whole is complete. Live keys are those that
// records from the start on wrote, and snapshots that begin there or later.
//
// A hostile origin may tell different things of its older epochs in every snapshot. So
// that all who have told each other everything hold the same, in whatever order they
// heard it, of all snapshots only one counts for the epochs before it: the newest complete
// one of the newest epoch that has one. A feed begins right after what that replaces, or
// with a complete snapshot of its own; it is judged anew whenever another snapshot comes
// to count, or ceases to because its feed is frozen before its last part. A feed that
// then begins elsewhere is given up as a whole, and filled again by those who hold it
// from the right record on, if anybody does. Nothing else about a feed depends on
// what a holder knows of records that a joiner never sees.
//
// The limits class belongs to an epoch: an authority changes it only with a new epoch.
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
// Two nodes compare their frontiers by another tree, which moves little when a feed
// comes or goes, and costs O(depth) when a head moves. A feed's name in it is
// SHA-256(origin 0x00 epoch), epoch 8 bytes big-endian. The subtree at a prefix, up to
// 8 hexadecimal digits, holds the feeds whose names begin so. Its hash is
//
//	32 zero bytes                                        of no feeds
//	SHA-256(0x00 || (name || seq || RecordID)...)        of up to 8 feeds, or at 8 digits:
//	                                                     by name ascending, seq 8 bytes big-endian
//	SHA-256(0x01 || the hashes of its 16 children)       of more
//
// It depends on the heads alone, never on the order in which they came.
//
// With age = now - time of the origin's newest record: live up to ttl, delayed
// to 2 ttl, stale to 8 ttl, then expired; always live with ttl 0, expired after
// a leave.
//
// # Checkpoints and covers
//
// A region's authority signs a checkpoint of the frontier it holds: its root, the
// number of feeds in it, and the time. Package feed does not say how
// (CheckpointFunc). A cover shows one feed in it:
//
//	cover = {
//	  1: checkpoint bstr    as the authority signed it
//	  2: head       {1: origin, 2: epoch, 3: seq, 4: RecordID}, the frontier's leaf
//	  3: index      uint    its place (absent when 0)
//	  4: path       [bstr32...]  and audit path, RFC 6962 §2.1.1 (absent when empty)
//	}
//
// It is at most 6144 bytes. A cover is in time if its checkpoint was made at most 5
// minutes after the end of the epoch certificate, by the authority's clock.
//
// 2.5 minutes after the end of a certificate, by the reader's clock, its key may be
// anybody's, and dates say nothing. From then on a record that is not held already
// counts only if it lies at or before the covered head of its feed, the furthest
// that is in time, and leads there: records are gathered beside the feed, judged
// each as the next in line (ParkedPart), and taken over when the one at the covered
// seq is the covered one; if it is another, all of them are thrown away. The record
// that follows a covered head is Uncovered. It blames nobody and shows as debt. A
// renewal of the certificate, for the same key and epoch, ends all this.
//
// Covers travel as state, under the kind cover, in the feed of the authority's node:
// /<node>/cover/<name>, name the first 16 bytes in hex of SHA-256(origin 0x00 epoch),
// epoch 8 bytes big-endian. They are made of feeds whose certificates are about to
// end, and dropped when a feed is renewed or superseded. Whoever holds one keeps it.
// They speak for themselves: who carries them does not matter, nor whether policy
// lets the key apply. A node that hears of no new checkpoints, because it or the
// authority is cut off, goes on with what it holds; it takes nothing new under
// certificates that end meanwhile, until the next cover or renewal comes.
//
// # Evolution
//
// Statements name their type and version (record/1, seal/1), and signatures cover
// both: what is signed as one can never be taken for another. Nobody may add a field to
// version 1, give a number another meaning, or read a field more leniently: parsers
// refuse what would not re-encode to the same bytes, so that every node gives a record
// the same RecordID and the same verdict. For the same reason the chain rules, the
// limits classes and the forms of proofs change only with the version. A record of an
// unknown version is ErrRecord; a new one is therefore sent only in epochs whose
// certificate says that the region takes it, after every node of it was updated. What
// may be added freely are kinds: older nodes hold and pass on what they cannot read, and
// apply it when they are updated. Frozen vectors (testdata) fail when any of
// this changes unnoticed.
//
// Package feed does not verify certificates (KeyFunc), store, send, or decide
// what standing a finding leads to. Values are not safe for concurrent use
// unless they say so.
package feed
