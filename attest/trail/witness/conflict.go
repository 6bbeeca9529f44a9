package witness

import (
	"crypto/sha256"
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// MaxConflict bounds an encoded Conflict, in bytes, so that it fits a gossiped value.
const MaxConflict = 14 << 10

// Class is what findings from a Conflict are called.
const Class = "trail-fork"

type conflictWire struct {
	Key         string   `cbor:"1,keyasint"`
	First       []byte   `cbor:"2,keyasint"`
	Second      []byte   `cbor:"3,keyasint"`
	Proof       [][]byte `cbor:"4,keyasint,omitempty"`
	Endorsement []byte   `cbor:"5,keyasint,omitempty"`
}

// Accusation is a Conflict on its way: with the authority's word on whose key it is.
type Accusation struct {
	Conflict
	Endorsement []byte // opaque here; see package endorse
}

// Encode writes the accusation as deterministic CBOR. Errors wrap ErrConflict: it is too
// large.
func (a Accusation) Encode() ([]byte, error) {
	w := conflictWire{Key: a.Key, First: a.First, Second: a.Second, Endorsement: a.Endorsement}
	for _, h := range a.Proof {
		w.Proof = append(w.Proof, h[:])
	}
	b, err := statement.Marshal(w)
	if err == nil && len(b) > MaxConflict {
		err = fmt.Errorf("%w: %d bytes, at most %d", ErrConflict, len(b), MaxConflict)
	}
	return b, err
}

// ParseAccusation reads what Encode wrote. Nothing is verified. Errors wrap ErrConflict.
func ParseAccusation(b []byte) (a Accusation, err error) {
	var w conflictWire
	if len(b) > MaxConflict {
		return a, fmt.Errorf("%w: %d bytes, at most %d", ErrConflict, len(b), MaxConflict)
	}
	if err := statement.Unmarshal(b, &w); err != nil {
		return a, fmt.Errorf("%w: %w", ErrConflict, err)
	}
	a = Accusation{Conflict{Key: w.Key, First: w.First, Second: w.Second}, w.Endorsement}
	if len(w.Proof) > maxProof {
		return a, fmt.Errorf("%w: a proof of %d hashes, at most %d", ErrConflict, len(w.Proof), maxProof)
	}
	for _, h := range w.Proof {
		if len(h) != 32 {
			return a, fmt.Errorf("%w: a hash of %d bytes", ErrConflict, len(h))
		}
		a.Proof = append(a.Proof, [32]byte(h))
	}
	return a, nil
}

// Digest names the finding: one for a trail's key, however many pairs of its heads
// contradict each other.
func (c Conflict) Digest() [32]byte {
	return sha256.Sum256([]byte("bailiwick " + Class + "/1\n" + c.Key))
}
