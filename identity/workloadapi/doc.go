// Package workloadapi serves the SPIFFE Workload API on a unix socket: local
// processes ask it who they are, and get their X509-SVIDs and trust bundles,
// without showing a secret.
//
// # Calls
//
//	FetchX509SVID      stream: SVIDs with keys and trust bundles, again at every change
//	FetchX509Bundles   stream: trust bundles, again at every change
//	all others         Unimplemented, as the specification has it for absent profiles
//	gRPC reflection    on
//
// The codes are those of the SPIFFE Workload API specification and of SPIRE's
// agent:
//
//	InvalidArgument    metadata "workload.spiffe.io: true" is not there exactly once
//	PermissionDenied   no identity is issued to the calling process, or it is not
//	                   the process that connected any more
//	Unavailable        the process cannot be attributed, the node has no
//	                   identities to give yet, or they have all expired
//
// # What always holds
//
//   - Who calls is decided by the kernel's word on the socket (package caller),
//     never by what the caller says. It is looked at when it connects and again
//     before every message that is pushed.
//   - A process gets an identity only if all selectors of the identity's entry
//     are among the process's own ([Match]); no selectors match nobody.
//   - An expired SVID is never served.
//   - Answers carry the metadata "bailiwick-as-of", the time the node last heard
//     from an issuer: the socket also answers when there is none in reach.
//   - The socket is mode 0777 in a folder of mode 0755, as SPIRE's is: everyone
//     may ask. A socket file that nobody listens on is replaced, one that is
//     served by another process is left alone.
//
// Every trust bundle that the Source knows goes to every identity as federated:
// a region admits other regions as a whole, by its trust records.
//
// # What it does not do
//
// It issues nothing, renews nothing and keeps nothing: a [Source] does. By
// specification it hands out keys unencrypted, so a workload's key cannot live
// in a TPM.
package workloadapi
