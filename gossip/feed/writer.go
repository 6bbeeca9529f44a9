package feed

import (
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"time"
)

var (
	// ErrUncommitted means the record handed out last is not the chain's head yet:
	// admit it, or give the writer up and restore the chain from the store.
	ErrUncommitted = errors.New("the last record is not committed yet")

	// ErrClockBehind means this node's clock is behind its own last record. Set
	// the clock right, or wait: the error says how long.
	ErrClockBehind = errors.New("the clock is behind the node's own last record")

	// ErrOldEpoch means the feed already has a newer epoch, or this one is frozen. Get a new epoch from
	// the region's authority.
	ErrOldEpoch = errors.New("the epoch cannot be written any more")
)

// Draft is what a record says apart from its place in the chain.
type Draft struct {
	Kind        RecordKind // zero means Ops
	Ops         []Op
	TTL         uint32 // seconds
	Policy      string // at most 128 bytes
	Traceparent string // W3C trace context, or empty

	// Of a snapshot: which of how many records this is, from 0. All of them follow
	// one another.
	Part, Parts int
}

// Writer signs the next record of an origin's own feed. It hands out no (epoch,
// seq) twice. It is not safe for concurrent use.
type Writer struct {
	chain  *Chain
	signer crypto.Signer
	epoch  uint64
	issued uint64
}

// NewWriter returns the writer of an epoch whose key the chain knows and whose
// stored records it has restored. Errors wrap ErrUnknown, ErrOldEpoch.
func NewWriter(chain *Chain, epoch uint64, signer crypto.Signer) (*Writer, error) {
	l, ok := chain.lines[epoch]
	if !ok {
		return nil, fmt.Errorf("%w: epoch %d of %s", ErrUnknown, epoch, chain.origin)
	}
	if pub, ok := signer.Public().(*ecdsa.PublicKey); !ok || !l.key.Key.Equal(pub) {
		return nil, fmt.Errorf("%w: the feed key is not the one certified for epoch %d of %s", ErrUnknown, epoch, chain.origin)
	}
	for later, other := range chain.lines {
		if later > epoch && len(other.log) > 0 {
			return nil, fmt.Errorf("%w: epoch %d, the feed is in epoch %d", ErrOldEpoch, epoch, later)
		}
	}
	if l.limit != noLimit {
		return nil, fmt.Errorf("%w: epoch %d is frozen at record %d", ErrOldEpoch, epoch, l.limit)
	}
	return &Writer{chain: chain, signer: signer, epoch: epoch, issued: l.head().Seq}, nil
}

// Feed returns the feed the writer writes.
func (w *Writer) Feed() FeedID { return FeedID{w.chain.origin, w.epoch} }

// Wait returns how long the next count records have to wait for the origin's bucket.
func (w *Writer) Wait(now time.Time, count int) time.Duration {
	l := w.chain.lines[w.epoch]
	limits := LimitsOf(l.key.Class)
	ms, bucket := int64(l.head().HLC.after(now)>>16), w.chain.signed
	for range count - 1 {
		bucket = bucket.after(ms, limits)
	}
	return bucket.wait(ms, limits)
}

// SnapshotDue reports whether the next record should begin a snapshot: at the start
// of an epoch that goes on from an older one, and when the records since the
// last are many, and together not less than the live state.
func (w *Writer) SnapshotDue() bool {
	l := w.chain.lines[w.epoch]
	if len(l.log) == 0 {
		return w.chain.newestBefore(w.epoch) > 0
	}
	records, size := l.next()-l.start, l.head().Bytes
	if l.whole() {
		records, size = l.head().Seq-l.tip, size-l.size
	}
	return (records >= dueRecords || size >= dueBytes) && size >= uint64(l.bytes)
}

// Snapshot splits the ops of a snapshot, whose keys must ascend, into those of its
// records. Errors wrap those of CheckOps, or ErrQuota: the epoch's class may allow
// less than the one before.
func (w *Writer) Snapshot(ops []Op) ([][]Op, error) {
	parts := Parts(ops)
	for _, part := range parts {
		if err := CheckOps(w.chain.origin, w.chain.kinds, part); err != nil {
			return nil, err
		}
	}
	if len(parts) > MaxParts {
		return nil, fmt.Errorf("%w: a snapshot of %d records, at most %d", ErrTooLarge, len(parts), MaxParts)
	}
	class := w.chain.lines[w.epoch].key.Class
	return parts, (&series{}).quota(ops, class, LimitsOf(class))
}

// Fits reports whether the ops would be admitted now: own keys, schemas, size and
// quotas. Errors wrap those of CheckOps, or ErrQuota.
func (w *Writer) Fits(ops []Op) error {
	if err := CheckOps(w.chain.origin, w.chain.kinds, ops); err != nil {
		return err
	}
	l := w.chain.lines[w.epoch]
	return l.quota(ops, LimitsOf(l.key.Class))
}

// Next signs the record that follows the chain's head. The caller makes it
// durable and admits it to the chain before anyone else sees it. Errors wrap
// those of Fits, ErrUncommitted, ErrClockBehind, ErrExpired, ErrOldEpoch,
// ErrQuota (see Wait) or the signer's own; then no number was used.
func (w *Writer) Next(now time.Time, d Draft) (Record, error) {
	l := w.chain.lines[w.epoch]
	head := l.head()
	if w.issued != head.Seq {
		return Record{}, fmt.Errorf("%w: %d of %s", ErrUncommitted, w.issued, w.Feed())
	}
	if l.limit != noLimit {
		return Record{}, fmt.Errorf("%w: epoch %d is frozen at record %d", ErrOldEpoch, w.epoch, l.limit)
	}
	if d.Kind == 0 {
		d.Kind = Ops
	}
	if d.Kind == Snapshot {
		if err := CheckOps(w.chain.origin, w.chain.kinds, d.Ops); err != nil {
			return Record{}, err
		}
	} else if err := w.Fits(d.Ops); err != nil {
		return Record{}, err
	}
	hlc := head.HLC.after(now)
	if ahead := hlc.Time().Sub(now); ahead > MaxAhead {
		return Record{}, fmt.Errorf("%w: by %s", ErrClockBehind, ahead)
	}
	if !l.key.covers(hlc) {
		return Record{}, fmt.Errorf("%w: ended %s; renew the epoch certificate", ErrExpired, l.key.NotAfter)
	}
	if wait := w.Wait(now, 1); wait > 0 {
		return Record{}, fmt.Errorf("%w %q: too many records, wait %s", ErrQuota, l.key.Class, wait)
	}
	h := Header{
		Kind: d.Kind, Origin: w.chain.origin.String(), Epoch: w.epoch, Seq: head.Seq + 1, Prev: head.ID, HLC: hlc,
		Policy: d.Policy, TTL: d.TTL, Traceparent: d.Traceparent, Base: l.base,
	}
	older := w.chain.newestBefore(w.epoch)
	if h.Seq == 1 {
		h.Prev = w.chain.Head(older).ID
	}
	if d.Kind == Snapshot {
		h.Base, h.Parts = h.Seq-uint64(d.Part), uint16(d.Parts)
		if h.Since, _ = w.chain.path(w.epoch); h.Base == 1 && older > 0 {
			h.Since = w.chain.pathFrom(Place{older, w.chain.Head(older).Seq})
		}
	}
	rec, err := sign(w.signer, h, d.Ops)
	if err != nil {
		return Record{}, err
	}
	if err := l.room(rec, LimitsOf(l.key.Class)); err != nil {
		return Record{}, err // nobody has seen it
	}
	w.issued = rec.Seq
	return rec, nil
}

// Seal signs the head of the feed. It fails with ErrGap when the feed has no
// record yet.
func (w *Writer) Seal() ([]byte, error) {
	head := w.chain.Head(w.epoch)
	if head.Seq == 0 {
		return nil, fmt.Errorf("%w: %s has no record to seal", ErrGap, w.Feed())
	}
	return SignSeal(w.signer, w.Feed(), head.Seq, head.ID)
}

// newestBefore returns the newest epoch before epoch that has records.
func (c *Chain) newestBefore(epoch uint64) uint64 {
	var newest uint64
	for e, l := range c.lines {
		if e < epoch && len(l.log) > 0 {
			newest = max(newest, e)
		}
	}
	return newest
}
