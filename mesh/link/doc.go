// Package link carries everything between machines: authenticated QUIC
// connections over one UDP socket. It is the only importer of quic-go.
//
// # Two kinds of connection
//
//	ALPN                  shows and demands            made by           carries
//	bailiwick/1           node SVIDs                   [Link.Dial]       named streams and datagrams
//	bailiwick-tunnel/1    workload SVIDs (SNI picks)   [Link.DialTunnel] plain streams
//
// Both are TLS 1.3 as package identity makes it: the chain is verified in
// VerifyConnection, tickets are off and there is no 0-RTT, so no connection
// exists whose peer was not checked in its own handshake. A node connection
// also needs a node ID (identity.ParseNode) that Config.Authorize welcomes; a
// tunnel refuses node IDs and SPIRE's reserved /spire/ paths.
//
// # Wire format of bailiwick/1
//
// Each side opens one unidirectional stream, the hello, the dialler first:
//
//	version(1) = 1 | instance(16) | anything a later version appends
//
// instance is drawn at random when the process opens the link. The acceptor's
// hello is its consent: until it arrives, Dial has not succeeded. All other
// streams are bidirectional and start with
//
//	length(1) = 1..32 | protocol name of that many bytes from [a-z0-9./-]
//
// A datagram (RFC 9221) is protocol(1) | payload of at most [MaxDatagram] bytes.
//
// # What always holds
//
//   - One connection per peer is in use at any time. Of two that cross, both
//     ends keep the one that the smaller SPIFFE ID initiated; a peer that
//     re-dials later, or comes back as another process, replaces the old one. The
//     other is drained for a few seconds and closed.
//   - A connection ends, at the latest, when the first certificate of either
//     side expires, and within one [Link.Recheck] of losing its trust bundle or
//     its welcome. Both ends learn the reason (an application close code and a
//     text).
//   - Up and down of a peer alternate and are reported in order. Streams belong
//     to the connection they were opened on: after each up, open them again.
//   - [Conn.SendDatagram] never blocks and never dials.
//   - Whatever an unauthenticated address can make this side keep is bounded:
//     handshakes in flight in all and per address, with address validation
//     (RFC 9000 section 8.1.2) from a small number on.
//
// # What it does not do
//
// It does not decide who is welcome, retry a dial, close what nobody uses ([Conn.Idle]
// says for how long), pool tunnels, or say which
// node a workload SVID came from: Config.Authorize, the callers and package
// tunnel do.
package link
