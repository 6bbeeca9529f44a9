package decision

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

const (
	denials = "decision/denials"
	allows  = "decision/allows"
)

// denyLeaf is the body of a decision.deny leaf.
type denyLeaf struct {
	ID       string `cbor:"id"`
	Kind     string `cbor:"kind"`
	Level    string `cbor:"level"`
	Rule     string `cbor:"rule"`
	Revision string `cbor:"revision"`
	Source   string `cbor:"source"`
	Target   string `cbor:"target"`
	Input    []byte `cbor:"input"` // SHA-256 of the input's JSON
}

// countsPerLeaf keeps a leaf far below store.MaxLeaf.
const countsPerLeaf = 64

// save commits a batch and its leaves, or nothing.
func (l *Log) save(batch []*entry, counts allowLeaf) error {
	return l.cfg.Store.Update(func(tx *store.Tx) error {
		for _, e := range batch {
			if !e.d.Allow {
				digest := statement.Digest(e.d.Input)
				leaf := denyLeaf{e.d.ID, string(e.d.Kind), e.d.Level, e.d.Rule, e.d.Revision, e.d.Source, e.d.Target, digest[:]}
				if err := trail.Append(tx, trail.DecisionDeny, leaf); err != nil {
					return err
				}
			}
			if err := put(tx, e.d); err != nil {
				return err
			}
		}
		for part := range slices.Chunk(counts.Counts, countsPerLeaf) {
			if err := trail.Append(tx, trail.DecisionAllow, allowLeaf{counts.From, counts.To, part}); err != nil {
				return err
			}
		}
		return trim(tx, denials, l.cfg.Denials, allows, l.cfg.Allows)
	})
}

func put(tx *store.Tx, d policy.Decision) error {
	bucket := denials
	if d.Allow {
		bucket = allows
	}
	id, err := hex.DecodeString(d.ID)
	if err != nil || len(id) != 16 {
		return fmt.Errorf("decision ID %q is not 16 bytes in hex", d.ID)
	}
	value, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("decision %s: %w", d.ID, err)
	}
	last, _ := tx.Last(bucket)
	key := binary.BigEndian.AppendUint64(make([]byte, 0, 24), sequence(last)+1)
	return tx.Put(bucket, append(key, id...), value)
}

func sequence(key []byte) uint64 {
	if len(key) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key)
}

func trim(tx *store.Tx, a string, keepA int, b string, keepB int) error {
	for bucket, keep := range map[string]int{a: keepA, b: keepB} {
		last, _ := tx.Last(bucket)
		var old [][]byte
		tx.Range(bucket, nil, func(k, _ []byte) bool {
			if sequence(k)+uint64(keep) > sequence(last) {
				return false
			}
			old = append(old, bytes.Clone(k))
			return true
		})
		for _, k := range old {
			if err := tx.Delete(bucket, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// Last returns the newest denial. Errors wrap ErrNotFound or are the store's.
func (l *Log) Last() (policy.Decision, error) {
	var value []byte
	if err := l.cfg.Store.View(func(tx *store.Tx) error {
		_, value = tx.Last(denials)
		return nil
	}); err != nil {
		return policy.Decision{}, err
	}
	if value == nil {
		return policy.Decision{}, fmt.Errorf("%w: nothing was denied yet", ErrNotFound)
	}
	return parse(value)
}

// Get returns the kept decision whose ID begins with prefix, at least four hex digits of it.
// Errors wrap ErrNotFound or ErrAmbiguous, or are the store's.
func (l *Log) Get(prefix string) (policy.Decision, error) {
	prefix = strings.ToLower(prefix)
	if len(prefix) < 4 {
		return policy.Decision{}, fmt.Errorf("%w: %q: give at least four digits", ErrAmbiguous, prefix)
	}
	var found []byte
	matches := 0
	err := l.cfg.Store.View(func(tx *store.Tx) error {
		for _, bucket := range []string{denials, allows} {
			tx.Range(bucket, nil, func(k, v []byte) bool {
				if len(k) == 24 && strings.HasPrefix(hex.EncodeToString(k[8:]), prefix) {
					found, matches = bytes.Clone(v), matches+1
				}
				return true
			})
		}
		return nil
	})
	switch {
	case err != nil:
		return policy.Decision{}, err
	case matches == 0:
		return policy.Decision{}, fmt.Errorf("%w: %s", ErrNotFound, prefix)
	case matches > 1:
		return policy.Decision{}, fmt.Errorf("%w: %s: %d of them", ErrAmbiguous, prefix, matches)
	}
	return parse(found)
}

// Recent returns the newest denials, newest first, at most n.
func (l *Log) Recent(n int) ([]policy.Decision, error) {
	var out []policy.Decision
	err := l.cfg.Store.View(func(tx *store.Tx) error {
		last, _ := tx.Last(denials)
		from := uint64(0)
		if s := sequence(last); s > uint64(max(n, 0)) {
			from = s - uint64(max(n, 0)) + 1
		}
		var bad error
		tx.Range(denials, binary.BigEndian.AppendUint64(nil, from), func(_, v []byte) bool {
			d, err := parse(v)
			if bad = err; err == nil {
				out = append(out, d)
			}
			return err == nil
		})
		return bad
	})
	slices.Reverse(out)
	return out[:min(len(out), max(n, 0))], err
}

func parse(value []byte) (policy.Decision, error) {
	var d policy.Decision
	if err := json.Unmarshal(value, &d); err != nil {
		return policy.Decision{}, fmt.Errorf("%w: a kept decision: %v", store.ErrCorrupt, err)
	}
	return d, nil
}
