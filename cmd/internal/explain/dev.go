package explain

import fleet "github.com/bailiwick-mesh/bailiwick/cmd/internal/dev"

// dev is BW9: the fleet of `bailiwick dev`.
var dev = []Entry{
	{
		Code: "BW9001", Is: fleet.ErrNoFleet,
		Title:   "There is no dev fleet here",
		Meaning: "Neither this folder nor one above it has the state of a dev fleet.",
		Fix:     "Change to the project's folder, or make a fleet here with bailiwick dev.",
	},
	{
		Code: "BW9002", Is: fleet.ErrMoved,
		Title:   "The dev fleet was moved here",
		Meaning: "The folder was moved or copied after its fleet was made, and the paths in it lead elsewhere. Nothing was changed.",
		Fix:     "Move the folder back, or remove .dev by hand and run bailiwick dev for a new fleet.",
	},
	{
		Code: "BW9003", Is: fleet.ErrDamaged,
		Title:   "The dev fleet is damaged",
		Meaning: "A file below .dev is not what bailiwick dev wrote there.",
		Fix:     "Run bailiwick dev clean, or where that fails too, remove .dev by hand.",
	},
	{
		Code: "BW9004", Is: fleet.ErrRunning,
		Title:   "The dev fleet is running already",
		Meaning: "A fleet of this folder is up. It was left alone.",
		Fix:     "Use it (bailiwick status), or end it first with bailiwick dev stop.",
	},
	{
		Code: "BW9005", Is: fleet.ErrNotRunning, Exit: Unreachable,
		Title:   "The dev fleet is not running",
		Meaning: "Its state is here and its processes are not.",
		Fix:     "Start it with bailiwick dev, or bailiwick dev --detach to get the terminal back.",
	},
	{
		Code: "BW9006", Is: fleet.ErrNotUp,
		Title:   "The dev fleet did not come up",
		Meaning: "A part of it was missing when the time was over; the message says which part of which node.",
		Fix:     "Read that node's log file below .dev/nodes, then run bailiwick dev stop and start it again.",
	},
	{
		Code: "BW9007", Is: fleet.ErrUnknownNode, Exit: Usage,
		Title:   "No such node in the dev fleet",
		Meaning: "The name is none of the fleet's; the message lists them.",
		Fix:     "Use a name of the list, for example east-n2.",
	},
	{
		Code: "BW9008", Is: fleet.ErrUnknownRegion, Exit: Usage,
		Title:   "No such region in the dev fleet",
		Meaning: "The label is none of the fleet's.",
		Fix:     "Use east or west.",
	},
	{
		Code: "BW9009", Is: fleet.ErrAccepted,
		Title:   "The tampered node attested all the same",
		Meaning: "The region's issuer took evidence that it should have refused: a check is missing or a policy allows too much.",
		Fix:     "Look at the attest rules of the fleet's policy and at tpm.boot_log of the node; if they are the shipped ones, report it with the issuer's log.",
	},
	{
		Code: "BW9010", Is: fleet.ErrNobodyHonest,
		Title:   "Nobody is left to lie to",
		Meaning: "No other node of the region runs, so an equivocation would reach nobody.",
		Fix:     "Start the others with bailiwick dev --detach, or poison a node of the other region.",
	},
	{
		Code: "BW9011", Is: fleet.ErrNotContained,
		Title:   "The fleet did not contain the poisoned node",
		Meaning: "Some honest node did not shut the liar out in time, or somebody was shut out who had not lied; the message names it.",
		Fix:     "Report it with the log files below .dev/nodes: this is the promise the fleet must keep.",
	},
	{
		Code: "BW9012", Is: fleet.ErrShutOut, Exit: Denied,
		Title:   "Nobody listens to this node any more",
		Meaning: "The node is quarantined already: whoever speaks in its name is refused. It was left alone.",
		Fix:     "See bailiwick quarantine list. Let it back in with bailiwick quarantine release ID --reason TEXT and start it with bailiwick dev --detach, or poison another node.",
	},
	{
		Code: "BW9013", Is: fleet.ErrUnnoticed,
		Title:   "A peer did not notice the tampered machine",
		Meaning: "Three intervals after its TPM was tampered with, a node of the region still takes the machine for good: no new evidence reached it, or it was accepted.",
		Fix:     "See bailiwick attest show and bailiwick attest explain NODE on the peer the message names; if the evidence is new and accepted, report it with the log files below .dev/nodes.",
	},
}
