package bundle

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// maxConflicts is how many records that gave way are kept of a scope.
const maxConflicts = 4

// Conflict is a record that gave way to another one of its version, Held, which its level's key signed
// as well.
type Conflict struct {
	Record    Record
	Name      [32]byte
	Statement []byte // exactly as it was signed
	Held      [32]byte
}

// Err says what is wrong; it wraps ErrConflict.
func (c Conflict) Err() error {
	return fmt.Errorf("%w: %s: %x gave way to %x: find out who signed both, and publish a higher version", ErrConflict, &c.Record, c.Name[:8], c.Held[:8])
}

// Conflicts lists what gave way and is not ended yet by a newer version, in the order of scopes,
// versions and names. Errors are the store's.
func (b *Book) Conflicts() (out []Conflict, err error) {
	err = b.st.View(func(tx *store.Tx) error {
		for _, k := range conflictsBelow(tx, nil) {
			c := Conflict{Statement: bytes.Clone(tx.Get(conflictBucket, k))}
			env, err := open(c.Statement, &c.Record)
			if err != nil {
				return fmt.Errorf("%w: policy that gave way %x: %w", store.ErrCorrupt, k, err)
			}
			c.Name = statement.Digest(env.Payload())
			all, err := generations(tx, c.Record.Level, c.Record.Scope)
			if err != nil {
				return err
			}
			for _, g := range all {
				if g.version == c.Record.Version {
					c.Held = g.name
				}
			}
			out = append(out, c)
		}
		return nil
	})
	return out, err
}

// Dispute keeps a record that Judge or Keep refused with ErrConflict as evidence, with a trail leaf; once.
func (b *Book) Dispute(v *Verified) error {
	var known bool
	k := conflictKey(&v.Record, v.Name)
	if err := b.st.View(func(tx *store.Tx) error { known = tx.Get(conflictBucket, k) != nil; return nil }); err != nil || known {
		return err
	}
	return b.st.Update(func(tx *store.Tx) error {
		all, err := generations(tx, v.Record.Level, v.Record.Scope)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(g generation) bool { return g.version == v.Record.Version && g.name != v.Name })
		if i < 0 {
			return nil // a newer one has ended it
		}
		return gaveWay(tx, &v.Record, v.Name, v.statement, all[i].name)
	})
}

// refuseLeaf is the body of a policy.refuse leaf.
type refuseLeaf struct {
	Level   string `cbor:"level"`
	Scope   string `cbor:"scope"`
	Version uint64 `cbor:"version"`
	Record  []byte `cbor:"record"` // its name
	Held    []byte `cbor:"held"`   // that of the other record of the version, which holds
	Author  string `cbor:"author"`
}

// gaveWay notes a record for which another of its version holds.
func gaveWay(tx *store.Tx, r *Record, name [32]byte, signed []byte, holds [32]byte) error {
	k := conflictKey(r, name)
	prefix := key(r.Level, r.Scope, 0)
	if n := len(conflictsBelow(tx, prefix[:len(prefix)-8])); tx.Get(conflictBucket, k) != nil || n >= maxConflicts {
		return nil
	}
	if err := tx.Put(conflictBucket, k, bytes.Clone(signed)); err != nil {
		return err
	}
	return trail.Append(tx, trail.PolicyRefuse, refuseLeaf{r.Level, r.Scope, r.Version, name[:], holds[:], r.Author})
}

// settled forgets the conflicts of a scope that a newer version has ended.
func settled(tx *store.Tx, r *Record) error {
	now := key(r.Level, r.Scope, r.Version)
	for _, k := range conflictsBelow(tx, now[:len(now)-8]) {
		if bytes.Compare(k[:len(now)], now) < 0 {
			if err := tx.Delete(conflictBucket, k); err != nil {
				return err
			}
		}
	}
	return nil
}

func conflictKey(r *Record, name [32]byte) []byte {
	return append(key(r.Level, r.Scope, r.Version), name[:8]...)
}

func conflictsBelow(tx *store.Tx, prefix []byte) (keys [][]byte) {
	tx.Range(conflictBucket, prefix, func(k, _ []byte) bool {
		if !bytes.HasPrefix(k, prefix) {
			return false
		}
		keys = append(keys, bytes.Clone(k))
		return true
	})
	return keys
}
