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
		Meaning: "Nothing answers on the control socket. The node may be stopped, starting, or another one than you mean; if it runs, its traffic does not depend on this socket.",
		Fix:     "Start the node (bailiwick run, or bailiwick dev), or name the right one with --socket PATH or --node NAME. If it runs, use the user it runs as: the socket is for its owner only.",
	},
	{
		Code: "BW1002", Is: config.ErrMistakes, Exit: Usage,
		Title:   "The configuration has mistakes",
		Meaning: "The file was read and nothing of it is used. All mistakes are listed, each with its line, the field, what was found and what would be right.",
		Fix:     "Correct the listed fields and run bailiwick check config FILE until it is silent; deploy/ has a commented example.",
	},
	{
		Code: "BW1003", Is: control.ErrSocketBusy,
		Title:   "The control socket is in use",
		Meaning: "Another process answers on the socket this node should listen on, most likely the same node running already. It was left alone.",
		Fix:     "Stop the other process, or give this node a state folder and control.socket of its own.",
	},
}
