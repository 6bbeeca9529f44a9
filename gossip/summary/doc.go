// Package summary carries what one region tells the others: a signed summary by
// a gateway, and the statements of the region's authority.
//
// A carried summary is deterministic CBOR, at most 15 KiB:
//
//	{1: epoch certificate of the gateway (DER), 2: statement "summary/1"}
//
// The statement is signed with the gateway's epoch key in the gateway's trust
// domain. Its payload is
//
//	{1: region label, 2: gateway SPIFFE ID, 3: epoch, 4: number, 5: time (Unix ms),
//	 6: {standing: nodes}, 7: [service...], 8: frontier root, 9: policy revision,
//	 10: nodes that do not enforce the newest policy for them; absent: none}
//	service = {1: name, 2: [workload SPIFFE ID...], 3: [{1: node SPIFFE ID, 2: "ip:port"}...], 4: healthy}
//
// # Why a statement and not a second feed
//
// A feed is a chain: to believe its head one needs the records before it, and
// its owner must keep them. A region's summary has no history worth that. Only
// the newest counts, it replaces the one before entirely, and it has to be
// believed by nodes that never meet the gateway, after any number of relays. So
// it carries its own certificate, verifies alone wherever it is found, and a
// lost one costs nothing. Inside the receiving region its gateway puts the
// bytes, unchanged, as a value under its own key, and the ordinary feed does the rest.
//
// Order is (epoch, number): numbers grow with each summary, also over restarts,
// so an old summary never replaces a newer one. Two summaries of one gateway,
// epoch and number that differ are kept out and counted.
//
// # Session
//
// Two gateways of different regions hold one stream, both sides alike:
//
//	frame   = kind [1]byte | length [4]byte, big-endian, at most 64 KiB | body
//	kind 1  a carried summary of the sender's region
//	kind 2  ack: {1: gateway, 2: epoch, 3: number}, the newest accepted of the receiver's
//	kind 3  a statement of the sender's authority, opaque here
//
// A side sends its newest summary when it changes and every 2 s; each has a new
// number. Summaries that a peer has not acknowledged are the debt towards it,
// which grows during a cut and drains with the first ack after it.
//
// What always holds: a summary names only identities of its own trust domain,
// and one is accepted only from a gateway of that trust domain, so no region
// speaks for another. Everything from outside is bounded before it is parsed.
// Package summary does not decide whether a statement is to be believed, nor
// act on a summary.
package summary
