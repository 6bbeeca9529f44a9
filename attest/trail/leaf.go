package trail

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// MaxLeaf is the largest leaf, in bytes: the largest outbox body and its frame.
// C2SP tlog-tiles could carry 65535.
const MaxLeaf = store.MaxLeaf + 256

const (
	maxKind = 64              // bytes
	maxTime = 253402300799999 // the last millisecond of the year 9999
)

// ErrLeaf means bytes are no leaf, or not in a leaf's only spelling, or the
// leaf may not stand where it does. Whoever wrote it did not follow this
// version's rules: treat the trail from there on as unproven.
var ErrLeaf = errors.New("not a leaf of this trail")

// Leaf is one event. Body is the owner's CBOR, to be read by its kind.
type Leaf struct {
	Seq  uint64
	Kind string
	At   time.Time // to the millisecond, by the node's own clock
	Body []byte
}

type leafWire struct {
	Seq  uint64 `cbor:"1,keyasint"`
	Kind string `cbor:"2,keyasint"`
	At   int64  `cbor:"3,keyasint"`
	Body []byte `cbor:"4,keyasint"`
}

// encode returns the only spelling of l, or why it has none.
func (l Leaf) encode() ([]byte, error) {
	b, err := statement.Marshal(leafWire{l.Seq, l.Kind, stamp(l.At), l.Body})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLeaf, err)
	}
	if _, err := ParseLeaf(b); err != nil {
		return nil, err
	}
	return b, nil
}

// ParseLeaf reads one leaf. It refuses, with ErrLeaf, whatever would not encode
// to the same bytes again.
func ParseLeaf(b []byte) (Leaf, error) {
	if len(b) > MaxLeaf {
		return Leaf{}, fmt.Errorf("%w: %d bytes, at most %d", ErrLeaf, len(b), MaxLeaf)
	}
	var w leafWire
	if err := statement.Unmarshal(b, &w); err != nil {
		return Leaf{}, fmt.Errorf("%w: %w", ErrLeaf, err)
	}
	if !validKind(w.Kind) {
		return Leaf{}, fmt.Errorf("%w: kind %q is not 1 to %d of a-z 0-9 . - _", ErrLeaf, w.Kind, maxKind)
	}
	if w.At < 0 || w.At > maxTime {
		return Leaf{}, fmt.Errorf("%w: %d ms is no time from 1970 to 9999", ErrLeaf, w.At)
	}
	return Leaf{Seq: w.Seq, Kind: w.Kind, At: time.UnixMilli(w.At).UTC(), Body: w.Body}, nil
}

// stamp keeps a time that a wrong clock made within what a leaf can hold.
func stamp(at time.Time) int64 { return min(max(at.UnixMilli(), 0), maxTime) }

func validKind(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= maxKind
}

func (l Leaf) equal(o Leaf) bool {
	return l.Seq == o.Seq && l.Kind == o.Kind && stamp(l.At) == stamp(o.At) && bytes.Equal(l.Body, o.Body)
}

// Genesis is the body of leaf 0.
type Genesis struct {
	Node        string `cbor:"node"`                  // the node's SPIFFE ID
	Epoch       uint64 `cbor:"epoch"`                 // as in the origin
	Protection  string `cbor:"protection"`            // how the trail key is kept: "tpm" or "software"
	Verifier    string `cbor:"verifier"`              // the trail key, as C2SP signed-note prints a verifier
	Endorsement []byte `cbor:"endorsement,omitempty"` // the issuer's word on the attestation key that certifies the trail key
	Previous    string `cbor:"previous,omitempty"`    // the signed head of the epoch before, where there was one
}

// origin is the name this genesis gives its trail.
func (g Genesis) origin() (string, error) {
	id, err := spiffeid.FromString(g.Node)
	if err != nil {
		return "", fmt.Errorf("%w: genesis: node %q: %w", ErrLeaf, g.Node, err)
	}
	return Origin(id, g.Epoch)
}

// Gap is the body of a gap leaf: Count events are missing for the reason Why.
// From is the first missing outbox sequence; the leaf's own is the last. Zero
// means that the events never had a sequence. A leaf of AppendGap names its own
// sequence only: what it tells of had leaves before, or none.
type Gap struct {
	Count uint64 `cbor:"count"`
	Why   string `cbor:"why"`
	From  uint64 `cbor:"from,omitempty"`
}

func bodyLeaf(seq uint64, kind Kind, at time.Time, body any) (Leaf, error) {
	b, err := statement.Marshal(body)
	if err != nil {
		return Leaf{}, err
	}
	return Leaf{Seq: seq, Kind: kind.name, At: at, Body: b}, nil
}

// Indexed is a leaf and its place in the trail.
type Indexed struct {
	Index uint64
	Leaf
}

// MarshalJSON shows the leaf with its body as JSON, byte strings in hex. A body
// that is not CBOR with text keys is shown in hex as a whole.
func (l Indexed) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Index uint64    `json:"index"`
		Seq   uint64    `json:"seq"`
		Kind  string    `json:"kind"`
		At    time.Time `json:"at"`
		Body  any       `json:"body"`
	}{l.Index, l.Seq, l.Kind, l.At, plain(l.Body)})
}

func plain(body []byte) any {
	var v any
	if err := statement.Unmarshal(body, &v); err != nil {
		return hex.EncodeToString(body)
	}
	return plainValue(v)
}

func plainValue(v any) any {
	switch v := v.(type) {
	case []byte:
		return hex.EncodeToString(v)
	case []any:
		for i := range v {
			v[i] = plainValue(v[i])
		}
		return v
	case map[any]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[fmt.Sprint(plainValue(k))] = plainValue(e)
		}
		return m
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Sprint(v)
		}
		return v
	default:
		return v
	}
}
