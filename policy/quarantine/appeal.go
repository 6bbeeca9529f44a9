package quarantine

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

const (
	// MaxNote is the longest root-cause note of an appeal, in bytes.
	MaxNote = 1024

	// AppealEvery is how often one node may say something new.
	AppealEvery = time.Minute
)

// ErrAppeal means an appeal was not taken: it is out of bounds, came too soon after the one
// before, or there is nothing to appeal against. The message says which.
var ErrAppeal = errors.New("the appeal is not taken")

// Appeal is what a quarantined node has to say for itself, with what its TPM proved at that moment.
// It is no fact: it changes no standing, and only the authority keeps it, for whoever decides.
type Appeal struct {
	Accused spiffeid.ID
	Note    string      // root cause in its operator's words, 1 to MaxNote bytes of UTF-8
	At      time.Time   // when the authority got it, to the second
	EKHash  [32]byte    // names the machine whose fresh quote came with it; zero: it has no TPM
	Resets  uint32      // of its TPM
	Starts  uint64      // starts of the sidecar, by the TPM's counter
	Epoch   uint64      // epochs spent, by the TPM's counter; without one, that of the key it spoke with, if any
	By      spiffeid.ID // the issuer that verified what came with it
}

// Unattested reports whether nothing is known of the machine that appeals: these are the words of
// who holds a key in software, which may be whoever stole it.
func (a Appeal) Unattested() bool { return a.EKHash == [32]byte{} }

type appealWire struct {
	Accused string   `cbor:"1,keyasint"`
	Note    string   `cbor:"2,keyasint"`
	At      int64    `cbor:"3,keyasint"`
	EKHash  [32]byte `cbor:"4,keyasint"`
	Resets  uint32   `cbor:"5,keyasint"`
	Starts  uint64   `cbor:"6,keyasint"`
	Epoch   uint64   `cbor:"7,keyasint"`
	By      string   `cbor:"8,keyasint"`
}

// Encode writes the appeal as deterministic CBOR. Errors wrap ErrAppeal.
func (a Appeal) Encode() ([]byte, error) {
	b, err := statement.Marshal(appealWire{
		a.Accused.String(), a.Note, a.At.Unix(), a.EKHash, a.Resets, a.Starts, a.Epoch, a.By.String(),
	})
	if err != nil {
		return nil, err
	}
	if _, err := ParseAppeal(b); err != nil {
		return nil, err
	}
	return b, nil
}

// ParseAppeal reads what Encode wrote. Errors wrap ErrAppeal.
func ParseAppeal(b []byte) (a Appeal, err error) {
	var w appealWire
	if len(b) > statement.MaxSize {
		return Appeal{}, fmt.Errorf("%w: %d bytes", ErrAppeal, len(b))
	}
	if err := statement.Unmarshal(b, &w); err != nil {
		return Appeal{}, fmt.Errorf("%w: %w", ErrAppeal, err)
	}
	if a.Accused, err = spiffeid.FromString(w.Accused); err != nil {
		return Appeal{}, fmt.Errorf("%w: accused: %w", ErrAppeal, err)
	}
	if a.By, err = spiffeid.FromString(w.By); err != nil {
		return Appeal{}, fmt.Errorf("%w: issuer: %w", ErrAppeal, err)
	}
	if n := len(w.Note); n == 0 || n > MaxNote || !utf8.ValidString(w.Note) {
		return Appeal{}, fmt.Errorf("%w: a note of %d bytes, want 1 to %d of UTF-8", ErrAppeal, n, MaxNote)
	}
	if !validUnix(w.At) {
		return Appeal{}, fmt.Errorf("%w: time %d", ErrAppeal, w.At)
	}
	a.Note, a.At, a.EKHash, a.Resets, a.Starts, a.Epoch = w.Note, time.Unix(w.At, 0).UTC(), w.EKHash, w.Resets, w.Starts, w.Epoch
	return a, nil
}

// Take says whether an appeal is to be kept in place of the one before (zero: none), given the
// standing of the accused. One that says the same again is no news and no error.
func (a Appeal) Take(before Appeal, st Status) (news bool, err error) {
	switch {
	case st.Standing != Quarantined:
		return false, fmt.Errorf("%w: %s is %s, not quarantined", ErrAppeal, a.Accused, st.Standing)
	case before.Accused.IsZero() || !before.answers(st):
		return true, nil
	case a.Note == before.Note:
		return false, nil
	case a.At.Sub(before.At) < AppealEvery:
		return false, fmt.Errorf("%w: the one before came at %s; a new one is heard %s after", ErrAppeal, before.At.Format(time.RFC3339), AppealEvery)
	}
	return true, nil
}

// answers reports whether an appeal is about what an identity is quarantined for now.
func (a Appeal) answers(st Status) bool {
	return st.Standing == Quarantined && !a.At.Before(st.Since.Truncate(time.Second))
}

// Pending reports whether an appeal waits for the authority's decision.
func (a Appeal) Pending(st Status) bool { return !a.Accused.IsZero() && a.answers(st) }
