package explain

import "github.com/bailiwick-mesh/bailiwick/mesh/tunnel"

// tunnels is the rest of BW5: workload traffic. tunnel.ErrUnreachable wraps why
// each owner could not be reached, so it comes last.
var tunnels = []Entry{
	{
		Code: "BW5013", Is: tunnel.ErrPortBusy,
		Title:   "A listener's address is in use",
		Meaning: "Another process holds the TCP address of a declared listener. Nothing was started.",
		Fix:     "Find it with ss -ltnp and stop it, or change the entry under listeners.",
	},
	{
		Code: "BW5014", Is: tunnel.ErrUnknownWorkload, Exit: Denied,
		Title:   "The local process is no known workload",
		Meaning: "No registration entry fits the process, so it has no identity to connect with. It was refused.",
		Fix:     "Add an entry with this node and selectors that hold for the process to a file of issuer.entries; the message has the process.",
	},
	{
		Code: "BW5015", Is: tunnel.ErrDenied, Exit: Denied,
		Title:   "Denied by policy",
		Meaning: "A rule of this node or of the far one denies the connection. Not a byte of it was passed on.",
		Fix:     "Run bailiwick why last on the node the message names for the rule, its file and line, and the input it saw.",
	},
	{
		Code: "BW5016", Is: tunnel.ErrNoService,
		Title:   "No such service",
		Meaning: "Nobody the node knows of has published a service by that name.",
		Fix:     "Check the name, <service>.<region>.mesh, in listeners, and that authority.services of that region lists it.",
	},
	{
		Code: "BW5017", Is: tunnel.ErrNoOwner, Exit: Unreachable,
		Title:   "The service has no owner that may be used",
		Meaning: "The service is known; the nodes that serve it are gone, stale or shut out.",
		Fix:     "Check that the workload runs beside a node that lists it under services, and bailiwick status and bailiwick quarantine list for that node.",
	},
	{
		Code: "BW5018", Is: tunnel.ErrNodeStatement, Exit: Denied,
		Title:   "The far node did not prove which node it is",
		Meaning: "Its statement does not verify for this connection. Nothing was served.",
		Fix:     "Compare versions and clocks of the two nodes; if both fit, treat the far node as hostile.",
	},
	{
		Code: "BW5019", Is: tunnel.ErrNodeRefused, Exit: Denied,
		Title:   "The far node is not accepted",
		Meaning: "It is proven and not welcome, or not the one that was chosen. Nothing was served.",
		Fix:     "Run bailiwick quarantine list here; if it is another node than expected, check the addresses in mesh.advertise.",
	},
	{
		Code: "BW5020", Is: tunnel.ErrWrongOwner, Exit: Denied,
		Title:   "Another process listens on the service's target",
		Meaning: "What listens is not the service's workload, so no connection was passed to it.",
		Fix:     "Find out who it is with ss -ltnp; correct target or workload under services, or the workload's entry.",
	},
	{
		Code: "BW5021", Is: tunnel.ErrNoTarget, Exit: Unreachable,
		Title:   "The service's target does not answer",
		Meaning: "The node does not serve the service, or nothing listens on its address.",
		Fix:     "Start the workload, or correct target under services on the node the message names.",
	},
	{
		Code: "BW5022", Is: tunnel.ErrBusy,
		Title:   "Too many connections",
		Meaning: "A limit of connections was reached and one more was not taken. Those open go on.",
		Fix:     "Close connections that are not used, or spread the callers over more nodes.",
	},
	{
		Code: "BW5023", Is: tunnel.ErrFrame,
		Title:   "A malformed message of a tunnel",
		Meaning: "A peer's message is malformed, too large or late. The connection was ended.",
		Fix:     "Compare bailiwick version on both machines and upgrade the older one.",
	},
	{
		Code: "BW5024", Is: tunnel.ErrCut,
		Title:   "The connection was cut",
		Meaning: "A change of standing, policy, trust or certificates ended it, or the node stops. The workload may connect again and is decided afresh.",
		Fix:     "Run bailiwick why last and bailiwick quarantine list to see what changed.",
	},
	{
		Code: "BW5025", Is: tunnel.ErrUnreachable, Exit: Unreachable,
		Title:   "No owner of the service could be reached",
		Meaning: "Every node that serves it was tried; the message has each one's reason.",
		Fix:     "Check that those nodes run (bailiwick status) and that UDP passes between the machines.",
	},
}
