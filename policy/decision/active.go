package decision

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// The buckets of the store. See the package doc.
const (
	activeBucket = "decision/open"
	keptBucket   = "decision/segments"
	placeKey     = "place"
	placeIn      = "decision/place"
)

// activeSegments is how many segments' worth of events wait in the store at most.
const activeSegments = 4

// place is how far the log has come.
type place struct {
	Segment uint64 `cbor:"segment"` // the newest
	Digest  []byte `cbor:"digest"`  // of its file
	Taken   uint64 `cbor:"taken"`   // sequence of the last event that is no longer active
}

func readPlace(tx *store.Tx) (p place, err error) {
	b := tx.Get(placeIn, []byte(placeKey))
	if b == nil {
		return p, nil
	}
	if err := statement.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("%w: %s: %v", store.ErrCorrupt, placeIn, err)
	}
	return p, nil
}

func (p place) write(tx *store.Tx) error {
	b, err := statement.Marshal(p)
	if err != nil {
		return err
	}
	return tx.Put(placeIn, []byte(placeKey), b)
}

// denyLeaf is the body of a decision.deny leaf, with what masking left of it.
type denyLeaf struct {
	ID       string `cbor:"id"`
	Kind     string `cbor:"kind"`
	Level    string `cbor:"level"`
	Rule     string `cbor:"rule"`
	Revision string `cbor:"revision"`
	Source   string `cbor:"source"`
	Target   string `cbor:"target"`
	// Of the input's JSON, as it was written: Event.Commitment. Older leaves have its plain SHA-256, under
	// the name input.
	Commitment []byte `cbor:"commitment"`
}

// countsPerLeaf keeps a leaf far below store.MaxLeaf.
const countsPerLeaf = 64

// save commits a batch and its leaves, or nothing.
func (l *Log) save(batch []*entry, counts allowLeaf) error {
	return l.cfg.Store.Update(func(tx *store.Tx) error {
		for _, b := range batch {
			e := &b.e
			if err := l.put(tx, e); err != nil { // first: where it hides something, so does the leaf
				return err
			}
			if r := e.Result; !r.Allow {
				commitment, _ := e.Commitment()
				leaf := denyLeaf{e.DecisionID, string(e.Kind()), r.Level, r.Rule, r.Revision, e.RequestedBy, r.Target, commitment[:]}
				if err := trail.Append(tx, trail.DecisionDeny, leaf); err != nil {
					return err
				}
			}
		}
		for part := range slices.Chunk(counts.Counts, countsPerLeaf) {
			if err := trail.Append(tx, trail.DecisionAllow, allowLeaf{counts.From, counts.To, part}); err != nil {
				return err
			}
		}
		return nil
	})
}

// What the last byte of a key says, so that the newest denial is found without reading the rest.
const (
	denied  = 'd'
	allowed = 'a'
)

func activeKey(seq uint64, e *Event) ([]byte, error) {
	id, err := hex.DecodeString(e.DecisionID)
	if err != nil || len(id) != 16 {
		return nil, fmt.Errorf("decision ID %q is not 16 bytes in hex", e.DecisionID)
	}
	key := append(binary.BigEndian.AppendUint64(make([]byte, 0, 25), seq), id...)
	if e.Result.Allow {
		return append(key, allowed), nil
	}
	return append(key, denied), nil
}

func sequence(key []byte) uint64 {
	if len(key) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key)
}

// put gives an event its sequence and puts it among the active ones. Where too many wait for a
// segment, the oldest are dropped, a segment's worth at once, and a gap says so.
func (l *Log) put(tx *store.Tx, e *Event) error {
	at, err := readPlace(tx)
	if err != nil {
		return err
	}
	last, _ := tx.Last(activeBucket)
	e.RequestID = max(sequence(last), at.Taken) + 1
	key, err := activeKey(e.RequestID, e)
	if err != nil {
		return err
	}
	if e.unsealed != nil {
		return e.unsealed
	}
	value, err := json.Marshal(e.shut())
	if err != nil {
		return fmt.Errorf("decision %s: %w", e.DecisionID, err)
	}
	if len(value) > MaxEvent {
		e.hide("it is too long") // no input of the allowed size makes it so
		e.box = nil
		if value, err = json.Marshal(e); err != nil {
			return fmt.Errorf("decision %s: %w", e.DecisionID, err)
		}
	}
	if err := tx.Put(activeBucket, key, value); err != nil {
		return err
	}
	waiting := e.RequestID - at.Taken
	if waiting >= uint64(l.cfg.SegmentAt) {
		l.enough.Store(true)
	}
	if waiting <= uint64(activeSegments*l.cfg.SegmentAt) {
		return nil
	}
	dropped, err := take(tx, at.Taken, at.Taken+uint64(l.cfg.SegmentAt))
	if err != nil {
		return err
	}
	l.metrics.WithLabelValues("dropped").Add(float64(dropped))
	at.Taken += uint64(l.cfg.SegmentAt)
	return joined(at.write(tx), trail.AppendGap(tx, uint64(dropped), "decisions were dropped: no segment could be written"))
}

func joined(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// take removes the active events above one sequence up to another and counts them.
func take(tx *store.Tx, above, upTo uint64) (int, error) {
	var keys [][]byte
	tx.Range(activeBucket, binary.BigEndian.AppendUint64(nil, above+1), func(k, _ []byte) bool {
		if sequence(k) > upTo {
			return false
		}
		keys = append(keys, bytes.Clone(k))
		return true
	})
	for _, k := range keys {
		if err := tx.Delete(activeBucket, k); err != nil {
			return 0, err
		}
	}
	return len(keys), nil
}
