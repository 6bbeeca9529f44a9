package replica

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// Span is a part of an origin's history that readers are not to see: all that was written after
// a record, up to an epoch. The records stay in their feeds, are passed on, and prove what they
// prove.
type Span struct {
	After  feed.Place // the last record that counts
	Before uint64     // the first epoch that counts again
}

// MaxSpans is how many spans one origin may have.
const MaxSpans = 64

const bucketRollbacks = "feed/rollbacks" // origin -> [{1: epoch, 2: seq, 3: before}...]

type spanWire struct {
	Epoch  uint64 `cbor:"1,keyasint"`
	Seq    uint64 `cbor:"2,keyasint"`
	Before uint64 `cbor:"3,keyasint"`
}

// hides reports whether what one place wrote is in the span.
func (s Span) hides(epoch, seq uint64) bool {
	return epoch < s.Before && (epoch > s.After.Epoch || epoch == s.After.Epoch && seq > s.After.Seq)
}

// rolledBack reports whether an item is to be left out: the record that holds it is in a span, or
// the one that wrote it, as its owner says where a snapshot restates it. What the span says would
// be undone otherwise by the owner's next snapshot.
func rolledBack(spans []Span, it item) bool {
	return slices.ContainsFunc(spans, func(s Span) bool {
		return s.hides(it.at.Epoch, it.at.Seq) || s.hides(it.Epoch, it.Seq)
	})
}

// Rollback has readers see an origin's state without what spans hide, for good: keys are what
// counted records say, and gone where none does. What is written in later epochs is shown. It
// replaces the spans from before, is durable when it returns, and reports whether it is news. The
// result depends on the spans and the records held, not on the order in which they came. A node's
// own state may be rolled back too; its next snapshot then restates what is seen.
func (r *Replica) Rollback(ctx context.Context, origin spiffeid.ID, spans []Span) (news bool, err error) {
	if len(spans) > MaxSpans {
		return false, fmt.Errorf("%w: %d spans of %s to roll back, at most %d", ErrConfig, len(spans), origin, MaxSpans)
	}
	spans = slices.SortedFunc(slices.Values(spans), Span.compare)
	err = r.do(ctx, func() error {
		if slices.Equal(r.view.spansOf(origin), spans) {
			return nil
		}
		news = true
		var w []spanWire
		for _, s := range spans {
			w = append(w, spanWire{s.After.Epoch, s.After.Seq, s.Before})
		}
		r.put(bucketRollbacks, []byte(origin.String()), encode(w))
		r.view.roll(origin, spans)
		if r.chains[origin] != nil {
			r.rebuild[origin] = true
		}
		return nil
	})
	return news, err
}

func (s Span) compare(o Span) int {
	return cmp.Or(cmp.Compare(s.After.Epoch, o.After.Epoch), cmp.Compare(s.After.Seq, o.After.Seq), cmp.Compare(s.Before, o.Before))
}

// Kept is the records of one epoch that are held.
type Kept struct{ Epoch, From, To uint64 }

// Kept returns what is held of an origin, epochs ascending, those without records left out.
func (r *Replica) Kept(ctx context.Context, origin spiffeid.ID) (out []Kept, err error) {
	err = r.do(ctx, func() error {
		c := r.chains[origin]
		if c == nil {
			return nil
		}
		for _, epoch := range c.Epochs() {
			if h := c.Head(epoch); h.Seq > 0 {
				out = append(out, Kept{epoch, c.Start(epoch), h.Seq})
			}
		}
		return nil
	})
	return out, err
}

// loadRollbacks reads the spans back, before any state is shown.
func (r *Replica) loadRollbacks(tx Tx) (err error) {
	tx.Range(bucketRollbacks, nil, func(k, v []byte) bool {
		var id spiffeid.ID
		var w []spanWire
		if id, err = spiffeid.FromString(string(k)); err == nil {
			err = statement.Unmarshal(v, &w)
		}
		var spans []Span
		for _, s := range w {
			spans = append(spans, Span{feed.Place{Epoch: s.Epoch, Seq: s.Seq}, s.Before})
		}
		r.view.roll(id, spans)
		return err == nil
	})
	return err
}

func (v *view) roll(origin spiffeid.ID, spans []Span) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rolled[origin] = spans
}

func (v *view) spansOf(origin spiffeid.ID) []Span {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.rolled[origin]
}
