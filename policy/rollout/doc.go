// Package rollout decides, on each node for itself, when a new version of a policy is put in force.
//
// A policy record may carry a Plan: rings of nodes that go first, one after the other, each for a
// soak time before the next. Whoever is in no ring goes last. Nobody leads: every node publishes a
// Report of its own, reads those of its region and moves by the same rules (Next). The phases of a
// node, for one record:
//
//	waiting    the version before is in force, the new one is in its shadow
//	enforcing  the new one is in force, the one before is in its shadow
//	stopped    the version before is in force; only a newer version ends that
//
//	waiting -> enforcing    every ring before the node's own has soaked, and nobody says stopped
//	waiting -> stopped      the new version would deny or fail too much, measured here
//	enforcing -> stopped    the new version denies or fails too much, measured here
//
// A ring has soaked when all its members that are heard have enforced the version for Plan.Soak,
// and one at least has. Each measures that for itself, while it runs and by its steady clock, and says
// when it is over: no clock that is set, neither a member's nor a reader's, makes it shorter. What a member
// has enforced counts again after its restart, but for the last minute. A ring of which nobody is heard blocks, and so does one that no known node of
// the scope is in: what nobody has tried is no evidence.
//
// What always holds:
//
//   - A node goes back by its own measurements only. Another's stop keeps those that wait waiting,
//     and moves nobody who enforces: one lying node can delay a version, under its own name and while
//     it is heard, and can take none back. It does so as well by saying that it waits, or anew that it
//     begins. Whoever does not wait for it publishes a newer version that has no plan, or shuts the
//     node out where its ring has others.
//   - Limits are held against the sources of each kind of question, not against decisions: who was
//     denied, or failed, at least once, of all who asked. One source alone stops nothing, whatever it
//     asks and how often; otherwise whoever is being revoked takes the revocation back. A version
//     that is to deny several says so by Limits.DeniedPercent, or has no plan.
//   - What is not heard moves nothing: a node that is cut off, or knows that it lacks state of
//     others, keeps what it has in force, unless it is in the first ring.
//   - A node that was away keeps no version that was withdrawn until the ring of the next one begins: what
//     the newest overtook comes to it beside the newest. What has no plan it enforces when it comes; what has
//     one, once most others do (Settled).
//   - Stopped is final for a record. Whoever wants to go on publishes a newer version.
//   - Without a version before there is nothing to keep, and a node enforces at once.
//   - Next depends on its arguments only. Rings are told by signed facts, and percent by a hash of node
//     and version: a node is in the same ring of a version wherever the same nodes are known. Who else is
//     known matters only where a percentage would draw nobody: then the closest goes.
package rollout
