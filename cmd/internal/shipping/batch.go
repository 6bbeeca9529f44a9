package shipping

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/decision/export"
)

// place is how far the collector has it.
type place struct {
	Epoch   uint64 `cbor:"epoch"`
	Index   uint64 `cbor:"index"`   // of the next leaf
	Segment string `cbor:"segment"` // file whose decisions come first; empty: none
	Sent    uint64 `cbor:"sent"`    // requests of it that were answered
}

// batch is the leaves of one request and the place after them. It ends behind a leaf that names a segment.
func batch(origin string, at place, raw [][]byte) (logs []export.Log, after place, err error) {
	after = at
	for _, b := range raw {
		l, err := trail.ParseLeaf(b)
		if err != nil {
			return nil, at, fmt.Errorf("leaf %d of %s: %w", after.Index, origin, err)
		}
		log, err := record(origin, after.Index, l, b)
		if err != nil {
			return nil, at, err
		}
		logs = append(logs, log)
		after.Index++
		if name, _, _, ok := decision.SegmentOf(l); ok {
			after.Segment, after.Sent = name, 0
			break
		}
		if len(logs) == export.BatchSize {
			break
		}
	}
	return logs, after, nil
}

func record(origin string, index uint64, l trail.Leaf, raw []byte) (export.Log, error) {
	body, err := json.Marshal(l.Plain())
	if err != nil {
		return export.Log{}, fmt.Errorf("leaf %d of %s: %w", index, origin, err)
	}
	hash := sha256.Sum256(append([]byte{0}, raw...)) // RFC 6962, section 2.1
	return export.Log{
		At: l.At, Warn: l.Kind == gapKind, Name: "bailiwick.trail." + l.Kind, Body: string(body),
		Texts:   map[string]string{"bailiwick.trail.origin": origin, "bailiwick.trail.leaf_hash": hex.EncodeToString(hash[:])},
		Numbers: map[string]uint64{"bailiwick.trail.index": index, "bailiwick.trail.seq": l.Seq},
	}, nil
}

// gapKind is what a trail says of events that it lacks: the one kind that is a warning by itself.
const gapKind = "gap"
