package explain

import "github.com/bailiwick-mesh/bailiwick/policy/authority"

// authorities is the part of BW7 about what authorities sign and give out.
var authorities = []Entry{
	{
		Code: "BW7023", Is: authority.ErrEpochState,
		Title:   "What is stored about epochs is damaged",
		Meaning: "No epoch is given out until it is put right: a guess could give one out twice. Nodes go on with the epochs they have.",
		Fix:     "Keep <state>/state.db, and restore the authority's store from its newest copy only together with a higher epoch floor.",
	},
	{
		Code: "BW7024", Is: authority.ErrEpochRequest, Exit: Denied,
		Title:   "The epoch request is out of bounds",
		Meaning: "It asks for more epochs than a node may have ready, or for none. No epoch was spent.",
		Fix:     "Check that node and authority run the same version; if they do, report it with both logs.",
	},
	{
		Code: "BW7025", Is: authority.ErrSigner, Exit: Denied,
		Title:   "The authority object is not signed by an authority of its level",
		Meaning: "No key this node trusts for the level signed it. It was kept out.",
		Fix:     "Put the region's newest trust record into trust.records; if it is the newest, the sender is at fault.",
	},
	{
		Code: "BW7026", Is: authority.ErrForeign, Exit: Denied,
		Title:   "The authority object names an identity of another region",
		Meaning: "An authority decides about its own trust domain only. The object was kept out.",
		Fix:     "Use SPIFFE IDs of the region's own trust domain under authority.services.",
	},
	{
		Code: "BW7027", Is: authority.ErrRollback,
		Title:   "The authority object is older than the one held",
		Meaning: "A late relay does this in good faith. The newer one stays.",
		Fix:     "Nothing needs to be done; if the authority itself says it, its store was restored from a copy.",
	},
	{
		Code: "BW7028", Is: authority.ErrJump, Exit: Denied,
		Title:   "The authority object's version jumps too far",
		Meaning: "It is more than 1000 ahead of the one held and does not name it as its parent. It was kept out.",
		Fix:     "Offer the versions between; if the authority's key may be stolen, replace it.",
	},
	{
		Code: "BW7029", Is: authority.ErrBookFull,
		Title:   "The authority book is full",
		Meaning: "There is no room for one more object. Those held stay in force.",
		Fix:     "Remove service names that are not used from authority.services.",
	},
	{
		Code: "BW7030", Is: authority.ErrOrigin,
		Title:   "The authority does not know its own node",
		Meaning: "Its SPIFFE ID is missing or not of the region's trust domain. Nothing was signed.",
		Fix:     "Set node to an ID of the trust domain whose authority keys this node holds.",
	},
	{
		Code: "BW7031", Is: authority.ErrLevel, Exit: Usage,
		Title:   "Unknown authority level",
		Meaning: "A level is none of global, regional, local and autonomous.",
		Fix:     "Write one of the four.",
	},
	{
		Code: "BW7032", Is: authority.ErrMalformed,
		Title:   "Malformed authority object",
		Meaning: "The bytes are no authority object, or break its bounds. They were kept out.",
		Fix:     "Check that both nodes run the same version; get the object again from the authority.",
	},
	{
		Code: "BW7034", Is: authority.ErrEpochRate, Exit: Denied,
		Title:   "Too many new epochs for this node",
		Meaning: "Beside its first, a node gets new epochs at most 4 times an hour and 12 times a day: after a restored disk, a new feed key or a cleared TPM. It asked more often. No epoch was spent, and those it has stay good.",
		Fix:     "Find out why it asks: a disk image that is put back at every start, or a node that is not what it should be. It gets more at the time in the message; after a finding, bailiwick quarantine release ID gives it new ones at once.",
	},
	{
		Code: "BW7069", Is: authority.ErrRepeat, Exit: Denied,
		Title:   "The node was released before",
		Meaning: "It was convicted, let back in, and is convicted again. A backup that is put back by accident explains the first time. Nothing was signed.",
		Fix:     "Look at bailiwick quarantine history ID and at the machine. If it is to come back all the same: bailiwick quarantine release ID --again --reason TEXT; else bailiwick quarantine revoke ID --reason TEXT.",
	},
	{
		Code: "BW7070", Is: authority.ErrRevoked, Exit: Denied,
		Title:   "The identity is revoked for good",
		Meaning: "A revocation is the authority's last word: no release, no later proof and no other node ends it.",
		Fix:     "Enrol the machine under another name, once it is sound: another name in bailiwick entry apply -f FILE, and an empty state folder.",
	},
	{
		Code: "BW7071", Is: authority.ErrOwnNode, Exit: Denied,
		Title:   "The authority does not revoke or roll back its own node",
		Meaning: "With its node revoked nobody would be left to speak for the region; with its records hidden nobody would hear it, and nobody could undo either. Nothing was signed.",
		Fix:     "Make another node the region's authority first: move the folder of authority.keys, and its state, to it.",
	},
	{
		Code: "BW7072", Is: authority.ErrPlace,
		Title:   "There is no such place to roll back to",
		Meaning: "A rollback names a record that is held and has others after it, in an epoch that the node was given. What a snapshot has superseded is gone, so nobody could show it. Nothing was signed.",
		Fix:     "The message says which records are held. bailiwick describe KEY tells where a key was written; --epoch chooses an earlier epoch.",
	},
}
