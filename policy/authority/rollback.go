package authority

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// MaxSpans is how many spans one origin's rollback may have.
const MaxSpans = 64

const maxRollbackReason = 256

// ErrPlace means there is no such place in an origin's history to go back to.
var ErrPlace = errors.New("there is no such place to roll back to")

// Rollback has readers see an origin's state as it was: what lies in its spans is not shown, by
// whatever node. Each version holds the spans of those before, so the newest alone says all.
type Rollback struct {
	Origin spiffeid.ID
	Spans  []Span    // 1 to MaxSpans, sorted
	At     time.Time // of the newest span, to the second
	Reason string    // of the newest span, at most 256 bytes
}

// Span is what an origin wrote after record Seq of Epoch and before the first record of epoch
// Before, which the authority had not given out yet when it signed.
type Span struct {
	Epoch  uint64 `cbor:"1,keyasint"`
	Seq    uint64 `cbor:"2,keyasint"` // 0: all of Epoch
	Before uint64 `cbor:"3,keyasint"`
}

type rollbackWire struct {
	Origin string `cbor:"1,keyasint"`
	Spans  []Span `cbor:"2,keyasint"`
	At     int64  `cbor:"3,keyasint"`
	Reason string `cbor:"4,keyasint,omitempty"`
}

func (s Span) compare(o Span) int {
	return slices.Compare([]uint64{s.Epoch, s.Seq, s.Before}, []uint64{o.Epoch, o.Seq, o.Before})
}

// within reports whether all that s hides is hidden by o.
func (s Span) within(o Span) bool {
	return s.Before <= o.Before && slices.Compare([]uint64{s.Epoch, s.Seq}, []uint64{o.Epoch, o.Seq}) >= 0
}

func (r Rollback) encode() ([]byte, error) {
	b, err := statement.Marshal(rollbackWire{r.Origin.String(), r.Spans, r.At.Unix(), r.Reason})
	if err != nil {
		return nil, err
	}
	_, err = parseRollback(b)
	return b, err
}

func parseRollback(b []byte) (Rollback, error) {
	var w rollbackWire
	if err := statement.Unmarshal(b, &w); err != nil {
		return Rollback{}, fmt.Errorf("%w: rollback: %w", ErrMalformed, err)
	}
	origin, err := spiffeid.FromString(w.Origin)
	switch {
	case err != nil:
		return Rollback{}, fmt.Errorf("%w: rollback: origin: %w", ErrMalformed, err)
	case len(w.Spans) == 0 || len(w.Spans) > MaxSpans:
		return Rollback{}, fmt.Errorf("%w: rollback: %d spans, want 1 to %d", ErrMalformed, len(w.Spans), MaxSpans)
	case w.At < 0 || w.At > maxUnix || len(w.Reason) > maxRollbackReason:
		return Rollback{}, fmt.Errorf("%w: rollback: at or reason out of bounds", ErrMalformed)
	}
	for i, s := range w.Spans {
		if s.Epoch == 0 || s.Before <= s.Epoch || i > 0 && w.Spans[i-1].compare(s) >= 0 {
			return Rollback{}, fmt.Errorf("%w: rollback: span %d, %+v, is empty or out of order", ErrMalformed, i, s)
		}
	}
	return Rollback{origin, w.Spans, time.Unix(w.At, 0).UTC(), w.Reason}, nil
}

const maxUnix = 253402300799 // the end of year 9999

// Rollback returns the rollback in an object of KindRollback.
func (s Signed) Rollback() (Rollback, error) {
	if s.Kind != KindRollback {
		return Rollback{}, fmt.Errorf("%w: %q is no rollback", ErrMalformed, s.Kind)
	}
	return parseRollback(s.Body)
}

// Rollback hides what an origin wrote after a record, until it writes in a new epoch: its epochs
// so far are void, as after a release, and it is given a new one when it asks. Seq 0 goes back to
// before the epoch. Errors wrap ErrPlace, ErrOwnNode (without its records nobody would hear the
// authority), ErrMalformed, ErrForeign, ErrEpochState or the store's.
func (a *Authority) Rollback(now time.Time, origin spiffeid.ID, epoch, seq uint64, reason string) (Signed, error) {
	if origin == a.self {
		return Signed{}, ErrOwnNode
	}
	return a.publish(now, KindRollback, origin.String(), func(tx *store.Tx) ([]byte, error) {
		before, err := retire(tx, origin, time.Time{})
		if err != nil {
			return nil, err
		}
		if epoch == 0 || epoch >= before {
			return nil, fmt.Errorf("%w: %s was given epochs 1 to %d, not %d", ErrPlace, origin, before-1, epoch)
		}
		next := Span{epoch, seq, before}
		r := Rollback{Origin: origin, At: now, Reason: reason}
		if have, ok := a.book.newestOf(slot{a.level, KindRollback, origin.String()}); ok {
			old, err := have.Rollback()
			if err != nil {
				return nil, err
			}
			r.Spans = slices.DeleteFunc(slices.Clone(old.Spans), func(s Span) bool { return s.within(next) })
		}
		if !slices.ContainsFunc(r.Spans, next.within) {
			r.Spans = append(r.Spans, next)
		}
		slices.SortFunc(r.Spans, Span.compare)
		return r.encode()
	})
}
