package bundle

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

type held struct {
	Statement []byte `cbor:"1,keyasint"`
	Content   []byte `cbor:"2,keyasint"`
	At        int64  `cbor:"3,keyasint"`           // when it was verified, Unix seconds
	Handed    bool   `cbor:"4,keyasint,omitempty"` // see Book.Keep
}

// Kept is one record of the book, as far as can be told without its content.
type Kept struct {
	Record    Record
	Name      [32]byte
	Statement []byte // exactly as it was signed
	Handed    bool   // it is to be passed on from here
}

// List returns what is held of all scopes, the newest of each scope first. It verifies nothing.
func (b *Book) List() (out []Kept, err error) {
	err = b.st.View(func(tx *store.Tx) (err error) {
		all, err := scan(tx, nil)
		for _, g := range slices.Backward(all) {
			out = append(out, Kept{Record: g.record, Name: g.name, Statement: g.Statement, Handed: g.Handed})
		}
		return err
	})
	return out, err
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

// Content returns the content of a record that List named. Errors are the store's.
func (b *Book) Content(level, scope string, version uint64) (content []byte, err error) {
	err = b.st.View(func(tx *store.Tx) error {
		var h held
		k := key(level, scope, version)
		if err := statement.Unmarshal(bytes.Clone(tx.Get(heldBucket, k)), &h); err != nil {
			return fmt.Errorf("%w: held policy %x: %w", store.ErrCorrupt, k, err)
		}
		content = h.Content
		return nil
	})
	return content, err
}

// generation is a held record and what its payload says.
type generation struct {
	held
	version uint64
	mode    string
	record  Record
	name    [32]byte
}

// generations lists what is held of a scope, newest first.
func generations(tx *store.Tx, level, scope string) ([]generation, error) {
	prefix := key(level, scope, 0)
	out, err := scan(tx, prefix[:len(prefix)-8])
	slices.Reverse(out)
	return out, err
}

// scan lists what is held below a prefix of keys, in their order.
func scan(tx *store.Tx, prefix []byte) (out []generation, err error) {
	tx.Range(heldBucket, prefix, func(k, value []byte) bool {
		if !bytes.HasPrefix(k, prefix) {
			return false
		}
		var g generation
		var env statement.Envelope
		if err = statement.Unmarshal(bytes.Clone(value), &g.held); err == nil {
			env, err = open(g.Statement, &g.record)
		}
		if err != nil {
			err = fmt.Errorf("%w: held policy %x: %w", store.ErrCorrupt, k, err)
			return false
		}
		g.version, g.mode, g.name = g.record.Version, g.record.Mode, statement.Digest(env.Payload())
		out = append(out, g)
		return true
	})
	return out, err
}

func put(tx *store.Tx, r *Record, version uint64, h held) error {
	value, err := statement.Marshal(h)
	if err != nil {
		return err
	}
	return tx.Put(heldBucket, key(r.Level, r.Scope, version), value)
}

func key(level, scope string, version uint64) []byte {
	k := binary.BigEndian.AppendUint16(nil, uint16(len(scope)))
	k = append(k, scope...)
	k = append(k, level[0]) // g, r or l
	return binary.BigEndian.AppendUint64(k, version)
}
