// Package reach computes who can reach what: the matrix of callers and services, with the rule
// that decides each cell.
//
// It is made of a Roster, which says who is where, and of policy, which is asked the same questions
// as on the data path: a connection is decided twice, by the caller's node when its workload dials
// and by the service's node when it accepts. Each question is asked of the policy of the node that
// would decide it (Policies).
//
// A cell sums up all pairs of a node that the caller runs on and a node that serves:
//
//	yes    both ends allow every pair
//	no     one end at least denies every pair
//	some   some pairs are allowed and others are not
//	half   nothing that is known here denies, and the policy of one end is not known here
//
// What always holds: a cell is never yes unless both ends said so of every pair; a matrix is
// complete or it is an error; the same roster and policy give the same matrix.
//
// A Roster is also a file, JSON with no other fields than those of the types, which a node exports
// and an author may write by hand. A caller without nodes is asked about as if it ran on a node that
// is attested and in good standing; so is a service. Then the matrix says what policy means, not
// what a fleet is like.
//
// Package reach does not say whether packets get through, and records none of its decisions. HTML
// and SVG draw a matrix; the files need nothing else, say in words all that they say in colour, and
// follow the reader's choice of light or dark.
package reach
