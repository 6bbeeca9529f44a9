package explain

import (
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control"
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
		Code: "BW1003", Is: control.ErrSocketBusy,
		Title:   "The control socket is in use",
		Meaning: "Another process answers on the socket this node should listen on, most likely the same node running already. It was left alone.",
		Fix:     "Stop the other process, or give this node a state folder and control.socket of its own.",
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
		Fix:     "List what there is: bailiwick quarantine list, bailiwick why last, bailiwick get. In a dev fleet, --node NAME asks one node only.",
	},
	{
		Code: "BW1010", Is: ErrNotNow,
		Title:   "The node cannot do this",
		Meaning: "The node was reached, and its role, its state or a bound forbids this now. Nothing was changed.",
		Fix:     "Act on the reason in the message: ask the node it names, or make the value fit.",
	},
}
