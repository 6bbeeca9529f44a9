package explain

import "github.com/bailiwick-mesh/bailiwick/mesh/link"

// links is BW5: connections between nodes, and what they carry.
var links = []Entry{
	{
		Code: "BW5001", Is: link.ErrPortBusy,
		Title:   "The UDP address is in use",
		Meaning: "Another process holds the node's one UDP address. Nothing was started.",
		Fix:     "Find it with ss -ulpn and stop it, or change mesh.listen.",
	},
	{
		Code: "BW5002", Is: link.ErrWrongPeer, Exit: Denied,
		Title:   "Another identity answers at this address",
		Meaning: "The node there is genuine and not the one wanted. Nothing was sent to it.",
		Fix:     "Check mesh.join and mesh.gateways here and mesh.advertise there.",
	},
	{
		Code: "BW5003", Is: link.ErrPeerRefused, Exit: Denied,
		Title:   "The peer refused the connection",
		Meaning: "It answered and said no, for the reason in the message. This node tries again later.",
		Fix:     "Act on the reason: clocks, trust records, or this node's standing at the peer (bailiwick quarantine list --node PEER).",
	},
	{
		Code: "BW5004", Is: link.ErrUnauthorized, Exit: Denied,
		Title:   "The peer is not accepted here",
		Meaning: "This node refused the peer for the reason in the message. Nothing was served.",
		Fix:     "Run bailiwick why last and bailiwick quarantine list; if the peer should be accepted, correct policy or trust.records.",
	},
	{
		Code: "BW5005", Is: link.ErrOwnExpired,
		Title:   "The own certificate has expired",
		Meaning: "This node's SVID, or the workload's, is no longer valid, so no peer would accept it. State and keys are kept.",
		Fix:     "Check that an issuer of enrol.issuers can be reached, and this machine's clock (timedatectl).",
	},
	{
		Code: "BW5006", Is: link.ErrNoProtocol,
		Title:   "The peer does not serve this stream protocol",
		Meaning: "It is most likely an older version. The rest of the connection works.",
		Fix:     "Compare bailiwick version on both machines and upgrade the older one.",
	},
	{
		Code: "BW5007", Is: link.ErrProtocolName,
		Title:   "A stream protocol has an impossible name",
		Meaning: "A program used a name other than 1 to 32 bytes of a-z, 0-9, dot, slash and dash. Nothing was sent.",
		Fix:     "Report it with the log: it is a mistake in the program, not in the configuration.",
	},
	{
		Code: "BW5008", Is: link.ErrTooLarge,
		Title:   "The datagram is too large",
		Meaning: "It does not fit one packet and was not sent.",
		Fix:     "Send smaller datagrams, or use a stream.",
	},
	{
		Code: "BW5009", Is: link.ErrQueueFull,
		Title:   "The datagram queue is full",
		Meaning: "The peer is slower than its sender and a datagram was dropped, as any may be.",
		Fix:     "Nothing needs to be done; if it goes on, look at the link and the load of the peer.",
	},
	{
		Code: "BW5010", Is: link.ErrReset,
		Title:   "The peer reset the stream",
		Meaning: "It gave this one stream up. The connection and its other streams are healthy.",
		Fix:     "Try again; the peer's log says why.",
	},
	{
		Code: "BW5011", Is: link.ErrClosed,
		Title:   "The connection was closed",
		Meaning: "This side or the peer closed it for the reason in the message, such as a stop, an expiry or a change of standing.",
		Fix:     "Nothing needs to be done when a node stopped; it connects again by itself. Otherwise act on the reason.",
	},
	{
		Code: "BW5012", Is: link.ErrUnreachable, Exit: Unreachable,
		Title:   "The peer does not answer",
		Meaning: "Nothing answered in time, or the peer stopped answering. State for it waits and shows as debt; the node tries again by itself.",
		Fix:     "Check that the peer runs, its address, and that UDP passes between the two machines.",
	},
}
