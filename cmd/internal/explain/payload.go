package explain

import "github.com/bailiwick-mesh/bailiwick/attest/trail/payload"

// payloads is BW2: what decisions were about, sealed and erased.
var payloads = []Entry{
	{
		Code: "BW2053", Is: payload.ErrOrder, Exit: Usage,
		Title:   "The order to erase is not complete",
		Meaning: "It does not say what is to be erased, until when, or why. Keys are of whole UTC days, so a time within a day cannot be met exactly.",
		Fix:     "Give --subject or --class, --reason, and for --before a day such as 2026-11-21.",
	},
	{
		Code: "BW2054", Is: payload.ErrHeld,
		Title:   "Nothing is erased under a legal hold",
		Meaning: "trail.hold is set in the node's configuration. While it is, nothing that was recorded goes, neither by age nor on demand. The hold is named.",
		Fix:     "Ask whoever ordered the hold. Once it ends, remove trail.hold, restart the node, and erase then.",
	},
	{
		Code: "BW2055", Is: payload.ErrErased,
		Title:   "The payload was erased",
		Meaning: "What the decision was about was erased: its key was destroyed. That it was decided, when and by which rule is still in the trail.",
		Fix:     "Nothing brings it back. The leaf payload.erase with that erasure says who erased it and why: bailiwick trail tail --kind payload.erase.",
	},
	{
		Code: "BW2056", Is: payload.ErrNoKey,
		Title:   "The payload is sealed, and its key is not here",
		Meaning: "What decisions were about is sealed under keys that stay on the node that recorded it. These are files of another node, or the keys went with their last segment.",
		Fix:     "Ask the node itself, or read its state folder with payload-keys in it.",
	},
	{
		Code: "BW2057", Is: payload.ErrBox,
		Title:   "A sealed payload was changed",
		Meaning: "A box does not open with its key: its bytes, or the decision it stands in, are not those that were sealed.",
		Fix:     "Run bailiwick trail verify: it says which segment is not the one in the trail. The node's custodians have copies of it.",
	},
	{
		Code: "BW2058", Is: payload.ErrKeys,
		Title:   "A file of payload keys is damaged",
		Meaning: "A file in payload-keys in the state folder is damaged before its end. The node does not start with it, because it cannot tell which keys were erased.",
		Fix:     "Put the file back from a copy of that folder, or move it away: what was recorded on that day cannot be read then; the trail is whole.",
	},
}
