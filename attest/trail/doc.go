// Package trail is the node's tamper-evident record of what it claimed and what
// it decided. What is not in the trail did not happen; what is in it cannot be
// changed later without the change showing.
//
// # On disk
//
// A trail is a tile log (C2SP tlog-tiles: RFC 6962 hashes, SHA-256) in a folder
// of its own, one for each epoch of a node: <state>/trail/<epoch>.
//
//	checkpoint            the signed head (C2SP tlog-checkpoint), replaced atomically
//	witnessed             the newest head that enough witnesses cosigned, with their lines
//	seen/NNN              of the witnessed heads before it one in ten minutes: by when leaves existed
//	tile/entries/NNN      256 leaves each: u16 length, big-endian, then the leaf
//	tile/<level>/NNN      256 hashes each; NNN.p/W is a right edge of W entries
//	.state/               the writer's own notes; a reader never looks here
//
// The head is a signed note (C2SP signed-note) with one signature of type 0x02,
// ECDSA P-256 over SHA-256, by the node's trail key; its name is the origin
//
//	<trust domain>/trail/<node name>/<epoch>
//	<trust domain>/trail/<zone>/<node name>/<epoch>   for a node in a zone
//
// Below its three lines it may have one more, "roster " and 64 hex digits: the hash of
// the roster that says who its witnesses are. Their cosignatures (C2SP
// tlog-cosignature) stand below the node's own signature; package witness is about
// them. A head without enough of them proves that a trail was not changed under it,
// not that nobody was shown another one, and is shown as unwitnessed. The newest head
// seldom has them yet; the one in the file witnessed lies in its past.
//
// # Leaves
//
// A leaf is the deterministic CBOR of package statement, at most MaxLeaf bytes:
//
//	{1: seq uint, 2: kind text, 3: at uint (Unix milliseconds), 4: body bytes}
//
// seq is the leaf's outbox sequence (package store), so it says which leaf must
// come next. Leaf 0 is the genesis: whose trail this is, which key signs it, how
// that key is kept, and the signed head of the epoch before; its seq is the last
// sequence that is not this trail's. After it, with p the seq of the leaf before:
//
//	gap covering a range   body says from; from = p+1 and seq >= from. AppendGap names its
//	                       own sequence: what its transaction took away
//	gap covering none      seq = p: events that never reached the outbox
//	any other leaf         seq = p+1
//
// The body is deterministic CBOR, meaningful to the owner of the kind. Kinds
// are registered in kind.go, each with a class: `each` has a leaf for every
// event, `counted` has one leaf for many.
//
// # What cannot be recorded
//
// Each kind also says what becomes of an event that cannot be recorded. `closed`:
// it does not happen, because its transaction fails. `gap`: it happens, is counted,
// and a gap leaf tells how many they were as soon as one can be written. Gap are
// refusals, which stay refusals, and containment, which acts first. All others are
// closed. A leaf cannot be written when the store takes no commit, or when
// MaxWaiting leaves wait already because the trail's disk is full or its key does
// not sign; gap kinds are counted from half of that on. What is counted then is
// counted in the transaction of the event, and survives a crash.
//
//	whose trail, its life   genesis, trail.open, gap, trail.prune, epoch.seal, node.start, .stop
//	identity                identity.svid, .epoch, .machine, .attest, .trust; issuer.attest, .issue, .refuse
//	authority, policy       authority.*; policy.activate, .rollout, .refuse
//	what it said and heard  state.out, state.in (many under one digest), state.refuse
//	what it decided         segment (digest of a file of decisions), decision.*
//	conflict and standing   authority.conflict; peer.finding, .standing, .release
//	others' trails          witness.key, witness.refuse, custody.conflict, region.heads
//	people                  admin.action, payload.erase
//
// # From the outbox to the head
//
// Whoever changes something writes the leaf into the outbox in the same
// transaction. One goroutine drains the outbox, at most once a second: it
// appends what is new as one batch, signs and publishes the head, then trims the
// outbox. A drain writes the right edge of the tree anew, however little is new. So
// leaves of kinds that come all the time (Kind.Routine) wait for each other: a drain
// for them alone comes ten seconds after the one before, or with 1,024 of them. They
// are durable meanwhile, in the outbox, and any other leaf takes them along.
//
// A crash anywhere in between neither loses nor doubles a leaf, because the last leaf
// in the tree says which sequence comes next, and what is still in the outbox but
// already in the tree must be the same, byte for byte, before it is trimmed. When the
// disk is full or the key does not sign, the outbox keeps everything and the trail goes
// on from there later. Nothing is written while nothing is new.
//
// The writer signs a head only if its tree extends the tree of the head before,
// and opens only a folder whose last head was signed by its own key and still
// fits its tiles. What does not fit is never repaired: the node starts a new
// epoch, whose genesis names the last head that was signed.
//
// # Pruning
//
// Prune removes the oldest leaves of this and older epochs by whole bundles, behind each first one, once
// a leaf of kind trail.prune says up to which index and is under a signed head; of an older epoch it
// stands in the newest trail and names the epoch. Tiles stay, 32 bytes a leaf, so heads, inclusion and
// consistency proofs stay valid, also those of leaves that are gone. Verify takes the hashes of such
// leaves from the tiles, which the root proves, and says how many they are; leaves that are missing and
// that no trail.prune leaf covers are a finding. A Copy removes only what its owner's trail says may go.
//
// There is no rule of age by kind of leaf. The format has one number below which leaves may be gone
// (C2SP tlog-tiles, minimum index), and leaves of all kinds share bundles of 256, which a reader of the
// standard hashes whole: with the deny of a day goes the policy.activate beside it, or neither. So leaves
// are kept small and hold commitments, and what a kind of event was about is kept elsewhere, by rules of
// its own: package payload destroys it by kind of decision and day, or on demand, with every proof valid
// as before. A rule for leaves has to be that of the kind which is needed longest.
//
// # Reading
//
// Verify needs no writer and no network. It gives two verdicts: integrity (these
// are the leaves that were signed) and completeness (no outbox sequence is
// missing or repeated, and nothing on disk lies beyond the head). A writer may
// run meanwhile; Verify judges one head.
//
// What a trail cannot show by itself: that the node told the truth, that a whole
// older copy of the folder was not put back (give Verify a head remembered
// elsewhere), or that events which never reached the outbox happened (Gap
// leaves are the node's own word).
package trail
