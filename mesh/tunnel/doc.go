// Package tunnel carries the traffic of workloads between nodes: a TCP
// connection that a local process opens to a declared listener comes out at the
// local address of the service's owner, after both ends have said yes.
//
// # The way of one connection
//
//	source                                        destination
//	accept on a listener
//	attribute the client's socket to a process
//	process -> workload SVID
//	service -> owners, nearest first
//	decide "dial"
//	pooled tunnel to (owner, node) ............... SNI -> workload SVID
//	node statement  --------------------------->  verify, node's standing and zone
//	verify          <---------------------------  node statement
//	open header     --------------------------->  decide "accept"
//	                                              dial the local target, attribute its socket:
//	                                              it must be the workload of the SVID
//	bytes           <--------------------------   status
//
// An owner on the same node is reached without a tunnel; both decisions are made
// all the same.
//
// # Wire format
//
// A tunnel is a connection of mesh/link under ALPN bailiwick-tunnel/1, with a
// workload SVID at each end; the SNI is the service's name. It is shared by all
// connections of one (source workload, destination workload, node). All messages
// are frames:
//
//	length(2, big-endian) | deterministic CBOR (package statement) of that length
//
// The dialler's first stream carries one frame each way, the dialler's first: the
// node statement, at most [MaxNodeFrame] bytes.
//
//	{1: [chain of the node's SVID, leaf first, each DER], 2: COSE_Sign1,
//	3: endorsement of its attestation (absent when there is none)}
//
// The endorsement is opaque here: it names the node's key, so it need not be
// part of what is signed. The COSE_Sign1 has type "node-statement" version 1 in
// the trust domain of the node, is signed with the key of the node's SVID, and
// has this payload, of which the reader knows every byte:
//
//	{1: side (1 dialler, 2 acceptor), 2: TLS exporter (32 bytes, label
//	"EXPORTER-bailiwick-node-statement", no context), 3: SHA-256 of the dialler's
//	leaf, 4: SHA-256 of the acceptor's leaf}
//
// Every other stream is one TCP connection. It begins with one frame each way, of
// at most [MaxFrame] bytes, and is opaque from there on:
//
//	open    {1: service, 2: traceparent (W3C), 3: ID of the source's decision}
//	status  {1: code, 2: decision ID, 3: rule, 4: text}
//
// with the codes 0 ok, 1 denied (2 and 3 are the destination's), 2 no target, 3
// wrong owner, 4 busy. The source may send bytes before the status; the
// destination passes none on before it has sent "ok". End of data is the end of
// the stream's direction, a TCP reset is a stream reset, and back-pressure is
// flow control.
//
// # What always holds
//
//   - Nothing is served on a tunnel before the far node's statement verified and
//     [Config.Node] welcomed it. Node and workload are of one trust domain; a
//     workload under /zone/<z>/ speaks only from a node of that zone; the dialler
//     reaches the node and workload it chose and no other.
//   - A local socket that cannot be attributed, or whose process has no SVID, is
//     refused.
//   - Every connection is decided at both ends, by [Config.Decide], which records
//     before it answers; no byte of the client reaches the target before.
//   - A refused connection is reset, so that the client knows at once, and is
//     told to [Config.Refused]. Other owners are tried only while no byte has
//     gone to a target, and never after a denial.
//   - [Proxy.Cut] ends every tunnel and connection of a node before it returns,
//     those being made included. [Proxy.Recheck] asks everything again. A tunnel
//     ends when a certificate of it, or of its two nodes, does.
//   - The node key signs once per tunnel and side, never per connection: it may
//     be in a TPM, where signing takes up to a second.
//
// # What it does not do
//
// It does not look into the bytes. It does not tell services from addresses:
// listeners are declared. UDP, bulk lanes and transparent redirection are other
// ways in.
package tunnel
