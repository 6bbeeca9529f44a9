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
// store, or nil where it is not kept any more. Proofs are made from it.
type Statements func(f FeedID, seq uint64) []byte

// Chain is everything known of one origin's feeds, and judges what more comes.
// It is not safe for concurrent use.
type Chain struct {
	origin spiffeid.ID
	kinds  Kinds
	stored Statements
	lines  map[uint64]*line // by epoch
	held   bool
	may    func(Record) bool // see Restrict
	gone   []Span            // given up, until Gone
	signed pace              // the origin's bucket, by its own clock
	met    pace              // and by ours
}

// NewChain returns the empty chain of an origin.
func NewChain(origin spiffeid.ID, kinds Kinds, stored Statements) *Chain {
	return &Chain{origin: origin, kinds: kinds, stored: stored, lines: map[uint64]*line{}}
}

// Origin returns whose chain it is.
func (c *Chain) Origin() spiffeid.ID { return c.origin }

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
		c.settle()
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

// Restrict has Admit ask whether a record may be kept here: only what the origin signed, with
// its body, and before it is parked or admitted. Nil, as at first, lets all be.
func (c *Chain) Restrict(may func(Record) bool) { c.may = may }

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
	//bailiwick:check TestForkBomb/records
	if rec.Seq > l.limit || c.held && l.limit == noLimit {
		return Result{Verdict: Frozen, Err: fmt.Errorf("%w: %s", ErrFrozen, rec.Feed())}
	}
	//bailiwick:check TestReplayOfRecords
	if l.has(rec) {
		return Result{Verdict: Duplicate}
	}
	//bailiwick:check TestForgedSignature TestFraming/a_bad_signature_first
	if err := rec.Verify(l.key); err != nil {
		return Result{Verdict: BadSignature, Err: err}
	}
	if !l.key.covers(rec.HLC) {
		return Result{Verdict: Expired, Err: fmt.Errorf("%w: %s, certificate until %s", ErrExpired, rec.HLC.Time(), l.key.NotAfter)}
	}
	if other, err := c.contradiction(l, rec.Signed); err != nil {
		return Result{Verdict: Unjudged, Err: err}
	} else if other != nil {
		return c.proven(Fork, ErrFork, l, other, rec.Statement())
	}
	//bailiwick:check TestReplayOfEpoch
	if rec.Seq < l.start || c.crowded(l) {
		return Result{Verdict: Pruned, Err: fmt.Errorf("%w: %d of %s, kept from %d on", ErrPruned, rec.Seq, rec.Feed(), l.start)}
	}
	at := l
	if l.ahead != nil && rec.Seq == l.ahead.next() {
		at = l.ahead
	}
	next := rec.Seq == at.next()
	if next {
		//bailiwick:check TestFloodOfOneOrigin/records
		if wait := c.wait(now, l, rec); wait > 0 {
			return Result{Verdict: OverQuota, Err: fmt.Errorf("%w %q: too many records, wait %s", ErrQuota, l.key.Class, wait)}
		}
	}
	ops, err := rec.Ops()
	if err != nil {
		return Result{Verdict: BodyMismatch, Err: err}
	}
	if c.may != nil && !c.may(rec) {
		return Result{Verdict: Restricted}
	}
	if !next {
		c.park(l, rec, ops)
		return Result{Verdict: ParkedGap, Ops: ops, Err: fmt.Errorf("%w: %d to %d of %s", ErrGap, c.Next(rec.Epoch), rec.Seq-1, rec.Feed())}
	}
	return c.extend(now, l, at, rec, ops)
}

// extend judges a verified record that is next in line, and makes it the head. at
// is the line, or the one that it may begin anew with.
func (c *Chain) extend(now time.Time, l, at *line, rec Record, ops []Op) Result {
	//bailiwick:check TestPastClock
	if prev := at.head(); prev.Seq > 0 && rec.HLC <= prev.HLC {
		return c.proven(ClockBack, ErrClock, l, c.statement(l, prev.Seq), rec.Statement())
	}
	//bailiwick:check TestFutureClock
	if ahead := rec.HLC.Time().Sub(now); ahead > MaxAhead {
		c.park(l, rec, ops)
		return Result{Verdict: ParkedFuture, Ops: ops, Err: fmt.Errorf("%w by %s: %s", ErrFuture, ahead, rec.Feed())}
	}
	for i := range ops {
		//bailiwick:check TestForeignKey
		if key, _ := splitKey(ops[i].Key); !key.OwnedBy(c.origin) {
			return c.foreign(l, rec, ops, i)
		}
	}
	lapsed := l.lapsed(now)
	//bailiwick:check TestBackdatedRecord
	if lapsed {
		if rec.Seq > l.cover.Seq {
			return Result{Verdict: Uncovered, Err: fmt.Errorf("%w: %d of %s, covered up to %d", ErrUncovered, rec.Seq, rec.Feed(), l.cover.Seq)}
		}
		if at == l && l.ahead != nil {
			return Result{Verdict: Pruned, Err: fmt.Errorf("%w: %d of %s, wanted from %d on", ErrPruned, rec.Seq, rec.Feed(), l.ahead.next())}
		}
		if at == l {
			l.ahead, l.parts = l.beside(), nil
			at = l.ahead
		}
	}
	s, err := at.continues(rec, ops)
	if err == nil && len(at.log) == 0 && at.start > l.start && (s == nil || s.base != at.start) {
		err = fmt.Errorf("%w: record %d of %s is no part of the snapshot at %d", ErrSnapshot, rec.Seq, rec.Feed(), at.start)
	}
	if err != nil {
		return Result{Verdict: BadSnapshot, Err: err}
	}
	limits := LimitsOf(l.key.Class)
	if s != nil {
		err = s.quota(ops, l.key.Class, limits)
	} else {
		err = at.quota(ops, limits)
	}
	//bailiwick:check TestFloodOfOneOrigin/bytes
	if err = errors.Join(err, at.room(rec, limits)); err != nil {
		return Result{Verdict: OverQuota, Err: err}
	}
	c.met = c.met.after(now.UnixMilli(), limits)
	c.signed = c.signed.after(int64(rec.HLC>>16), limits)
	base, first := l.base, len(l.log) == 0
	at.extend(rec, ops, s)
	parts := l.parts
	switch {
	case at == l:
		if l.ahead != nil && l.next() >= l.ahead.start {
			l.ahead, l.parts = nil, nil
		}
		parts = nil
	case at.start > l.start && !at.whole() || lapsed && rec.Seq < l.cover.Seq:
		c.gather(l, rec)
		return Result{Verdict: ParkedPart, Ops: ops, Err: fmt.Errorf("%w: %d of %s", ErrPart, rec.Seq, rec.Feed())}
	case lapsed && rec.id != l.cover.ID:
		l.ahead, l.parts = nil, nil
		return Result{Verdict: Uncovered, Err: fmt.Errorf("%w: %d of %s is another than the covered one", ErrUncovered, rec.Seq, rec.Feed())}
	default:
		l.begin(at)
	}
	complete := l.base != base && l.whole()
	if complete || first {
		c.settle()
	}
	return Result{Verdict: Admitted, Ops: ops, Complete: complete, Parts: parts}
}

// wait returns how long the origin's bucket wants rec to wait: nothing when it
// keeps the rate by its own clock or by ours.
func (c *Chain) wait(now time.Time, l *line, rec Record) time.Duration {
	limits := LimitsOf(l.key.Class)
	return min(c.signed.wait(int64(rec.HLC>>16), limits), c.met.wait(now.UnixMilli(), limits))
}

// has reports whether the very record is held or waits.
func (l *line) has(rec Record) bool {
	if p, ok := l.parked[rec.Seq]; ok && p.rec.id == rec.id {
		return true
	}
	if h, ok := l.at(rec.Seq); ok {
		return h.ID == rec.id
	}
	if l.ahead != nil {
		h, ok := l.ahead.at(rec.Seq)
		return ok && h.ID == rec.id
	}
	return false
}

// statement returns the signed header of a record that is held, waits, or whose
// header is kept; nil when there is none.
func (c *Chain) statement(l *line, seq uint64) []byte {
	if p, ok := l.parked[seq]; ok {
		return p.rec.Statement()
	}
	if n := len(l.parts); n > 0 && seq >= l.parts[0].Seq && seq <= l.parts[n-1].Seq {
		return l.parts[seq-l.parts[0].Seq].Statement()
	}
	if seq == 0 || seq >= l.next() {
		return nil
	}
	return c.stored(l.key.Feed(), seq)
}

// contradiction returns the signed header, held or parked, that h contradicts.
func (c *Chain) contradiction(l *line, h Signed) ([]byte, error) {
	for _, seq := range []uint64{h.Seq, h.Seq - 1, h.Seq + 1} {
		held, ok := l.at(seq)
		if ok && (seq == h.Seq && held.ID == h.id || seq == h.Seq-1 && held.ID == h.Prev) {
			continue
		}
		b := c.statement(l, seq)
		if b == nil && !ok {
			continue
		}
		other, err := ParseSigned(b)
		if err != nil {
			return nil, fmt.Errorf("read record %d of %s back: %w", seq, l.key.Feed(), err)
		}
		//bailiwick:check TestEquivocation
		if contradict(other, h) {
			return b, nil
		}
	}
	return nil, nil
}

// Witness takes a header without its record: it may contradict what is held
// (Fork, with proof), and it may tell that the feed is complete from a snapshot
// further on, which Next then asks for. Otherwise the verdict is Unjudged. The
// header is verified first: an error of Verify means the relay should have.
func (c *Chain) Witness(now time.Time, h Signed) Result {
	l, ok := c.lines[h.Epoch]
	if !ok || h.origin != c.origin {
		return Result{Verdict: UnknownOrigin, Err: fmt.Errorf("%w %s", ErrUnknown, h.Feed())}
	}
	if held, ok := l.at(h.Seq); ok && held.ID == h.id {
		return Result{Verdict: Duplicate}
	}
	//bailiwick:check TestFraming/a_header_in_its_name
	if err := h.Verify(l.key); err != nil {
		return Result{Verdict: BadSignature, Err: err}
	}
	if h.Seq > l.limit || !l.key.covers(h.HLC) {
		return Result{}
	}
	other, err := c.contradiction(l, h)
	if err != nil {
		return Result{Err: err}
	}
	if other != nil {
		return c.proven(Fork, ErrFork, l, other, h.Statement())
	}
	from := h.completeFrom()
	if from > l.next() && !c.crowded(l) && (l.ahead == nil || from > l.ahead.start) && (!l.lapsed(now) || from <= l.cover.Seq) {
		l.ahead, l.parts = newLine(l.key), nil
		l.ahead.start = from
	}
	return Result{}
}

// Ready admits what was parked and is not waiting any more, in order. Call it
// after Admitted, and at Deadline.
func (c *Chain) Ready(now time.Time) []Result {
	var out []Result
	for _, epoch := range slices.Sorted(maps.Keys(c.lines)) {
		l := c.lines[epoch]
		for {
			p, at, ok := l.waiting()
			if !ok || c.held && l.limit == noLimit || c.crowded(l) || p.rec.HLC.Time().Sub(now) > MaxAhead {
				break
			}
			if c.wait(now, l, p.rec) > 0 {
				break
			}
			delete(l.parked, p.rec.Seq)
			res := c.extend(now, l, at, p.rec, p.ops)
			res.Record = p.rec
			if out = append(out, res); res.Verdict != Admitted && res.Verdict != ParkedPart {
				break
			}
		}
	}
	return out
}

// waiting returns the parked record that is next, and the line it extends.
func (l *line) waiting() (parked, *line, bool) {
	if p, ok := l.parked[l.next()]; ok {
		return p, l, true
	}
	if l.ahead != nil {
		p, ok := l.parked[l.ahead.next()]
		return p, l.ahead, ok
	}
	return parked{}, nil, false
}

// Deadline returns when Ready may have something that only waits for the clock;
// zero when nothing does.
func (c *Chain) Deadline() time.Time {
	var due time.Time
	for _, l := range c.lines {
		if p, _, ok := l.waiting(); ok {
			if t := p.rec.HLC.Time().Add(-MaxAhead); due.IsZero() || t.Before(due) {
				due = t
			}
		}
	}
	return due
}

// Restore continues a feed with a record of this node's own store, which was
// admitted before; SetKey and FreezeAt come first, and newer epochs before older ones. It checks the links and the
// body but not the signature: the signature of the last record covers all
// before it, so verify that one. The first record may be any that a feed
// began with. Records behind a freeze are passed over with ok false. Errors wrap
// ErrChain.
func (c *Chain) Restore(rec Record) (ops []Op, ok bool, err error) {
	l, known := c.lines[rec.Epoch]
	if !known || rec.origin != c.origin {
		return nil, false, fmt.Errorf("%w: %s has no certificate", ErrChain, rec.Feed())
	}
	if rec.Seq > l.limit {
		return nil, false, nil
	}
	if rec.Seq < l.start { // its certificate could not be checked when a newer epoch replaced it
		return nil, true, nil
	}
	head := l.head()
	if head.Seq == 0 {
		l.start = rec.Seq
	}
	if rec.Seq != l.next() || head.Seq > 0 && rec.Prev != head.ID {
		return nil, false, fmt.Errorf("%w: %d of %s after %d", ErrChain, rec.Seq, rec.Feed(), head.Seq)
	}
	if ops, err = rec.Ops(); err != nil {
		return nil, false, fmt.Errorf("%w: %d of %s: %w", ErrChain, rec.Seq, rec.Feed(), err)
	}
	s, err := l.continues(rec, ops)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrChain, err)
	}
	if rec.Epoch == slices.Max(c.Epochs()) { // older ones were paid for long ago
		c.signed = c.signed.after(int64(rec.HLC>>16), LimitsOf(l.key.Class))
	}
	if l.extend(rec, ops, s) {
		c.settle()
	}
	return ops, true, nil
}
