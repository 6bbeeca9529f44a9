package explain

import (
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// quarantined is BW8: peers that are shut out, and the evidence against them.
// quarantine.ErrEvidence wraps what gossip/feed found wrong with a proof.
var quarantined = []Entry{
	{
		Code: "BW8002", Is: quarantine.ErrEvidence,
		Title:   "The evidence does not verify",
		Meaning: "Bytes offered as evidence are too large or prove nothing. They convict nobody; a node that signed its name to them accuses itself.",
		Fix:     "Look at who offered it with bailiwick quarantine list; do not act on the accusation.",
	},
	{
		Code: "BW8003", Is: quarantine.ErrNoEvidence,
		Title:   "The evidence is not kept on this node",
		Meaning: "The finding is known by its digest only: its bytes were over what one node keeps. The standing holds all the same.",
		Fix:     "Ask another node of the region, or the finder: bailiwick quarantine show ID --node NAME.",
	},
	{
		Code: "BW8004", Is: quarantine.ErrNoCase,
		Title:   "Nothing is known against this identity",
		Meaning: "This node holds no finding, release or revocation for the SPIFFE ID.",
		Fix:     "Check the spelling against bailiwick quarantine list. Another region keeps its own cases; ask a node there.",
	},
	{
		Code: "BW8005", Is: quarantine.ErrForeign, Exit: Denied,
		Title:   "Quarantine does not cross regions",
		Meaning: "Somebody sent a finding, release or revocation about an identity of another trust domain. It was refused and changed nothing; the sender is at fault.",
		Fix:     "Send it to a node of the region the identity belongs to.",
	},
	{
		Code: "BW8006", Is: quarantine.ErrFull,
		Title:   "The quarantine set is full",
		Meaning: "A bound of the set is reached and the new fact was not kept. No healthy fleet gets here, so something fills it on purpose; what is held goes on being enforced.",
		Fix:     "Find the finder of most cases with bailiwick quarantine list -o json and have the region's authority deal with it first.",
	},
	{
		Code: "BW8007", Is: quarantine.ErrMalformed,
		Title:   "Not a case, release or revocation",
		Meaning: "The bytes are damaged or were made by another version. Nothing was changed.",
		Fix:     "Get the file again from where it was made, and check that both nodes run the same version.",
	},
	{
		Code: "BW8008", Is: quarantine.ErrAccusation,
		Title:   "The accusation does not count",
		Meaning: "A node's word that another is at fault is malformed, about itself, or dated in the future. It changed nothing, and nobody's standing rests on it.",
		Fix:     "Look at the clock and the version of the accuser: bailiwick status --node NAME.",
	},
	{
		Code: "BW8009", Is: quarantine.ErrAppeal,
		Title:   "The appeal is not taken",
		Meaning: "Only a node that is quarantined has something to appeal against; its note has a bound, and a new one is heard a minute after the last. Nothing was changed.",
		Fix:     "See bailiwick quarantine list at the authority for the node's standing; say it in at most 1 KiB, once.",
	},
	{
		Code: "BW8010", Is: quarantine.ErrApprovals, Exit: Denied,
		Title:   "The release is not approved by enough of the region's approvers",
		Meaning: "The region's trust record names approvers, and a release needs the signatures of as many different ones as it says, beside the authority's. This one has fewer that count: nobody is let back in by it, at any node.",
		Fix:     "Make a draft, bailiwick quarantine release ID --reason TEXT --out FILE; have those that the message names as missing sign it, bailiwick quarantine sign FILE --key KEY; hand it in, bailiwick quarantine release --file FILE. If nobody here made it, the authority's key may be stolen: replace it.",
	},
	{
		Code: "BW8011", Is: quarantine.ErrDraft,
		Title:   "The draft of a release cannot be used",
		Meaning: "It is damaged, its time is over, or the node was given epochs or another release since it was made, so that its approvers signed something else than what is so now. Nothing was signed.",
		Fix:     "Make it anew: bailiwick quarantine release ID --reason TEXT --out FILE, with more time for the approvers if they need it (--within).",
	},
	{
		Code: "BW8012", Is: quarantine.ErrSegment, Exit: Usage,
		Title:   "Not a part of a node's state that can be kept out",
		Meaning: "A part is a kind of the operators', x-route say, one key of it, x-route/north, or all that begin so, x-route/no*; at most 64 of a node, and only what is kept out can be let back in. What the sidecar says of its node is no part: it is the node. Nothing was signed.",
		Fix:     "bailiwick get KEY shows how keys are named; the part is what comes after the node's name. To shut out the node itself: bailiwick quarantine revoke.",
	},
	{
		Code: "BW8013", Is: quarantine.ErrSegmented, Exit: Denied,
		Title:   "The region's authority keeps this part of the node's state out",
		Meaning: "What is written there counts at no node of the region, so it was not written. The rest of this node's state is as ever.",
		Fix:     "bailiwick quarantine history with the node's SPIFFE ID says why. Once that is mended, the authority lets the part back in: bailiwick quarantine segment ID PREFIX --lift --reason TEXT.",
	},
}
