package explain

import (
	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/app"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/authz"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/local"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/shipping"
)

// command is BW1: the command line, the configuration file, the control socket.
var command = []Entry{
	{
		Code: "BW1001", Is: ErrUnreachable, Exit: Unreachable,
		Title:   "The node does not answer",
		Meaning: "Nothing answers on the control socket. The node may be stopped, starting, or another one than you mean; if it runs, its traffic does not depend on this socket. \"Permission denied\" means that it runs as another user.",
		Fix:     "Start the node (bailiwick run, or bailiwick dev), or name the right one with --socket PATH or --node NAME. If it runs, be the user it runs as: the socket is for its owner only.",
	},
	{
		Code: "BW1002", Is: config.ErrMistakes, Exit: Usage,
		Title:   "The configuration has mistakes",
		Meaning: "The file was read and nothing of it is used. All mistakes are listed, each with its line, the field, what was found and what would be right.",
		Fix:     "Correct the listed fields and run bailiwick check config FILE until it finds no mistakes; deploy/config has a commented example.",
	},
	{
		Code: "BW1003", Is: local.ErrSocketBusy,
		Title:   "A local socket is in use",
		Meaning: "Another process answers on a socket this node should listen on, most likely the same node running already. It was left alone.",
		Fix:     "Stop the other process, or give this node a state folder and sockets of its own.",
	},
	{
		Code: "BW1014", Is: local.ErrGroup,
		Title:   "There is no such group on this machine",
		Meaning: "A field group names the group whose members may connect to a socket (control, policy.ext_authz, policy.authzen), and the system knows none of that name. The node did not start.",
		Fix:     "Make the group, give its number instead, or leave the field out.",
	},
	{
		Code: "BW1015", Is: app.ErrAdmin, Exit: Denied,
		Title:   "Policy does not let this program make this call",
		Meaning: "Every call of a node's API is put to policy (kind admin) with the caller's user and workload. As shipped root and the node's own user may make all, and others what admin.grants of the global policy's data gives them. Nothing was done, and the refusal is on record.",
		Fix:     "Run bailiwick why with the ID that the message ends in for the rule and line; call as the node's user, or have the call granted in the policy's data.",
	},
	{
		Code: "BW1016", Is: authz.ErrQuestion, Exit: Denied,
		Title:   "What a proxy asked cannot be decided",
		Meaning: "A question over ext_authz or AuthZEN names no service, no subject, or a path that can be read in two ways. It was answered by no, and is on record.",
		Fix:     "Give the route a context extension \"service\" or set policy.ext_authz.service; have the proxy verify its clients' certificates; have it normalize paths, merge slashes and refuse escaped ones.",
	},
	{
		Code: "BW1017", Is: bounded.ErrTooLarge, Exit: Usage,
		Title:   "A file is too large",
		Meaning: "A file that was named has more bytes than anything of its sort can have. It was not read to its end.",
		Fix:     "Check the path: the message names it, and the bound.",
	},
	{
		Code: "BW1018", Is: authz.ErrNotReady, Exit: Denied,
		Title:   "The node cannot answer a proxy yet",
		Meaning: "Somebody asked over ext_authz or AuthZEN before the node had an identity, or before it knew the authority record of its region. The answer was no, to Envoy as 503, and is on record.",
		Fix:     "Ask again: a node that starts needs a moment. If it lasts, bailiwick status tells what it waits for.",
	},
	{
		Code: "BW1019", Is: shipping.ErrRoots, Exit: Usage,
		Title:   "The file of roots for the log collector has no certificate",
		Meaning: "trail.otlp.roots names a file without a certificate in PEM, so the collector could not be told from somebody else. The node did not start.",
		Fix:     "Put the certificates of whoever signed the collector's into the file, or leave the field out for the system's roots.",
	},
	{
		Code: "BW1020", Is: shipping.ErrToken,
		Title:   "The log collector's token cannot be sent",
		Meaning: "trail.otlp.token_file holds no single line of visible characters. Nothing was sent; the trail waits on disk.",
		Fix:     "Write the token alone into the file. It is read again for the next request; the node need not be restarted.",
	},
	{
		Code: "BW1006", Is: config.ErrUnreadable,
		Title:   "The configuration cannot be read",
		Meaning: "The file is not there, is a folder, or is not for this user. Nothing was started.",
		Fix:     "Check the path, and who may read it. Without --config it is /etc/bailiwick/bailiwick.yaml; deploy/config/bailiwick.yaml is a commented example to begin with.",
	},
	{
		Code: "BW1007", Is: ErrRefused, Exit: Denied,
		Title:   "The node refuses",
		Meaning: "The node was reached, and its rules forbid what it was asked to do. Nothing was changed.",
		Fix:     "Do what the message says is allowed: a node writes only below its own path, and operators only kinds that begin with x-.",
	},
	{
		Code: "BW1008", Is: ErrRequest, Exit: Usage,
		Title:   "The node cannot take this request",
		Meaning: "The node was reached, and a part of the request is malformed. Nothing was changed.",
		Fix:     "Correct the part that the message names. Keys read /node/<name>/<kind>/<name>; IDs may be shortened to no less than four digits.",
	},
	{
		Code: "BW1009", Is: ErrNotThere,
		Title:   "There is no such thing here",
		Meaning: "The node, or every node of the dev fleet, was asked and none has this ID or key.",
		Fix:     "List what there is: bailiwick entry list, bailiwick quarantine list, bailiwick why last, bailiwick get. In a dev fleet, --node NAME asks one node only.",
	},
	{
		Code: "BW1010", Is: ErrNotNow,
		Title:   "The node cannot do this",
		Meaning: "The node was reached, and its role, its state or a bound forbids this now. Nothing was changed.",
		Fix:     "Act on the reason in the message: ask the node it names, or make the value fit.",
	},
	{
		Code: "BW1011", Is: provision.ErrOtherRegion,
		Title:   "The folder holds the keys of another region",
		Meaning: "bailiwick trust init was told to complete a folder whose keys are of another trust domain, or issuer.keys of a node is such a folder. Nothing in it was changed, and the node did not start.",
		Fix:     "Give each region a folder of its own, or the trust domain that the message names.",
	},
}
