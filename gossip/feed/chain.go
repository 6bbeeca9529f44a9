package feed

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ErrChain means a stored record does not continue its stored chain: the store
// was changed from outside.
var ErrChain = errors.New("stored record does not continue its chain")

// Statements gives back the signed header of an admitted record of this node's
// store, or nil. Proofs are made from it.
type Statements func(f FeedID, seq uint64) []byte

// Chain is everything known of one origin's feeds, and judges what more comes.
// It is not safe for concurrent use.
type Chain struct {
	origin spiffeid.ID
	kinds  Kinds
	stored Statements
	lines  map[uint64]*line // by epoch
	held   bool
}

// NewChain returns the empty chain of an origin.
func NewChain(origin spiffeid.ID, kinds Kinds, stored Statements) *Chain {
	return &Chain{origin: origin, kinds: kinds, stored: stored, lines: map[uint64]*line{}}
}

// SetKey makes the epoch's key known, or replaces it by a renewal. It refuses,
// with ErrUnknown, another origin's key and a second key for an epoch that has
// one: an authority must not do that, and the first stays.
func (c *Chain) SetKey(key EpochKey) error {
	if key.Origin != c.origin || key.Epoch == 0 || key.Key == nil {
		return fmt.Errorf("%w: certificate for %s given to %s", ErrUnknown, key.Feed(), c.origin)
	}
	l, ok := c.lines[key.Epoch]
	switch {
	case !ok:
		c.lines[key.Epoch] = newLine(key)
	case !l.key.Key.Equal(key.Key):
		return fmt.Errorf("%w: two certificates with different keys for %s; the first one counts", ErrUnknown, key.Feed())
	case key.NotAfter.After(l.key.NotAfter):
		key.Class = l.key.Class // the class belongs to the epoch
		l.key = key
	}
	return nil
}

// Key returns the epoch's key.
func (c *Chain) Key(epoch uint64) (EpochKey, bool) {
	l, ok := c.lines[epoch]
	if !ok {
		return EpochKey{}, false
	}
	return l.key, true
}

// Admit judges a record by the rules of the package doc, in their order. An
// Admitted record is the new head at once: a caller that cannot make it durable
// must throw the chain away and Restore it. After Admitted, call Ready.
func (c *Chain) Admit(now time.Time, rec Record) Result {
	res := c.judge(now, rec)
	res.Record = rec
	return res
}

func (c *Chain) judge(now time.Time, rec Record) Result {
	l, ok := c.lines[rec.Epoch]
	if !ok || rec.origin != c.origin {
		return Result{Verdict: UnknownOrigin, Err: fmt.Errorf("%w %s", ErrUnknown, rec.Feed())}
	}
	if rec.Seq > l.limit || c.held && l.limit == noLimit {
		return Result{Verdict: Frozen, Err: fmt.Errorf("%w: %s", ErrFrozen, rec.Feed())}
	}
	if h, ok := l.at(rec.Seq); ok && h.ID == rec.id {
		return Result{Verdict: Duplicate}
	}
	if p, ok := l.parked[rec.Seq]; ok && p.rec.id == rec.id {
		return Result{Verdict: Duplicate}
	}
	if err := rec.Verify(l.key); err != nil {
		return Result{Verdict: BadSignature, Err: err}
	}
	if !l.key.covers(rec.HLC) {
		return Result{Verdict: Expired, Err: fmt.Errorf("%w: %s, certificate until %s", ErrExpired, rec.HLC.Time(), l.key.NotAfter)}
	}
	if other, err := c.contradiction(l, rec); err != nil {
		return Result{Verdict: Unjudged, Err: err}
	} else if other != nil {
		return c.proven(Fork, ErrFork, l, other, rec.Statement())
	}
	next := rec.Seq == uint64(len(l.log))+1
	if next {
		if wait := c.wait(l, now, rec); wait > 0 {
			return Result{Verdict: OverQuota, Err: fmt.Errorf("%w %q: too many records, wait %s", ErrQuota, l.key.Class, wait)}
		}
	}
	ops, err := rec.Ops()
	if err != nil {
		return Result{Verdict: BodyMismatch, Err: err}
	}
	if !next {
		l.park(rec, ops)
		return Result{Verdict: ParkedGap, Ops: ops, Err: fmt.Errorf("%w: %d to %d of %s", ErrGap, len(l.log)+1, rec.Seq-1, rec.Feed())}
	}
	return c.extend(now, l, rec, ops)
}

// extend judges a verified record that is next in line, and makes it the head.
func (c *Chain) extend(now time.Time, l *line, rec Record, ops []Op) Result {
	if prev := l.head(); prev.Seq > 0 && rec.HLC <= prev.HLC {
		return c.proven(ClockBack, ErrClock, l, c.stored(rec.Feed(), prev.Seq), rec.Statement())
	}
	if ahead := rec.HLC.Time().Sub(now); ahead > MaxAhead {
		l.park(rec, ops)
		return Result{Verdict: ParkedFuture, Ops: ops, Err: fmt.Errorf("%w by %s: %s", ErrFuture, ahead, rec.Feed())}
	}
	for i, op := range ops {
		if key, _ := ParseKey(op.Key); !key.OwnedBy(c.origin) {
			return c.foreign(l, rec, ops, i)
		}
	}
	if err := l.quota(ops, LimitsOf(l.key.Class)); err != nil {
		return Result{Verdict: OverQuota, Err: err}
	}
	for _, op := range ops {
		key, _ := ParseKey(op.Key)
		if err := c.kinds.check(key, op); err != nil {
			return Result{Verdict: BadSchema, Err: err}
		}
	}
	l.met = l.met.after(now.UnixMilli(), LimitsOf(l.key.Class))
	l.extend(rec, ops)
	return Result{Verdict: Admitted, Ops: ops}
}

// wait returns how long the origin's bucket wants rec to wait: nothing when it
// keeps the rate by its own clock or by ours.
func (c *Chain) wait(l *line, now time.Time, rec Record) time.Duration {
	limits := LimitsOf(l.key.Class)
	return min(l.signed.wait(int64(rec.HLC>>16), limits), l.met.wait(now.UnixMilli(), limits))
}

// contradiction returns the signed header, held or parked, that rec contradicts.
func (c *Chain) contradiction(l *line, rec Record) ([]byte, error) {
	seqs := []uint64{rec.Seq}
	if rec.Seq > 1 {
		seqs = append(seqs, rec.Seq-1)
	}
	for _, seq := range append(seqs, rec.Seq+1) {
		if p, ok := l.parked[seq]; ok && contradict(p.rec.Signed, rec.Signed) {
			return p.rec.Statement(), nil
		}
		h, ok := l.at(seq)
		if !ok || seq == rec.Seq-1 && h.ID == rec.Prev {
			continue
		}
		s, err := ParseSigned(c.stored(rec.Feed(), seq))
		if err != nil {
			return nil, fmt.Errorf("read record %d of %s back: %w", seq, rec.Feed(), err)
		}
		if contradict(s, rec.Signed) {
			return s.Statement(), nil
		}
	}
	return nil, nil
}

// Ready admits what was parked and is not waiting any more, in order. Call it
// after Admitted, and at Deadline.
func (c *Chain) Ready(now time.Time) []Result {
	var out []Result
	for _, epoch := range slices.Sorted(maps.Keys(c.lines)) {
		l := c.lines[epoch]
		for {
			p, ok := l.parked[uint64(len(l.log))+1]
			if !ok || c.held && l.limit == noLimit || p.rec.HLC.Time().Sub(now) > MaxAhead {
				break
			}
			if c.wait(l, now, p.rec) > 0 {
				break
			}
			delete(l.parked, p.rec.Seq)
			res := c.extend(now, l, p.rec, p.ops)
			res.Record = p.rec
			if out = append(out, res); res.Verdict != Admitted {
				break
			}
		}
	}
	return out
}

// Deadline returns when Ready may have something that only waits for the clock;
// zero when nothing does.
func (c *Chain) Deadline() time.Time {
	var due time.Time
	for _, l := range c.lines {
		if p, ok := l.parked[uint64(len(l.log))+1]; ok {
			if t := p.rec.HLC.Time().Add(-MaxAhead); due.IsZero() || t.Before(due) {
				due = t
			}
		}
	}
	return due
}

// Restore continues a feed with a record of this node's own store, which was
// admitted before; SetKey and FreezeAt come first. It checks the links and the
// body but not the signature: the signature of the last record covers all
// before it, so verify that one. Records behind a freeze are passed over with
// ok false. Errors wrap ErrChain.
func (c *Chain) Restore(rec Record) (ops []Op, ok bool, err error) {
	l, known := c.lines[rec.Epoch]
	if !known || rec.origin != c.origin {
		return nil, false, fmt.Errorf("%w: %s has no certificate", ErrChain, rec.Feed())
	}
	if rec.Seq > l.limit {
		return nil, false, nil
	}
	if head := l.head(); rec.Seq != head.Seq+1 || rec.Seq > 1 && rec.Prev != head.ID {
		return nil, false, fmt.Errorf("%w: %d of %s after %d", ErrChain, rec.Seq, rec.Feed(), head.Seq)
	}
	if ops, err = rec.Ops(); err != nil {
		return nil, false, fmt.Errorf("%w: %d of %s: %w", ErrChain, rec.Seq, rec.Feed(), err)
	}
	l.extend(rec, ops)
	return ops, true, nil
}
