package quarantine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// Bounds of accusations.
const (
	MaxAccusation  = 1 << 10          // bytes of one, encoded
	AccusationTerm = 10 * time.Minute // the longest that one is in force; its accuser renews it

	maxSeenBytes = 256         // of what was seen, in words
	maxCharges   = 16          // accusations kept of one accuser; of more the first by accused
	maxAhead     = time.Minute // how far an accusation may be dated after this node's clock
)

// ErrAccusation means an accusation is malformed, of a node against itself, or dated in the
// future. It counts for nothing.
var ErrAccusation = errors.New("accusation does not count")

// Accusation is one node's signed word that another broke a rule, where nothing proves it to
// anybody else. It counts as far as the region gave the accuser a say: see the package doc. The
// signature is that of the accuser's feed, and the accuser the owner of the key it lies under, so
// neither is in the bytes.
type Accusation struct {
	Accused spiffeid.ID
	Accuser spiffeid.ID // owner of the feed; not encoded
	Class   string      // stable name of the broken rule, e.g. "attestation-stale"; 1 to 64 bytes
	What    string      // what was seen, for people; at most 256 bytes
	Seen    time.Time   // when it was last seen, to the millisecond; a release from then on answers it
	At      time.Time   // when this was signed; of one pair the newest is what the accuser says
	Expires time.Time   // it is in force before this; At: withdrawn; at most AccusationTerm after At
}

// Withdrawn reports whether the accuser takes back what it said before.
func (a Accusation) Withdrawn() bool { return a.Expires.Equal(a.At) }

// inForce reports whether the accuser says so now.
func (a Accusation) inForce(now time.Time) bool { return !now.Before(a.At) && now.Before(a.Expires) }

// AccusationName is the name of the key of an accusation, so that a pair has one: hex, 64 bytes.
func AccusationName(accused spiffeid.ID) string {
	sum := sha256.Sum256([]byte("bailiwick accusation/1\x00" + accused.String()))
	return hex.EncodeToString(sum[:])
}

type accusationWire struct {
	Accused string `cbor:"1,keyasint"`
	Class   string `cbor:"2,keyasint"`
	What    string `cbor:"3,keyasint,omitempty"`
	Seen    int64  `cbor:"4,keyasint"` // Unix ms
	At      int64  `cbor:"5,keyasint"`
	Expires int64  `cbor:"6,keyasint"`
}

// Encode writes the accusation as deterministic CBOR, for the accuser's feed. Errors wrap
// ErrAccusation: a field is out of its bounds.
func (a Accusation) Encode() ([]byte, error) {
	b, err := statement.Marshal(accusationWire{a.Accused.String(), a.Class, a.What, a.Seen.UnixMilli(), a.At.UnixMilli(), a.Expires.UnixMilli()})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAccusation, err)
	}
	if _, err := ParseAccusation(b); err != nil {
		return nil, err
	}
	return b, nil
}

// ParseAccusation reads what Encode wrote, without its accuser. Errors wrap ErrAccusation.
func ParseAccusation(b []byte) (a Accusation, err error) {
	refuse := func(format string, args ...any) (Accusation, error) {
		return Accusation{}, fmt.Errorf("%w: "+format, append([]any{ErrAccusation}, args...)...)
	}
	if len(b) > MaxAccusation {
		return refuse("%d bytes, at most %d", len(b), MaxAccusation)
	}
	var w accusationWire
	if err := statement.Unmarshal(b, &w); err != nil {
		return refuse("%w", err)
	}
	if a.Accused, err = spiffeid.FromString(w.Accused); err != nil {
		return refuse("accused: %w", err)
	}
	if len(w.Class) == 0 || len(w.Class) > 64 || len(w.What) > maxSeenBytes {
		return refuse("class of %d bytes and what was seen of %d, want 1 to 64 and at most %d", len(w.Class), len(w.What), maxSeenBytes)
	}
	a.Class, a.What = w.Class, w.What
	for _, t := range []struct {
		into *time.Time
		ms   int64
	}{{&a.Seen, w.Seen}, {&a.At, w.At}, {&a.Expires, w.Expires}} {
		if *t.into, err = fromMillis(t.ms); err != nil {
			return refuse("%w", err)
		}
	}
	if a.Seen.After(a.At) || a.Expires.Before(a.At) || a.Expires.Sub(a.At) > AccusationTerm {
		return refuse("seen %s, signed %s, expires %s: want them in this order, the last at most %s after", a.Seen, a.At, a.Expires, AccusationTerm)
	}
	return a, nil
}
