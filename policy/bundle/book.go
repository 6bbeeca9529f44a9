package bundle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// MaxJump is by how much a version may grow at once, from the one held or the floor of its
// delegation.
const MaxJump = 1000

// Errors of Book.Keep. The record in force stays.
var (
	// ErrRollback: a newer version is held. To go back, publish the old content as a new version.
	ErrRollback = errors.New("policy version is older than the one held")
	// ErrConflict: two records of one version were signed. All nodes keep that with the lower name, and
	// the other as evidence (Conflicts); publish a higher version.
	ErrConflict = errors.New("two policy records of one version")
	// ErrFloor: the version is below one that is in force in the region, as the issuer proved when this
	// node enrolled (Raise). Who offers it is behind, or holds the newer one back.
	ErrFloor = errors.New("policy version is older than the one in force in the region")
	// ErrJump: the version grew by more than MaxJump. If that is meant, the level above must raise
	// the floor of the delegation.
	ErrJump = errors.New("policy version jumps too far")
)

// Book is the memory of a node's policy: for each level and scope the newest two enforced records
// and the newest one in shadow, with the exact bytes that were signed, and by them the floor of its
// version. Methods may be called concurrently.
//
// The floor of enforced records is the newest that is in force or was: one that only waits (Stage), or
// is in shadow, may be followed by an older one. A node that lacks what came in between catches up so.
//
// Of two records of one version the one with the lower name holds, whichever came first, so that all
// nodes end with the same. What gave way is kept as evidence until a newer version is.
//
//	policy/held: scope [len u16, bytes] | level's initial [1]byte | version [8]byte -> CBOR of held
//	policy/floors: the same, version 0 -> version [8]byte below which none is taken (Raise)
//	policy/conflicts: the same | the first 8 bytes of the name -> the signed record that gave way
type Book struct {
	st     *store.Store
	pinned func(name [32]byte) bool
	staged func() map[[32]byte]bool
}

const (
	heldBucket     = "policy/held"
	floorBucket    = "policy/floors"
	conflictBucket = "policy/conflicts"
)

// keep is how many records of a mode are kept of each scope.
var keep = map[string]int{Enforce: 2, Shadow: 1}

// activateLeaf is the body of a policy.activate leaf.
type activateLeaf struct {
	Level   string `cbor:"level"`
	Scope   string `cbor:"scope"`
	Version uint64 `cbor:"version"`
	Mode    string `cbor:"mode"`
	Record  []byte `cbor:"record"` // SHA-256 of the payload
	Content []byte `cbor:"content"`
	Author  string `cbor:"author"`
}

// NewBook returns the book kept in a store.
func NewBook(st *store.Store) *Book {
	return &Book{st: st, pinned: func([32]byte) bool { return false }, staged: func() map[[32]byte]bool { return nil }}
}

// Pin has the book keep records beyond its number for as long as pinned says so of their names: those
// in force while newer ones are staged, and what to go back to. It is called once, before the book
// is used.
func (b *Book) Pin(pinned func(name [32]byte) bool) { b.pinned = pinned }

// Stage has staged name the held records that are to be enforced and never were in force here. It is
// called once, before the book is used; staged is called by Judge and Keep.
func (b *Book) Stage(staged func() map[[32]byte]bool) { b.staged = staged }

// Judge reports whether a record is news: Keep would take it now. What is held already is none.
// Of two records of one version that with the lower name is news, and the other ErrConflict.
// Errors wrap ErrRollback, ErrConflict, ErrFloor, ErrJump or the store's. The first record of a scope
// may have any version from the floor on that a node was told when it enrolled (Raise).
func (b *Book) Judge(v *Verified) (news bool, err error) {
	staged := b.staged()
	err = b.st.View(func(tx *store.Tx) error {
		all, err := generations(tx, v.Record.Level, v.Record.Scope)
		if err == nil {
			news, err = v.follows(tx, all, staged)
		}
		return err
	})
	return news, err
}

// follows reports whether a record is news beside those of its scope, the newest of which is first.
func (v *Verified) follows(tx *store.Tx, all []generation, staged map[[32]byte]bool) (bool, error) {
	r := &v.Record
	var rival *generation
	for i, g := range all {
		switch {
		case g.name == v.Name:
			return false, nil
		case g.version == r.Version:
			rival = &all[i]
		}
	}
	floor := slices.IndexFunc(all, func(g generation) bool { return r.Mode != Enforce || g.mode == Enforce && !staged[g.name] })
	over := floor >= 0 && all[floor].version > r.Version
	if least := floorOf(tx, r); r.Version < least && !over {
		return false, fmt.Errorf("%w: %s, in force is %d or newer", ErrFloor, r, least)
	}
	switch {
	case rival != nil && !over && bytes.Compare(v.Name[:], rival.name[:]) > 0:
		return false, fmt.Errorf("%w: %s: %x and %x, which holds", ErrConflict, r, v.Name[:8], rival.name[:8])
	case floor < 0, rival != nil && !over && all[floor].version == r.Version:
		return true, nil
	}
	err := v.After(all[floor].version)
	return err == nil, err
}

// After reports why the record may not come after a version of its scope. Errors wrap ErrRollback,
// also for that version itself, or ErrJump.
func (v *Verified) After(version uint64) error {
	switch r := &v.Record; {
	case r.Version <= version:
		return fmt.Errorf("%w: %s, held is %d", ErrRollback, r, version)
	case r.Version-max(version, v.floor) > MaxJump: // Verify has held it against the floor
		return fmt.Errorf("%w: %s: from %d, at most by %d", ErrJump, r, version, MaxJump)
	}
	return nil
}

// Refuses reports whether an error of Judge is about the record, and will be the same when it is
// judged again, rather than about the store.
func Refuses(err error) bool {
	return errors.Is(err, ErrRollback) || errors.Is(err, ErrConflict) || errors.Is(err, ErrFloor) || errors.Is(err, ErrJump)
}

// Raise has the book take no record that is older than one, whoever offers it: a node that has none yet,
// or was away, has no floor of its own that is high enough. What is held stays. The record needs no
// content (VerifyRecord). Errors are the store's.
func (b *Book) Raise(v *Verified) error {
	r := &v.Record
	if r.Mode != Enforce {
		return nil
	}
	least := uint64(0)
	if err := b.st.View(func(tx *store.Tx) error { least = floorOf(tx, r); return nil }); err != nil || r.Version <= least {
		return err
	}
	return b.st.Update(func(tx *store.Tx) error {
		if r.Version <= floorOf(tx, r) {
			return nil
		}
		return tx.Put(floorBucket, key(r.Level, r.Scope, 0), binary.BigEndian.AppendUint64(nil, r.Version))
	})
}

// floorOf is the floor of a record's scope, or 0.
func floorOf(tx *store.Tx, r *Record) uint64 {
	b := tx.Get(floorBucket, key(r.Level, r.Scope, 0))
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// Keep takes a verified record into the book, with its trail leaf, before the caller activates it;
// the caller has compiled it (policy.Check). handed is true for one that an operator gave to this
// node, which is to be passed on from here (Handed). A record that is held already changes nothing
// but that. Errors are those of Judge.
func (b *Book) Keep(v *Verified, handed bool, now time.Time) error {
	r, staged := &v.Record, b.staged()
	return b.st.Update(func(tx *store.Tx) error {
		all, err := generations(tx, r.Level, r.Scope)
		if err != nil {
			return err
		}
		news, err := v.follows(tx, all, staged)
		if err != nil {
			return err
		}
		for _, g := range all {
			if handed = handed || g.Handed && news; g.name == v.Name && handed && !g.Handed {
				g.Handed = true
				return put(tx, r, g.version, g.held)
			}
		}
		if !news {
			return nil
		}
		if err := put(tx, r, r.Version, held{v.statement, v.content, now.Unix(), handed}); err != nil {
			return err
		}
		left := keep[r.Mode] - 1
		for _, old := range all {
			if old.version == r.Version {
				if err := gaveWay(tx, &old.record, old.name, old.Statement, v.Name); err != nil {
					return err
				}
				continue
			}
			if old.mode != r.Mode {
				continue
			}
			if left--; left >= 0 || b.pinned(old.name) {
				continue
			}
			if err := tx.Delete(heldBucket, key(r.Level, r.Scope, old.version)); err != nil {
				return err
			}
		}
		if err := settled(tx, r); err != nil {
			return err
		}
		return trail.Append(tx, trail.PolicyActivate, activateLeaf{r.Level, r.Scope, r.Version, r.Mode, v.Name[:], r.Digest[:], r.Author})
	})
}
