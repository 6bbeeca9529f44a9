// Package interop runs bailiwick against SPIRE itself: stock spire-server,
// spire-agent and spiffe-helper, built unchanged from their modules (folder
// stock), software TPMs, and go-spiffe on the workload's side.
//
// Its tests are a matrix. A cell is one member (a stock spire-agent, or our
// client identity/spire), one server (our issuer, or a stock spire-server) and
// one way to prove what machine it is. Every cell does the same: attest, sync
// entries, get an X.509-SVID and a JWT-SVID of a workload and verify both, renew
// everything several times. Further cells are about one thing each: a server
// that is killed, bans, pages of entries, the operator's socket, entries from
// files alone. `make interop` prints all of them at the end.
//
// Our issuer is `bailiwick run` with a configuration file, on keys, trust records
// and policy that `bailiwick trust` made and signed. Lifetimes are shorter than a
// configuration allows outside a dev trust domain.
//
// Both servers are told what to do through the same API on their unix socket, so
// a cell does not know which one it talks to.
//
// It is a module of its own, and stock is another, so that SPIRE's dependencies
// never come near the product's, nor ours near the binaries we compare with.
package interop
