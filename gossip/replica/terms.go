package replica

import (
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// Mode is what a session carries, the fuller first.
type Mode uint8

const (
	// Full pushes bodies up to 1 KiB and announces larger ones.
	Full Mode = iota
	// Tree pushes over as many links as it takes for one copy a node, and announces
	// over the others.
	Tree
	// Headers pushes the bodies of evidence and of what authorities signed, and of all
	// else only signed headers.
	Headers
	modes
)

func (m Mode) String() string {
	return [...]string{"full", "tree", "headers"}[min(m, Headers)]
}

// Terms are what a session runs under. Each side says its own; the thinner mode and the
// smaller budget of both hold for both.
type Terms struct {
	Mode   Mode
	Budget uint64 // bytes of frames a second, each way; 0: no limit
}

// with returns what holds between two.
func (t Terms) with(other Terms) Terms {
	t.Mode = max(t.Mode, other.Mode)
	if t.Budget == 0 || other.Budget > 0 && other.Budget < t.Budget {
		t.Budget = other.Budget
	}
	return t
}

// termsVersion is that of the session; its lowest is the first that says terms.
const termsVersion = 2

type termsBody struct {
	Version uint64 `cbor:"1,keyasint"`
	Mode    Mode   `cbor:"2,keyasint"`
	Budget  uint64 `cbor:"3,keyasint"`
}

func termsFrame(t Terms) []byte {
	return frame(frameTerms, encode(termsBody{termsVersion, t.Mode, t.Budget}))
}

func parseTerms(b []byte) (Terms, error) {
	var body termsBody
	if err := statement.Unmarshal(b, &body); err != nil {
		return Terms{}, fmt.Errorf("%w: terms: %w", errFrame, err)
	}
	if body.Version < termsVersion || body.Mode >= modes {
		return Terms{}, fmt.Errorf("%w: terms of version %d, mode %d", errFrame, body.Version, body.Mode)
	}
	return Terms{body.Mode, body.Budget}, nil
}
