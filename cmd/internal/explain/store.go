package explain

import (
	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/custody"
)

// storage is BW2 without the signed envelope: the node's one file and its trail.
var storage = []Entry{
	{
		Code: "BW2001", Is: store.ErrBusy,
		Title:   "The store is in use by another process",
		Meaning: "Another process holds the node's state file. Nothing was read or changed: two nodes must never share a state folder.",
		Fix:     "Stop the other process (fuser <state>/state.db names it), or give this node a state folder of its own.",
	},
	{
		Code: "BW2002", Is: store.ErrCorrupt,
		Title:   "The store is damaged or truncated",
		Meaning: "The state file is no store, or part of it is missing. It was left as it is. Signed state comes back from peers; what only this node had may be lost, and its feed needs a new epoch.",
		Fix:     "Keep what is there: move <state>/state.db, and <state>/state.db.journal if there is one, to a folder of their own. Check the disk, then start the node again; do not put an older copy in their place.",
	},
	{
		Code: "BW2003", Is: store.ErrFull,
		Title:   "No space left for the store",
		Meaning: "The disk or a quota is full. What was not acknowledged is not applied, nothing stored was lost, and what cannot be recorded is not admitted.",
		Fix:     "Free space on the file system of the state folder (df -h, df -i): the node goes on by itself, and its trail tells what it counted meanwhile. Only where it says BW2005 afterwards, restart it.",
	},
	{
		Code: "BW2004", Is: store.ErrReadOnly,
		Title:   "The store may not be written",
		Meaning: "The state file or its folder belongs to another user or is mounted read-only. Nothing was changed.",
		Fix:     "Give the state folder to the user the node runs as, mode 0700, on a file system mounted read-write.",
	},
	{
		Code: "BW2005", Is: store.ErrBroken,
		Title:   "The store stopped after a failed commit",
		Meaning: "An earlier commit or checkpoint failed, so the node does not know what reached the disk and writes nothing more. Everything committed before is safe.",
		Fix:     "Find the first store error in the log and remove its cause, then restart the node.",
	},
	{
		Code: "BW2025", Is: store.ErrJournal,
		Title:   "The journal does not continue the database",
		Meaning: "state.db.journal holds changes that were acknowledged and cannot be applied: it is damaged before its end, or belongs to another database or another copy of this one, as when one of the two files was put back without the other. Neither was changed.",
		Fix:     "If the pair that belongs together exists, put both files back. Else check the disk and mv <state>/state.db.journal <state>/journal.aside: the node starts with the state of its last checkpoint, sees that its disk is behind, and goes on as after a restored disk.",
	},
	{
		Code: "BW2006", Is: trail.ErrDamaged,
		Title:   "The trail on disk is not the one that was signed",
		Meaning: "Leaves or tiles were changed, lost or exchanged after their head was signed. Records still collect in the store's outbox; nothing was overwritten, for the auditors' sake.",
		Fix:     "Keep the folder as it is and copy it away, run bailiwick trail verify DIR on the copy for the first wrong leaf, and let the region's authority give the node a new epoch.",
	},
	{
		Code: "BW2007", Is: trail.ErrOtherStore,
		Title:   "The trail and the store tell different histories",
		Meaning: "One of the two was put back from a copy, or belongs to another node. The trail was not continued, so that it stays provable up to here.",
		Fix:     "Keep both as they are and let the region's authority give the node a new epoch; never restore the trail or the store alone.",
	},
	{
		Code: "BW2008", Is: trail.ErrSigner,
		Title:   "The trail key does not sign",
		Meaning: "The TPM or key file behind the trail refused. Leaves wait in the outbox and lose nothing, but no new head is signed meanwhile.",
		Fix:     "Run bailiwick check tpm; when it passes, the trail catches up by itself.",
	},
	{
		Code: "BW2009", Is: trail.ErrClosed,
		Title:   "The trail is closed",
		Meaning: "The node is stopping, or has stopped its trail after an error. What came later waits in the outbox.",
		Fix:     "Restart the node; if it was not stopping, look in its log for the error that closed the trail.",
	},
	{
		Code: "BW2010", Is: trail.ErrCheckpoint,
		Title:   "The head is not one this trail's key signed",
		Meaning: "The head is malformed, of another trail, or signed by another key. Nothing under it is proven.",
		Fix:     "Check that the folder and --id belong to the same node; get the head again from the node, or from a peer that remembers one.",
	},
	{
		Code: "BW2011", Is: trail.ErrTile,
		Title:   "A tile does not fit the trail",
		Meaning: "A file that the signed head needs is missing, short, or does not fit its neighbours: the copy is incomplete or was changed.",
		Fix:     "Copy the whole folder again while the node is stopped, and verify that copy. If it fails too, treat the leaves from there on as unproven.",
	},
	{
		Code: "BW2012", Is: trail.ErrLeaf,
		Title:   "Not a leaf of this trail",
		Meaning: "An entry is not in a leaf's only spelling, or may not stand where it does. Whoever wrote it did not follow this version's rules.",
		Fix:     "Treat the trail from there on as unproven; verify it with the version that wrote it if the node has been upgraded since.",
	},
	{
		Code: "BW2013", Is: trail.ErrRoot,
		Title:   "The leaves are not those of the signed head",
		Meaning: "Leaves and tiles agree with each other and not with the head: they were rewritten as a whole, or the head belongs to another history.",
		Fix:     "Treat it as tampering: keep the folder, and compare with heads that peers remember.",
	},
	{
		Code: "BW2014", Is: trail.ErrRollback,
		Title:   "The trail lacks a head that was signed before",
		Meaning: "A head known from elsewhere is not in this trail's past: leaves were cut off or exchanged, or an old copy was put back.",
		Fix:     "Find out whether the disk was restored. If it was, give the node a new epoch; if not, treat it as tampering.",
	},
	{
		Code: "BW2015", Is: trail.ErrSequence,
		Title:   "A leaf is missing or repeated",
		Meaning: "The numbering of events has a hole or a double that no gap leaf explains, so the trail is not complete although its signatures hold.",
		Fix:     "Look at the leaves around the named one with bailiwick trail tail; ask for the node's log of that time.",
	},
	{
		Code: "BW2016", Is: trail.ErrBeyond,
		Title:   "Leaves lie beyond the signed head",
		Meaning: "The newest leaves are under no head: the node stopped before it signed them, its key does not sign, or an older head was put back. Everything before is proven.",
		Fix:     "Start the node, which signs them, and verify again; if it runs, run bailiwick check tpm.",
	},
	{
		Code: "BW2017", Is: trail.ErrUnjudged,
		Title:   "Completeness was not judged",
		Meaning: "Integrity fails, so nothing can be said about missing leaves.",
		Fix:     "Deal with the integrity failure named beside it first.",
	},
	{
		Code: "BW2018", Is: trail.ErrNoTrail,
		Title:   "No trail in this folder",
		Meaning: "The folder holds no trail's head. Each epoch of a node has a folder of its own.",
		Fix:     "Give the trail folder of a node, <state>/trail, or --node NAME for a node of the dev fleet.",
	},
	{
		Code: "BW2019", Is: trail.ErrNoTrust, Exit: Usage,
		Title:   "Nothing to check the trail against",
		Meaning: "Neither a key nor a node was named, so a signature would prove only that somebody signed.",
		Fix:     "Name the node with --id SPIFFE-ID, and its trust records with --config FILE.",
	},
	{
		Code: "BW2020", Is: trail.ErrNode, Exit: Usage,
		Title:   "A trail belongs to a node",
		Meaning: "The SPIFFE ID given for the trail does not name a node.",
		Fix:     "Write spiffe://<trust domain>/node/<name> or spiffe://<trust domain>/zone/<zone>/node/<name>.",
	},
	{
		Code: "BW2021", Is: trail.ErrKey,
		Title:   "Not a trail key",
		Meaning: "Trails are signed by ECDSA P-256 keys; the key given is another kind, or is not spelled the way the node prints it.",
		Fix:     "Copy the verifier key again, whole, as the node shows it.",
	},
	{
		Code: "BW2026", Is: trail.ErrBacklog,
		Title:   "Too many leaves wait for the trail",
		Meaning: "The trail takes no leaves, because its disk is full or its key does not sign, and the outbox has reached its bound. What must be recorded does not happen until it drains; refusals and containment go on, and a gap leaf will say how many they were.",
		Fix:     "See what is wrong: bailiwick trail tail, the metric bailiwick_trail_outbox_depth and the log name it. Free space in <state>/trail, or run bailiwick check tpm; the trail then catches up by itself.",
	},
	{
		Code: "BW2048", Is: trail.ErrPruned,
		Title:   "The leaf was removed by age",
		Meaning: "trail.retention was set on that node, and the trail says itself up to where it removed leaves. The hashes are there: whoever has the leaf can still prove it.",
		Fix:     "Look for the leaf on a custodian (<state>/custody/NODE/trail), which keeps what it had, or in what was exported before.",
	},
	{
		Code: "BW2032", Is: custody.ErrNotCustodian, Exit: Denied,
		Title:   "The asker is no custodian of this trail",
		Meaning: "A peer asked for a trail that it neither owns nor keeps a copy of, or from another region. It got no answer: copies never leave the region.",
		Fix:     "Give all nodes of the region the same trail.custody.copies. If they have it, look at why that peer asks.",
	},
	{
		Code: "BW2033", Is: custody.ErrFull,
		Title:   "The copies of other nodes' trails take all the room they may",
		Meaning: "trail.custody.max_bytes is reached, so nothing more is taken in: leaves at the bound, decisions at three quarters of it. What is held stays and verifies.",
		Fix:     "Raise trail.custody.max_bytes where the disk has room; du -s <state>/custody/* names the largest copies.",
	},
	{
		Code: "BW2034", Is: custody.ErrQuestion, Exit: Denied,
		Title:   "Not a question for a trail",
		Meaning: "A peer asked for a trail in a form that this version does not know. It was not answered.",
		Fix:     "Run the same version on both nodes.",
	},
	{
		Code: "BW2035", Is: custody.ErrAnswer,
		Title:   "Not an answer about a trail",
		Meaning: "A peer answered what was not asked, or with bytes that the trail's own leaf or head does not match. They were dropped, and another peer is asked.",
		Fix:     "Run the same version on both nodes. If they do, verify that peer's copy: bailiwick trail verify <state>/custody/NODE/trail --id SPIFFE-ID.",
	},
}

// envelope is the rest of BW2. Nearly every statement of the other areas wraps
// these, so they come last in the table.
var envelope = []Entry{
	{
		Code: "BW2022", Is: statement.ErrMalformed,
		Title:   "Malformed statement",
		Meaning: "The bytes are not a signed statement in its only spelling. They were refused; the fault is with whoever handed them over, not with whoever signed.",
		Fix:     "Get the file or message again from its source; check that both sides run the same version.",
	},
	{
		Code: "BW2023", Is: statement.ErrSignature, Exit: Denied,
		Title:   "The signature of a statement does not verify",
		Meaning: "The statement was not signed by this key, as this type, in this trust domain. Its content was not used.",
		Fix:     "Check that the trust records here are the newest; if they are, the statement is false or damaged: get it from another source.",
	},
	{
		Code: "BW2024", Is: statement.ErrKey,
		Title:   "Statements are signed by P-256 keys",
		Meaning: "A key other than ECDSA P-256 was offered. Nothing was signed or accepted.",
		Fix:     "Make a P-256 key (openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256) and use it instead.",
	},
}
