// Package replay asks a policy again what was decided before, and says what it would decide
// otherwise.
//
// It takes the lines of a decision log (package decision), evaluates each recorded input with
// nothing remembered from one to the next, and compares:
//
//	changed    another answer, or another grant of state
//	by others  the same answer from another rule
//	skipped    what cannot be asked again, counted by reason: see the Skip constants
//
// Differences are grouped by what decided then and what decides now. A group keeps the first few
// decisions of it, in the order of the log.
//
// What always holds: a report depends on the lines and the policy only, not on how many workers
// there are; a recorded decision under the policy that made it is never different, because a
// decision depends on its input and the policy only. Lines are read by one goroutine and judged by
// several, in batches.
//
// The package reads no file and decides nothing for a node.
package replay
