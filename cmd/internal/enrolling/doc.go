// Package enrolling is how a node comes to its identity and keeps it: it attests with what the
// machine can prove, collects what an issuer of its region gives, keeps that on disk, and
// renews it for as long as the node runs.
//
//	credentials   the loop: what is due, wanted or asked for, and when a failed try is repeated
//	admission     an agent SVID: renewed with itself, or for evidence as it is now
//	methods       what the evidence is: a TPM, a DevID, a certificate, a join token
//	enrolment     all that goes with it: entries, SVIDs, JWT keys, epochs, trust records
//	holdings      what is held, as of one moment
//	vault, sealed what is held, on disk: encrypted, the key sealed to the TPM on demand
//	epochs        the epoch of the feed that is in use, and the spare one after a restored disk
//	trust_taken   trust records that come with an enrolment, a file or an operator
//	tokens, devid what is asked for on demand: JWT-SVIDs of local workloads, a DevID
//
// A node holds nothing at first; then an agent SVID, which only issuers see; then, by it, the
// node's SVID, those of its workloads, an endorsement where there is a TPM, and two epoch
// certificates, one in use and one spare. From there on it is renewed before it expires, or
// earlier where something Wants it; issuers that have news are Asked, and everything is
// collected again only if what they have is something else than what is held.
//
// What always holds: nothing is in force before it is on disk and the trail tells of it; what
// is held is given up for nothing but its successor, so that a failed step costs nothing but
// time; what can be had only once (a join token) is spent once, wherever the node is killed;
// a node writes in no epoch that another copy of its disk can have written in; a trust record
// counts only by the signatures of the global keys. However often it is told to, the node
// asks issuers no more often than the constants of credentials.go say.
//
// The package judges no evidence and issues nothing (identity/issuer), knows no peers, and
// has no opinion on trust beyond what identity/trust verifies. Its errors are ErrWrongNode and
// those of packages spire, machine and store.
package enrolling
