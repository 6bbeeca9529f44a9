// Package why explains one decision: which rule decided, what of the other rules did not hold, and
// what would have to be different for another answer.
//
// Explain asks a policy the recorded question once more and follows every rule to the condition at
// which it ended. Then it looks for the smallest change of the input that turns the answer round:
// one part of the input that the rules read, or two, each set to a value the policy itself mentions
// or that is known of such a part. Every candidate is put to the whole engine, with all levels and
// their delegations, so a change that is told is one that works. That none is told does not mean
// that there is none: the search is bounded, and says how much it tried.
//
// A change of the input is no instruction: it says what policy hangs on, for who may change it (the
// caller, the service or the policy).
//
// The package is pure: it reads no file and prints nothing.
package why
