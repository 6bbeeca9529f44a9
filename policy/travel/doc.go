// Package travel brings policy to a node: from a signed record that came by signed state to a
// generation in force, with content that any peer may have.
//
//	record -> verified -> (waits until not_before) -> fetched -> compiled and kept -> in force
//
// Records come by Offer, from everywhere and any number of times. Of each level and scope the
// newest that verifies is worked on, on each level one after the other, by Run: a record that is
// stuck keeps no other level waiting, and a newer one of its slot ends the work on it. Where the newest
// has a rollout the newest one under it is worked on too: a node that was away takes what is in force
// elsewhere, while the newest waits for its ring. Nothing that does not verify is kept, asked for or
// passed on.
//
// # Content
//
// Content is named by the digest of its list of chunks (bundle.ChunksDigest), which the record is
// signed over. One question and one answer, on a stream of its own:
//
//	question = {1: digest bstr32, 2: part uint, absent when 0}   deterministic CBOR
//	answer   = the list (part 0) or the part-th chunk, as it is; nothing where the peer lacks it
//
// Every part is checked against the record when it comes, so a peer that lies is found out at once
// and spoils nothing. A peer that does not answer in 3 s is asked last for the rest of an attempt,
// with 30 s, and then no more; over a link of which this node knows a budget it has longer (Longest). Parts that were checked are on disk and are not asked for again, after a cut
// and after a restart alike; whoever has a part gives it to others. The whole is checked against
// the record's digest before anything looks into it.
//
//	policy/parts: digest [32]byte | part u32 -> bytes
//
// # What always holds
//
//   - At most maxPartial contents are in parts on the disk, at most four questions are open for
//     each level, and one content of each is in memory beside those in force. For a fifth content
//     the one that was asked for longest ago goes.
//   - Config.Take decides and makes durable; when it fails the record is refused once and for all
//     in this process, with the reason (Refused), and what was in force stays.
//   - A content that nobody has is asked for again, after 200 ms at first and 10 s at last.
//
// Package travel does not say who carries which record, and opens no socket.
package travel
