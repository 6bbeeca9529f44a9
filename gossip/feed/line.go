package feed

import (
	"fmt"
	"math"
)

// Bounds of parking, for one feed.
const (
	maxParked      = 64
	maxParkedBytes = 256 << 10
)

// Head is the newest admitted record of a feed. The zero value is a feed without records.
type Head struct {
	Seq   uint64
	ID    ID
	HLC   HLC
	Bytes uint64 // encoded records up to here, together
}

// line is one feed of a chain.
type line struct {
	key    EpochKey
	log    []Head // log[seq-1]
	prev   ID     // prev of seq 1
	limit  uint64 // no record after this one counts
	live   map[string]int
	bytes  int // sum of live
	signed pace
	met    pace
	last   RecordKind // of the head
	ttl    uint32
	parked map[uint64]parked
}

type parked struct {
	rec Record
	ops []Op
}

func newLine(key EpochKey) *line {
	return &line{key: key, limit: math.MaxUint64, live: map[string]int{}, parked: map[uint64]parked{}}
}

func (l *line) head() Head {
	if len(l.log) == 0 {
		return Head{}
	}
	return l.log[len(l.log)-1]
}

func (l *line) at(seq uint64) (Head, bool) {
	if seq == 0 || seq > uint64(len(l.log)) {
		return Head{}, false
	}
	return l.log[seq-1], true
}

// park keeps a verified record that cannot be judged further yet. When there
// is no room the one farthest from the head goes: it can be asked for again.
func (l *line) park(rec Record, ops []Op) {
	l.parked[rec.Seq] = parked{rec, ops}
	for {
		size, last := 0, uint64(0)
		for seq, p := range l.parked {
			size += len(p.rec.raw)
			last = max(last, seq)
		}
		if len(l.parked) <= maxParked && size <= maxParkedBytes {
			return
		}
		delete(l.parked, last)
	}
}

// quota reports whether live state stays within limits with these ops applied.
func (l *line) quota(ops []Op, limits Limits) error {
	keys, bytes := l.measure(ops, nil)
	switch {
	case keys > limits.Keys:
		return fmt.Errorf("%w %q: %d live keys, at most %d", ErrQuota, l.key.Class, keys, limits.Keys)
	case bytes > limits.Bytes:
		return fmt.Errorf("%w %q: %d live bytes, at most %d", ErrQuota, l.key.Class, bytes, limits.Bytes)
	}
	return nil
}

// measure returns live keys and bytes after ops, and writes the changes to into
// where it is not nil.
func (l *line) measure(ops []Op, into map[string]int) (keys, bytes int) {
	changed := make(map[string]int, len(ops)) // 0: gone
	for _, op := range ops {
		changed[op.Key] = 0
		if op.Action == Put {
			changed[op.Key] = len(op.Key) + len(op.Value)
		}
	}
	keys, bytes = len(l.live), l.bytes
	for key, size := range changed {
		old := l.live[key]
		bytes += size - old
		switch {
		case old == 0 && size > 0:
			keys++
		case old > 0 && size == 0:
			keys--
		}
		if into == nil {
			continue
		}
		if into[key] = size; size == 0 {
			delete(into, key)
		}
	}
	return keys, bytes
}

// extend makes rec the head.
func (l *line) extend(rec Record, ops []Op) {
	if rec.Seq == 1 {
		l.prev = rec.Prev
	}
	_, l.bytes = l.measure(ops, l.live)
	l.log = append(l.log, Head{rec.Seq, rec.ID(), rec.HLC, l.head().Bytes + uint64(len(rec.raw))})
	l.signed = l.signed.after(int64(rec.HLC>>16), LimitsOf(l.key.Class))
	l.last, l.ttl = rec.Kind, rec.TTL
	delete(l.parked, rec.Seq)
}

// freeze closes the line at seq at the latest, and reports whether that is news.
func (l *line) freeze(seq uint64) bool {
	if seq >= l.limit {
		return false
	}
	l.limit = seq
	if uint64(len(l.log)) > seq {
		l.log = l.log[:seq]
	}
	for s := range l.parked {
		if s > seq {
			delete(l.parked, s)
		}
	}
	return true
}
