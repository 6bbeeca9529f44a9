// Package workloadapi serves the SPIFFE Workload API on a unix socket: local
// processes ask it who they are, and get their SVIDs and trust bundles, without
// showing a secret. Beside it is Envoy's secret discovery service.
//
// # Calls
//
//	FetchX509SVID      stream: SVIDs with keys and trust bundles, again at every change
//	FetchX509Bundles   stream: trust bundles, again at every change
//	FetchJWTSVID       a token of each identity, or of the one named, for an audience
//	FetchJWTBundles    stream: JWT keys, again at every change
//	ValidateJWTSVID    whether a token is good for an audience, and its claims
//	all others         Unimplemented, as the specification has it for absent profiles
//	StreamSecrets, FetchSecrets   Envoy's SDS v3, see below; DeltaSecrets Unimplemented
//	gRPC reflection    on
//
// The codes are those of the SPIFFE Workload API specification and of SPIRE's
// agent:
//
//	InvalidArgument    metadata "workload.spiffe.io: true" is not there exactly once;
//	                   no audience, a SPIFFE ID that is none, a token that is not valid
//	PermissionDenied   no identity is issued to the calling process, or it is not
//	                   the process that connected any more
//	Unavailable        the process cannot be attributed, the node has no
//	                   identities to give yet, they have all expired, or nobody in
//	                   reach signs a token
//
// # Secrets for Envoy
//
// A secret is a key with its chain, named by SPIFFE ID or "default" (the first
// identity), or the roots to verify peers by, named by the ID of a trust domain,
// "ROOTCA" (the region) or "ALL". No names subscribe to everything there is. One
// name that the caller has no right to fails the request with InvalidArgument, as
// spire-agent does. Roots need no identity: they are public.
//
// Roots come as Envoy's SPIFFE validator, which holds each trust domain to its own;
// as plain roots for Envoy before 1.18 and for nodes whose metadata says
// disable_spiffe_cert_validation.
//
// # What always holds
//
//   - Who calls is decided by the kernel's word on the socket (package caller),
//     never by what the caller says. It is looked at when it connects and again
//     before every message that is pushed.
//   - A process gets an identity only if all selectors of the identity's entry
//     are among the process's own ([Match]); no selectors match nobody.
//   - An expired SVID is never served.
//   - Of several identities with one hint, the first is served (Workload API
//     section 5.2.1: hints are unique).
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
