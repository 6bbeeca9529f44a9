package bundle

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
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
	// ErrConflict: two records of one version were signed. Both are evidence; publish a higher version.
	ErrConflict = errors.New("two policy records of one version")
	// ErrJump: the version grew by more than MaxJump. If that is meant, the level above must raise
	// the floor of the delegation.
	ErrJump = errors.New("policy version jumps too far")
)

// Book is the memory of a node's policy: for each level and scope the newest two records with the
// exact bytes that were signed, and by them the floor of its version. Methods may be called
// concurrently.
//
//	policy/held: scope [len u16, bytes] | level's initial [1]byte | version [8]byte -> CBOR of held
type Book struct{ st *store.Store }

const (
	heldBucket = "policy/held"
	keep       = 2 // generations of each scope
)

type held struct {
	Statement []byte `cbor:"1,keyasint"`
	Content   []byte `cbor:"2,keyasint"`
	At        int64  `cbor:"3,keyasint"` // when it was verified, Unix seconds
}

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
func NewBook(st *store.Store) *Book { return &Book{st} }

// Keep takes a verified record into the book, with its trail leaf, before the caller activates it;
// the caller has compiled it (policy.Check). A record that is held already changes nothing. Errors
// wrap ErrRollback, ErrConflict, ErrJump or the store's. The first record of a scope may have any
// version: a node that joins late has no floor yet.
func (b *Book) Keep(v *Verified, now time.Time) error {
	r := &v.Record
	return b.st.Update(func(tx *store.Tx) error {
		all, err := generations(tx, r.Level, r.Scope)
		if err != nil {
			return err
		}
		if len(all) > 0 {
			top := all[0]
			switch {
			case r.Version == top.version && v.Name == top.name:
				return nil
			case r.Version == top.version:
				return fmt.Errorf("%w: %s %s version %d: %x and %x", ErrConflict, r.Level, r.Scope, r.Version, top.name[:8], v.Name[:8])
			case r.Version < top.version:
				return fmt.Errorf("%w: %s %s: %d, held is %d", ErrRollback, r.Level, r.Scope, r.Version, top.version)
			case r.Version-max(top.version, v.floor) > MaxJump:
				return fmt.Errorf("%w: %s %s: from %d to %d, at most %d", ErrJump, r.Level, r.Scope, top.version, r.Version, MaxJump)
			}
		}
		value, err := statement.Marshal(held{v.statement, v.content, now.Unix()})
		if err != nil {
			return err
		}
		if err := tx.Put(heldBucket, key(r.Level, r.Scope, r.Version), value); err != nil {
			return err
		}
		for _, old := range all[min(len(all), keep-1):] {
			if err := tx.Delete(heldBucket, key(r.Level, r.Scope, old.version)); err != nil {
				return err
			}
		}
		return trail.Append(tx, trail.PolicyActivate, activateLeaf{r.Level, r.Scope, r.Version, r.Mode, v.Name[:], r.Digest[:], r.Author})
	})
}

// Held returns the records of a scope, newest first, verified again under the global keys as of
// the time they were taken in: a record that has expired since is returned, and the engine judges
// it by its NotAfter. A damaged one is an error; so is one that the keys no longer vouch for.
func (b *Book) Held(level, scope string, global []*ecdsa.PublicKey) ([]*Verified, error) {
	var all []generation
	if err := b.st.View(func(tx *store.Tx) (err error) {
		all, err = generations(tx, level, scope)
		return err
	}); err != nil {
		return nil, err
	}
	var out []*Verified
	for _, g := range all {
		v, err := Verify(g.Statement, g.Content, global, time.Unix(g.At, 0))
		if err != nil {
			return nil, fmt.Errorf("held policy %s %s version %d: %w", level, scope, g.version, err)
		}
		out = append(out, v)
	}
	return out, nil
}

// generation is a held record and what its key and payload say.
type generation struct {
	held
	version uint64
	name    [32]byte
}

// generations lists what is held of a scope, newest first.
func generations(tx *store.Tx, level, scope string) ([]generation, error) {
	prefix := key(level, scope, 0)
	prefix = prefix[:len(prefix)-8]
	var out []generation
	var bad error
	tx.Range(heldBucket, prefix, func(k, value []byte) bool {
		if len(k) != len(prefix)+8 || !bytes.HasPrefix(k, prefix) {
			return false
		}
		g := generation{version: binary.BigEndian.Uint64(k[len(prefix):])}
		if bad = statement.Unmarshal(bytes.Clone(value), &g.held); bad != nil {
			bad = fmt.Errorf("%w: held policy %s %s: %w", store.ErrCorrupt, level, scope, bad)
			return false
		}
		env, err := statement.Parse(g.Statement)
		if err != nil {
			bad = fmt.Errorf("%w: held policy %s %s: %w", store.ErrCorrupt, level, scope, err)
			return false
		}
		g.name = statement.Digest(env.Payload())
		out = append(out, g)
		return true
	})
	slices.Reverse(out)
	return out, bad
}

func key(level, scope string, version uint64) []byte {
	k := binary.BigEndian.AppendUint16(nil, uint16(len(scope)))
	k = append(k, scope...)
	k = append(k, level[0]) // g, r or l
	return binary.BigEndian.AppendUint64(k, version)
}
