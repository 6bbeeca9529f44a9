// Package payload keeps what a record is about apart from the record: it seals payloads under keys
// that can be destroyed, so that personal data can be erased while everything that was signed over
// it stays valid.
//
// # What is a payload
//
// A trail's leaves are small and say who did what to whom by which rule: identities of nodes and
// workloads, digests, numbers. They are evidence and are never erased; name no person in a SPIFFE ID.
// What people's data can be in is the question that a decision answered: its input (paths, headers,
// labels, users of local programs), and what was said of it (reasons, grants). Nothing else of what a
// node records has it: records of state are in the trail by digest only, and a proof against a peer
// holds the peer's own signed words. So this package seals the questions of decisions, and package
// decision uses it. To encrypt the leaves as well would take from an auditor what the trail is for.
//
// # Format
//
// A Box is what is stored in place of a payload, wherever that goes: the node's database, a segment of
// decisions, a copy at a custodian. It names its key, and holds
//
//	nonce [12]byte | AES-256-GCM of the payload, with "bailiwick payload 1\x00" and the record's name as associated data
//
// where the payload was deflated (RFC 1951) and filled with zeros to a multiple of 64 bytes: its length
// shows no more than that. A record's name is its decision ID, so no box can stand in for another.
//
// A leaf holds a commitment instead of a digest, which could be guessed:
//
//	SHA-256("bailiwick commitment 1\x00" | salt [32]byte | payload)
//
// The salt is random and inside the box. Who is shown payload and salt can check them against the leaf
// for ever; who is not learns nothing from the leaf, and nobody does once the key is gone.
//
// # Keys
//
// Each UTC day, each Scope has a random key of its own: whose payload, of which kind of decision, about
// which classes of data. Keys are in <state>/payload-keys, which is beside the database and not in it,
// because a database keeps what was deleted in free pages and in its journal:
//
//	payload-keys/2026-11-21   frames: length u16 | CBOR of a key | first 4 bytes of its SHA-256
//
// A new key is on the disk before anything is sealed under it; keys that many wait for at once share a write
// and a sync. A torn last frame is a key that nothing
// was sealed under. Keys never leave the node: copies at custodians, and a copy of the folder of segments,
// hold boxes that nobody can open there. So residency holds for payloads by construction, and a node whose
// disk is lost takes its payloads with it; the leaves, rules, times and commitments are at its custodians.
//
// # Erasure
//
// An Order says what is to be erased: of a subject, of a class of data, or by age of a kind. Erase first
// commits the order and the leaf that tells of it, in one transaction; then it writes each day's file
// anew, with a tombstone in place of each key: which order took it, when and by whom, and nothing of whose it
// was. The file before is overwritten, then freed. A crash in between is mended by Open, which carries all orders
// out again before it returns: a key of that time which comes back from a backup of the folder is destroyed
// then. A backup of the whole state folder brings back orders and keys as they were: an erasure that came
// later has to be ordered again, and the copies of the trail at custodians tell which (leaf payload.erase).
//
// What always holds: when Erase returns nil, no file that this node has holds the key, and the trail
// tells of it. A payload is then unreadable wherever its box is. What this package cannot do: reach blocks that
// a disk keeps of overwritten files (flash, snapshots, copy-on-write file systems: encrypt the disk, and let
// snapshots expire), backups of payload-keys (leave it out of them, or let them expire), and what was exported.
package payload
