// Package governing is the policy of a node while it runs: which signed records it holds, which are in
// force, and what comes beside and after them.
//
//	Policies    what is held and in force. A record comes by file, by an operator's hand or by signed
//	            state; whichever way, it is verified, compiled beside what is in force, kept with its
//	            trail leaf, and then put in force
//	Rolling     takes staged records forward, ring by ring, by what it measures and what others say
//	Shadowing   compares an operator's candidate with what is in force
//	Floors      holds a node that joins to what its issuer proves to be in force
//
// A held record is one of:
//
//	in force -> was in force      a newer one took its place; two of each scope stay held, to go back to
//	staged   -> in force          its ring came, or others enforce it
//	staged   -> stopped           it denied or failed more than its plan lets it
//	in force -> stopped           likewise, while it soaks; or the engine took it out of force
//	held                          it is for another scope, which this node passes on
//
// What always holds:
//
//   - When any step fails nothing has changed: not the disk, not what is in force.
//   - What is about to be in force is recorded before it is (decision.Change).
//   - No version goes back: an older content comes as a newer version. Of two records of one version
//     the same one is in force everywhere (bundle.Book).
//   - Where the engine goes back by itself, what is said to be in force follows it.
//
// It sends and asks nothing: how records come and go is package travel's, and the fleet is what Fleet says.
package governing
