// Package decision keeps the decisions of a node: not recorded, not admitted.
//
// Log.Decide asks the engine and records the answer before it returns it:
//
//   - A denial is committed, together with its trail leaf (decision.deny, one for each), before
//     the caller hears of it. Where that fails it stays a denial, whose reason says so.
//   - An allow is counted. The counts become one trail leaf (decision.allow) at every flush. The
//     first allow of its sort (kind, rule, revision, source and target) and every SampleEvery-th
//     after it are also committed whole, with the counts so far, before the caller hears of it.
//   - Where an allow cannot be recorded it becomes a denial with the rule "not-recorded". After a
//     failed flush that is so for every allow until a commit succeeds again.
//
// A crash loses the counts since the last flush; the time span in each leaf shows the gap.
//
// The newest decisions are kept in two rings in the node's store, by default 1,000 denials and 200
// sampled allows, with the complete input, and survive a restart:
//
//	decision/denials, decision/allows: sequence [8]byte, big-endian | id [16]byte -> JSON of policy.Decision
//
// JSON and not CBOR, because the input inside is the JSON that a replay reads. Leaves hold the
// SHA-256 of that input, so that a kept decision can be checked against the trail.
//
// Decisions that arrive together share one commit. The package judges nothing and forwards
// nothing; attest/trail drains the leaves.
package decision
