// Package replica keeps a node's copy of the signed state of its region: it
// stores and passes on what package feed admits, writes the node's own feed, and
// answers reads.
//
// # Session
//
// Attach runs one gossip session over a stream, the same on both sides. It is a
// sequence of frames, each
//
//	length uint32, big-endian, of what follows: 1 to 32768
//	type   1 byte
//	body
//
// with bodies, where they are structured, in deterministic CBOR:
//
//	1 cert     DER of an epoch certificate; sent before the first thing it signed
//	2 root     32 bytes: the sender's frontier root
//	3 heads    {1: part, 2: [{1: origin, 2: epoch, 3: seq, 4: RecordID, 5: bytes}...]}
//	           part 0 announces new heads; 1 is a piece of the whole frontier, 2 its
//	           last piece. bytes is the feed's encoded size up to there
//	4 want     [{1: origin, 2: epoch, 3: from, 4: to}...]: please send these records
//	5 record   a record
//	6 seal     the sender's seal of its own head
//	7 header   a record's signed header: proof that a head exists
//
// Each side starts with its certificate, seal and root, and repeats the root every
// second. Whoever gets a root that differs from its own answers with its
// frontier, at most once a second; whoever sees a head there that it lacks wants
// up to 64 records from its own head on, then the next. A head that contradicts a
// record held is asked for too: the answer is evidence. An answer starts with the
// header of the sender's head, so that the asker's debt counts only what was signed.
//
// A record admitted for the first time goes at once to every attached peer that is
// not known to have it: whole if it holds evidence or its body is at most 1 KiB, as an
// announcement otherwise. Frames wait in four classes, higher first: certificates
// and evidence; control and authority; state; bulk. A peer that does not keep up
// loses state and bulk frames, and catches up from the frontiers; one that does not
// even take the first two classes is dropped (ErrSlow).
//
// Only feeds that Config.Carry lets through travel a session, in either direction,
// and only they count in its roots. Without Carry these are the feeds of the
// node's own trust domain.
//
// # What always holds
//
// A foreign record is passed on when package feed admitted it, applied when it is
// also durable and Config.Apply allows the op. An own record is sent when it is
// durable. No (epoch, seq) is used twice, whatever crashed: after a failed commit
// Run ends, and the next Open continues from what the disk holds. When a peer shows
// something of our own feed that we lack, nothing more is written in that epoch
// (ErrRewound, Config.OnRewound). A finding freezes its feed, and holds its origin
// when it convicts, before Config.OnFinding hears of it; a proof found here is
// published in the node's own feed under evidence, and every proof received is
// verified before it counts.
//
// The trail gets, in the transaction of the change: state.out (Out) for each own
// record, state.in (In) per commit, counted, state.refuse (Refuse) for each
// refusal.
//
// # What it does not do
//
// It does not choose peers: every attached one is flooded. It prunes no history;
// owners write no snapshots yet, though foreign ones are admitted, and memory
// grows by about 50 bytes a record held. It does not encrypt the store, limit
// scopes below a feed, or decide standing.
package replica
