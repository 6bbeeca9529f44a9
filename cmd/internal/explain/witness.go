package explain

import "github.com/bailiwick-mesh/bailiwick/attest/trail/witness"

// witnesses is what may be wrong with cosignatures of trails, in BW2.
var witnesses = []Entry{
	{
		Code: "BW2027", Is: witness.ErrRoster,
		Title:   "Not a roster of witnesses",
		Meaning: "The file is not in a roster's only spelling, one line of witness, SPIFFE ID and verifier key for each node in the order of the IDs, or gives a node a key that is not its own. Nothing was judged by it.",
		Fix:     "Take the file from the folder trail/rosters of a node's state folder, whole; a roster cannot be edited, for heads name its hash.",
	},
	{
		Code: "BW2028", Is: witness.ErrKey,
		Title:   "Not this node's witness key",
		Meaning: "Witnesses cosign with Ed25519 keys (C2SP signature type 0x04) that are named after their node; the key given is another kind, or another node's.",
		Fix:     "Copy the key again, whole, from the node's signed record; if a node shows such a key itself, bring it to this version.",
	},
	{
		Code: "BW2029", Is: witness.ErrCosignature,
		Title:   "Not a cosignature of this head by this witness",
		Meaning: "A line below a head is malformed, by another key, or about another head. It counts for nothing; others may still make the head witnessed.",
		Fix:     "Get the head again from the node. If lines that were good before are not now, treat the file as changed.",
	},
	{
		Code: "BW2030", Is: witness.ErrWire,
		Title:   "Not a message between a node and its witnesses",
		Meaning: "A peer sent something that is no request or answer of C2SP tlog-witness. Nothing was cosigned or believed.",
		Fix:     "Bring both nodes to the same version; if they are, look at that peer.",
	},
	{
		Code: "BW2031", Is: witness.ErrConflict,
		Title:   "Two heads that do not contradict each other",
		Meaning: "What was given as proof of a forked trail shows no second history: the heads agree, are of different sizes with a proof that says nothing, or are too large. Nobody is accused by it.",
		Fix:     "Nothing is to be done about the accused; look at the node that carried it.",
	},
}
