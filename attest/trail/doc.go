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
// Heads carry no cosignatures: they prove that a trail was not changed under
// its head, not that nobody was shown another one. Every head says unwitnessed.
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
//	gap covering a range   body says from; from = p+1 and seq >= from
//	gap covering none      seq = p: events that never reached the outbox
//	any other leaf         seq = p+1
//
// The body is deterministic CBOR, meaningful to the owner of the kind. Kinds
// are registered in kind.go, each with a class: `each` has a leaf for every
// event, `counted` has one leaf for many.
//
// # From the outbox to the head
//
// Whoever changes something writes the leaf into the outbox in the same
// transaction. One goroutine drains the outbox, at most once a second: it
// appends what is new as one batch, signs and publishes the head, then trims the
// outbox. A crash anywhere in between neither loses nor doubles a leaf, because
// the last leaf in the tree says which sequence comes next, and what is still in
// the outbox but already in the tree must be the same, byte for byte, before it
// is trimmed. When the disk is full or the key does not sign, the outbox keeps
// everything and the trail goes on from there later. Nothing is written while
// nothing is new.
//
// The writer signs a head only if its tree extends the tree of the head before,
// and opens only a folder whose last head was signed by its own key and still
// fits its tiles. What does not fit is never repaired: the node starts a new
// epoch, whose genesis names the last head that was signed.
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
