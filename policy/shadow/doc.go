// Package shadow holds a candidate policy against the one in force, on live questions.
//
// A Shadow is told of every decision after it was made (Observe) and puts the question to a
// candidate, which is a whole generation of its own. What the candidate says is compared, counted
// and thrown away. Differences are grouped by the rules that made them (Tally), with examples:
//
//	denies  the policy in force allowed it, the candidate denies it
//	allows  the policy in force denied it, the candidate allows it
//	fails   the candidate could not be evaluated, and denied for that
//	values  both allow it, and what comes with the answer, such as grants, differs
//	rule    the answer is the same, another rule gave it
//
// What always holds:
//
//   - Nothing here changes an answer or waits in its way: Observe puts the question into a bounded
//     queue or counts it as dropped.
//   - The candidate has one goroutine, which rests so that it takes no more than a share of one
//     processor. A panic in it is a difference (fails). A question that it does not answer within
//     Config.Overrun ends the run, and the report says so.
//   - An example shows no more than the decision log would: Config.Mask has gone over it.
//   - A question is compared only if the generation that answered it is the one that the run began
//     against; others are counted as passed over.
//   - Memory is bounded: groups, examples in each, the queue, and who asked. Where there is no room,
//     the report says how many questions it leaves out.
//   - Counts are of questions, and one who asks often is counted often. Callers are of sources: one
//     is one of them, whatever it asks.
//
// A Tally is pure. What was counted lives in memory: it begins anew with the process.
package shadow
