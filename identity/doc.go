// Package identity holds a process's own SPIFFE credentials, verifies those of
// its peers, and says when to renew.
//
// # Peers
//
// [ServerTLS] and [ClientTLS] make the only TLS configurations that bailiwick
// uses between SPIFFE identities:
//
//   - TLS 1.3, post-quantum hybrid X25519MLKEM768 preferred;
//   - session tickets off: a resumed session would skip the check of the peer's
//     certificate, so one that is offered anyhow is refused ([ErrResumed]);
//   - the peer's chain is verified by go-spiffe (X509-SVID section 5: one URI
//     SAN, not a CA, chain to the trust bundle of its own trust domain) and then
//     authorised, in VerifyConnection, which crypto/tls runs for every
//     connection, resumed or not.
//
// Certificates come from sources, so rotation needs no new configuration. What
// changed since a handshake is seen by [VerifyPeer], which the owner of a live
// connection calls again when bundles, standing or the clock move.
//
// # Own credentials
//
// A [Credential] holds the current X509-SVID and tells who waits that it
// changed. A [Renewal] is a pure schedule.
//
// # Names
//
// A node is spiffe://<td>/node/<name> or spiffe://<td>/zone/<zone>/node/<name>;
// [ParseNode] reads one.
//
// Package identity opens no socket and keeps no file. The sub-packages issue
// (issuer, epoch), admit (trust) and fetch (spire, workloadapi).
package identity
