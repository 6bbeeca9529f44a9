// Package decision keeps the decisions of a node: not recorded, not admitted.
//
// Log.Decide asks the engine and records the answer before it returns it:
//
//   - A denial is committed, together with its trail leaf (decision.deny, one for each), before
//     the caller hears of it. Where that fails it stays a denial, whose reason says so,
//     and is counted for a gap leaf.
//   - An allow is counted. The counts become one trail leaf (decision.allow) at every flush. The
//     first allow of its sort (kind, rule, revision, source and target) and every SampleEvery-th
//     after it are also committed whole, with the counts so far, before the caller hears of it.
//     A caller that acts on it in a transaction of its own may keep it there: Log.DecideWithin; the
//     counts then come with the next flush.
//   - What the engine remembers (policy.Engine.Recall) is no exception: a denial is recorded each
//     time, with the input of that time, and an allow is counted, and kept whole when its turn comes.
//   - Where an allow cannot be recorded it becomes a denial with the rule "not-recorded". After a
//     failed flush that is so for every allow until a commit succeeds again.
//
// A crash loses the counts since the last flush; the time span in each leaf shows the gap. What
// policy says (policy.Recording) changes how much of an allow's sort is kept, never whether a
// denial is. What Config.Each names is committed each, allowed or not.
//
// A change of the policy in force is an event too (Change, its path bailiwick/policy_change): from which
// generation to which, the records that changed, who signed them, and why. It is durable, with its trail
// leaf (policy.activate), before the policy takes effect: where it cannot be recorded, nothing changes. A
// policy that failed is taken out of force first.
//
// # Masking
//
// Masking rules run before anything is written, the leaf included. What they hide is also taken out
// of the fields that repeat it, and its path is listed in Erased or Masked. A reason that could quote
// the input goes whole, however little was masked: a copy in it may be cut or escaped. The caller and
// the target go where any hidden text is in them; grants where one of three bytes or more is. Hidden
// numbers of up to five digits are searched for nowhere. Where the rules fail, or there is no input
// that they could be asked about and some level has masks, nothing that may come from the caller is
// written. The caller is answered with the decision as it is.
//
// # Payloads
//
// With Config.Keys, what an event is about is sealed before it is written (package payload): the input, who
// asked, the target, reasons and grants, with the salt of the commitment that a denial's leaf has of the input. What was decided,
// when, by which rule and generation stays open. Each caller, kind and set of data classes has a key of its own for each day: when
// it is destroyed the payload is unreadable in the store, in segments and in all copies of them, and what
// is left verifies as before. Read, Get and Last open what can be opened, and say in Event.Erasure what was erased. An event of
// Change is not sealed: who signed a policy is what the trail is for. Keys go with the last segment of their day.
// What is sealed does not compress across events: one takes about 480 bytes of a segment in place of 100, so that
// MaxBytes holds as many fewer of them, and Read takes about 50 microseconds for each.
//
// # Where decisions are
//
// A recorded decision is an Event: an event of OPA's decision log, whose decision ID is its trace
// ID. It is active first, in the node's store, where its commit put it:
//
//	decision/open: sequence [8]byte, big-endian | id [16]byte | 'a' or 'd' -> the event's JSON
//
// SegmentAt active events, or what there is after SegmentEvery and when the node stops, become a segment,
// <state>/decisions/NNNNNNNNNNNN.ndjson.gz: gzip (RFC 1952) of a Header and then the events, each
// a line of JSON. The file is on the disk before the transaction that makes it a segment: that
// takes its events from the active ones and appends a trail leaf (segment) with the SHA-256 of the
// file. The header names the SHA-256 of the file before, so segments are a chain of their own. A
// crash in between leaves a file that the next segment replaces. An event is always in one of the
// two places: kill -9 and power loss lose none that the caller was answered with.
//
// # Bounds
//
//   - When all segments take more than MaxBytes of disk (whole blocks of 4 KiB), the oldest are
//     removed, down to one, unless Config.Hold is set. In the transaction that forgets one a gap leaf says how many events
//     went.
//   - When no segment can be written, four segments' worth of events wait in the store. Then the
//     oldest are dropped, a segment's worth at a time, and a gap leaf says so in the same
//     transaction. Denials keep their own leaves either way.
//
// Decisions that arrive together share one commit. Read and Lines give what segments and exports
// hold, to whoever replays, compares or explains it; Verify checks segments against each other and
// the trail, offline: form, order, digests, and that the newest the trail names is there. It does not
// tell a segment that was removed for want of room from an oldest one that somebody deleted; the gap
// leaves are there to compare. After the store alone was put back from a copy, files of the life before
// follow the newer ones until they are written over, and Verify takes that for a broken chain: put the
// folder back together with the store. The package judges nothing and sends nothing anywhere.
package decision
