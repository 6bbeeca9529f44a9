package explain

import (
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/custody"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/casefile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/index"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/beside"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
)

// auditing is BW2: what auditors ask of trails. It comes before storage, whose errors it wraps.
var auditing = []Entry{
	{
		Code: "BW2036", Is: casefile.ErrContainer,
		Title:   "Not a case file",
		Meaning: "The file is no zip in the one form that trail export writes: it was changed, cut off, or packed again by another program. Nothing in it was believed.",
		Fix:     "Get the file again, byte for byte, from whoever made it. Do not unpack and pack it on the way.",
	},
	{
		Code: "BW2037", Is: casefile.ErrDigest,
		Title:   "An entry of the case file was changed",
		Meaning: "An entry is not the one that SHA256SUMS in the case file lists. Nothing in the file was believed.",
		Fix:     "Get the file again from whoever made it. If it is the same there, it was tampered with: ask for the trail itself.",
	},
	{
		Code: "BW2038", Is: casefile.ErrEntry,
		Title:   "An entry does not belong to the case file",
		Meaning: "An entry is missing, is not what its name says, or is named by no leaf in the file: a policy, an input or a proof that the trail does not tell of.",
		Fix:     "Have the case file made again with bailiwick trail export. If that is refused as well, do not rely on what was added.",
	},
	{
		Code: "BW2039", Is: casefile.ErrTrust, Exit: Usage,
		Title:   "Not a trust file",
		Meaning: "The file given with --trust does not say whom to believe.",
		Fix:     "Correct the field named, or write one where you trust the configuration: bailiwick trail verify DIR --config FILE --save-trust trust.json.",
	},
	{
		Code: "BW2040", Is: casefile.ErrKey,
		Title:   "Nobody vouches for the trail key",
		Meaning: "The leaves fit the head, but nothing that you trust says that the key of the head is the node's: anybody could have made such a trail.",
		Fix:     "Use a trust file with the global keys of that fleet. A trail whose key is kept in software has no endorsement: verify it where it is, with --save-trust, and use that file.",
	},
	{
		Code: "BW2041", Is: casefile.ErrFork,
		Title:   "The trail key signed two histories",
		Meaning: "The head in the case file and the one that the trust file remembers have one size and different roots. Both are signed by the trail key, so its holder kept two histories.",
		Fix:     "Keep both files: together they are the proof. Treat the node as compromised.",
	},
	{
		Code: "BW2042", Is: casefile.ErrReport,
		Title:   "The report says something else than the case file",
		Meaning: "report.html is not what this version writes from the other entries, although this version is said to have written it. The leaves may be good all the same; the page is not.",
		Fix:     "Do not read that page. Write it from the entries: bailiwick trail verify FILE.zip --trust trust.json --report case.html.",
	},
	{
		Code: "BW2043", Is: casefile.ErrMissing,
		Title:   "A leaf of the span is missing",
		Meaning: "The case file is for every leaf of a span of time, and one of them is not in it.",
		Fix:     "Have it made again with bailiwick trail export --from --to. Who left it out did so on purpose: the program does not.",
	},
	{
		Code: "BW2044", Is: audit.ErrNoLeaf,
		Title:   "No leaf is about that",
		Meaning: "The trails that were read have nothing about what was asked. Allows are counted, so a single one may have no leaf of its own.",
		Fix:     "Give the ID in full, or at least eight digits of a digest; name the trails of more nodes; bailiwick trail tail shows what is there.",
	},
	{
		Code: "BW2045", Is: audit.ErrTooMany,
		Title:   "Too much for one case file",
		Meaning: "More leaves answer the question than a case file may hold.",
		Fix:     "Ask for a shorter span (--from, --to), or of one node (--node).",
	},
	{
		Code: "BW2046", Is: trail.ErrProof,
		Title:   "The proof does not show that the leaf is in the trail",
		Meaning: "An inclusion proof is malformed or leads to another root than that of the signed head: leaf, proof and head do not belong together.",
		Fix:     "Get leaf and proof again from the same place. If they come from a node's own folder, run bailiwick trail verify on it.",
	},
	{
		Code: "BW2047", Is: index.ErrIndex,
		Title:   "Not an index of trails",
		Meaning: "The file given with --index is no index of this version, or it is damaged or cannot be written. No answer rests on it: an index only says where in a trail to look.",
		Fix:     "Delete the file, or name another: it is made anew from the trails. Without --index the trails are read whole.",
	},
	{
		Code: "BW2049", Is: trail.ErrEarlier,
		Title:   "The earlier head is not in the past of this one",
		Meaning: "A case file shows by when leaves existed with an earlier head and a proof that the later one continues it. That proof does not hold: they are of two histories, or the file was put together from others.",
		Fix:     "Ask for the case file again, of the node's own trail. If it stays so, both heads are signed by the trail key: keep the file, it is evidence.",
	},
	{
		Code: "BW2062", Is: beside.ErrName,
		Title:   "A file beside a trail is not what its name says",
		Meaning: "The files in the folders rosters, witnesses and trust beside a trail are named by the SHA-256 of what they hold. This one was damaged or exchanged, so a custodian did not take it.",
		Fix:     "Nothing, where another custodian has it whole. Otherwise remove the file: the node writes it again while it is in use.",
	},
	{
		Code: "BW2061", Is: casefile.ErrCertificate,
		Title:   "A certificate in the case file does not verify",
		Meaning: "A leaf says that the node received a certificate, and that was not the node's, not valid at the time of the leaf, or not issued under a root that the region's trust records in the case file name.",
		Fix:     "Have the case file made again where the region's trust records are kept, in case one is missing. If it stays so, do not take the node's word for who it was from that leaf on, and ask its issuer for its own trail.",
	},
	{
		Code: "BW2050", Is: trail.ErrDelegation,
		Title:   "Not this trail key's word on another key",
		Meaning: "The bytes should be a note signed by a node's trail key, which says that another key is the node's too. They are not, or another key signed them.",
		Fix:     "Check that both sides run the same version. If the node's keys were just made anew, wait until it shows them again.",
	},
	{
		Code: "BW2051", Is: witnessing.ErrRecord,
		Title:   "Not a node's record of its trail key and its witness key",
		Meaning: "What a node shows of its keys is malformed, or its trail key does not vouch for the key it cosigns with. It is treated as if it showed none: it is no witness, and its heads are cosigned by nobody.",
		Fix:     "Check that all nodes run the same version, and restart the node: it shows its keys again.",
	},
	{
		Code: "BW2052", Is: custody.ErrVouched,
		Title:   "Nobody vouches for the key of that trail",
		Meaning: "A copy of a trail should be made here, and neither the region's authority endorsed its key nor does its node show it in its signed state. Whoever gave the trail may have made it up.",
		Fix:     "Bring the region's newest trust record (bailiwick trust import FILE) and see that the node is connected. If it stays so, look at the node that gave it: the log names it.",
	},
	{
		Code: "BW2059", Is: casefile.ErrNoProof,
		Title:   "The case file holds no proof",
		Meaning: "What is in the file is in the trails, and no evidence is in it: that somebody was shut out is recorded, the reason is not shown.",
		Fix:     "Make the file where the evidence is kept, with a node of that region running: bailiwick trail export --case ID --out FILE.zip.",
	},
	{
		Code: "BW2060", Is: casefile.ErrNotGuilty,
		Title:   "The evidence convicts nobody",
		Meaning: "The evidence holds and is no reason for quarantine: no TPM backs the epoch it is about, and a copied disk does the same.",
		Fix:     "The feed stays frozen where the two records part. Find out whether the node's disk was copied, and give it a new epoch.",
	},
}
