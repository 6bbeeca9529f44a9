package feed

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Bounds of what is kept of one origin, over all its epochs.
const (
	maxFeeds       = 3  // feeds with records
	maxParked      = 64 // records
	maxParkedBytes = 256 << 10
)

// Head is the newest admitted record of a feed. The zero value is a feed without records.
type Head struct {
	Seq   uint64
	ID    ID
	HLC   HLC
	Bytes uint64 // encoded records from the feed's start up to here, together
	Base  uint64 // what the next record names as its Header.Base
}

// line is one feed of a chain.
type line struct {
	key    EpochKey
	start  uint64 // of log
	log    []Head // log[seq-start]
	prev   ID     // prev of seq 1
	limit  uint64 // no record after this one counts
	over   uint64 // a newer epoch's snapshot replaces the records up to here
	live   map[string]value
	bytes  int        // sum of live
	plain  uint64     // the newest record that is no part of a snapshot
	last   RecordKind // of the head
	ttl    uint32
	parked map[uint64]parked

	base   uint64  // first part of the newest complete snapshot
	since  []Place // what the epoch went on from, as that snapshot says
	tip    uint64  // its last part
	size   uint64  // encoded, of all its parts
	series *series

	cover Cover    // the furthest that is in time
	ahead *line    // the feed as it will be: begun with a snapshot that its origin has signed for, or up to the covered head
	parts []Record // that wait in it
}

// value is what a live key has.
type value struct {
	size int    // with its key
	from uint64 // the record it is from, or the first part of the snapshot
}

type parked struct {
	rec Record
	ops []Op
}

func newLine(key EpochKey) *line {
	return &line{key: key, start: 1, limit: math.MaxUint64, live: map[string]value{}, parked: map[uint64]parked{}}
}

func (l *line) head() Head {
	if len(l.log) == 0 {
		return Head{}
	}
	return l.log[len(l.log)-1]
}

// next is the number of the record that would extend the line.
func (l *line) next() uint64 { return l.start + uint64(len(l.log)) }

func (l *line) at(seq uint64) (Head, bool) {
	if seq < l.start || seq >= l.next() {
		return Head{}, false
	}
	return l.log[seq-l.start], true
}

// whole reports whether the snapshot that the line's records name is held.
func (l *line) whole() bool { return l.base > 0 && l.start <= l.base }

// based reports whether the line's records say which base the next one names.
func (l *line) based() bool { return l.plain >= l.start || l.whole() }

// park keeps a verified record that cannot be judged further yet. When there is no
// room the one farthest from its head goes, of the oldest epoch that has any: it can
// be asked for again.
func (c *Chain) park(l *line, rec Record, ops []Op) {
	l.parked[rec.Seq] = parked{rec, ops}
	//bailiwick:check TestGapBomb
	for c.parkedTooMuch() {
		for _, epoch := range c.Epochs() {
			if waiting := c.lines[epoch].parked; len(waiting) > 0 {
				delete(waiting, slices.Max(slices.Collect(maps.Keys(waiting))))
				break
			}
		}
	}
}

func (c *Chain) parkedTooMuch() bool {
	count, size := 0, 0
	for _, l := range c.lines {
		count += len(l.parked)
		for _, p := range l.parked {
			size += len(p.rec.raw)
		}
	}
	return count > maxParked || size > maxParkedBytes
}

// gather keeps a part that counts only with later ones. When too many are kept of all
// epochs, those of the oldest go.
func (c *Chain) gather(l *line, rec Record) {
	l.parts = append(l.parts, rec)
	size, most := 0, 0
	for _, other := range c.lines {
		for _, p := range other.parts {
			size += len(p.raw)
		}
		most = max(most, 2*LimitsOf(other.key.Class).Feed) // what one snapshot may have
	}
	for _, epoch := range c.Epochs() {
		if oldest := c.lines[epoch]; size > most && len(oldest.parts) > 0 {
			oldest.ahead, oldest.parts = nil, nil
			return
		}
	}
}

// quota reports whether live state stays within limits with these ops applied.
func (l *line) quota(ops []Op, limits Limits) error {
	most := l.bytes
	for i := range ops {
		most += len(ops[i].Key) + len(ops[i].Value)
	}
	if len(l.live)+len(ops) <= limits.Keys && most <= limits.Bytes {
		return nil // even if all were new keys: the usual case
	}
	keys, bytes := l.measure(ops)
	return withinLive(keys, bytes, l.key.Class, limits)
}

func withinLive(keys, bytes int, class string, limits Limits) error {
	switch {
	case keys > limits.Keys:
		return fmt.Errorf("%w %q: %d live keys, at most %d", ErrQuota, class, keys, limits.Keys)
	case bytes > limits.Bytes:
		return fmt.Errorf("%w %q: %d live bytes, at most %d", ErrQuota, class, bytes, limits.Bytes)
	}
	return nil
}

// room reports whether the feed may grow by a record before the next snapshot is
// complete.
func (l *line) room(rec Record, limits Limits) error {
	most := uint64(limits.Feed)
	if rec.Kind == Snapshot {
		most *= 2
	}
	if size := l.head().Bytes + uint64(len(rec.raw)); size > most {
		return fmt.Errorf("%w %q: %d bytes since the last snapshot, at most %d", ErrQuota, l.key.Class, size, most)
	}
	return nil
}

// measure returns live keys and bytes as they would be after ops.
func (l *line) measure(ops []Op) (keys, bytes int) {
	changed := make(map[string]int, len(ops)) // 0: gone
	for _, op := range ops {
		changed[op.Key] = op.live()
	}
	keys, bytes = len(l.live), l.bytes
	for key, size := range changed {
		old := l.live[key].size
		bytes += size - old
		switch {
		case old == 0 && size > 0:
			keys++
		case old > 0 && size == 0:
			keys--
		}
	}
	return keys, bytes
}

// live is what the op leaves of its key: the size of key and value.
func (o Op) live() int {
	if o.Action == Put {
		return len(o.Key) + len(o.Value)
	}
	return 0
}

// write applies the ops of record seq to the live state.
func (l *line) write(ops []Op, seq uint64) {
	for i := range ops {
		key, size := ops[i].Key, ops[i].live()
		old, had := l.live[key]
		l.bytes += size - old.size
		switch {
		case size == 0:
			delete(l.live, key)
		case had:
			l.live[key] = value{size, seq}
		default:
			l.live[strings.Clone(key)] = value{size, seq}
		}
	}
}

// extend makes rec the head, which belongs to s when it is part of a snapshot. It
// reports whether that completes the snapshot, which the line then begins with.
func (l *line) extend(rec Record, ops []Op, s *series) (complete bool) {
	if rec.Seq == 1 {
		l.prev = rec.Prev
	}
	if s == nil {
		l.base, l.plain = rec.Base, rec.Seq
	}
	l.log = append(l.log, Head{rec.Seq, rec.ID(), rec.HLC, l.head().Bytes + uint64(len(rec.raw)), l.base})
	l.last, l.ttl = rec.Kind, rec.TTL
	delete(l.parked, rec.Seq)
	if l.series = s; s == nil {
		l.write(ops, rec.Seq)
		return false
	}
	rest := s.base < l.start
	if !rest {
		s.add(ops)
	}
	if !rec.isLast() {
		return false
	}
	if l.series = nil; rest {
		return false
	}
	l.live, l.bytes = s.live, s.bytes
	l.base, l.since, l.tip = s.base, s.since, rec.Seq
	l.cut(s.base)
	l.size = l.head().Bytes
	l.log[len(l.log)-1].Base = l.base
	return true
}

// cut forgets the records before start, and what only they said: the line is then
// as if it had been filled from start on.
func (l *line) cut(start uint64) {
	if start <= l.start {
		return
	}
	before, _ := l.at(start - 1)
	if start >= l.next() {
		l.log = nil
	} else {
		l.log = append([]Head(nil), l.log[start-l.start:]...)
	}
	for i := range l.log {
		l.log[i].Bytes -= before.Bytes
	}
	l.start = start
	for seq := range l.parked {
		if seq < start {
			delete(l.parked, seq)
		}
	}
	for key, v := range l.live {
		if v.from < start {
			l.bytes -= v.size
			delete(l.live, key)
		}
	}
	switch s := l.series; {
	case s == nil:
	case len(l.log) == 0:
		l.series = nil
	case s.base < start:
		l.series = &series{base: s.base, parts: s.parts, since: s.since}
	}
	if !l.based() {
		l.base = 0
		for i := range l.log {
			l.log[i].Base = 0
		}
	}
}

// freeze closes the line at seq at the latest, and reports whether that is news.
// Where the records up to there are not held any more, none is left.
func (l *line) freeze(seq uint64) bool {
	if seq >= l.limit {
		return false
	}
	l.limit, l.ahead, l.parts = seq, nil, nil
	switch {
	case seq < l.start:
		l.empty(l.over + 1)
	case seq < l.next():
		l.log = l.log[:seq+1-l.start]
		if l.whole() && seq < l.tip {
			l.base = 0
		}
	}
	for s := range l.parked {
		if s > seq {
			delete(l.parked, s)
		}
	}
	return true
}

// empty makes the line one without records, which begins at start.
func (l *line) empty(start uint64) {
	l.log, l.start, l.base, l.plain, l.live, l.bytes, l.series = nil, start, 0, 0, map[string]value{}, 0, nil
	l.ahead, l.parts = nil, nil
}

// beside is a copy of the line to go on with, which may be thrown away.
func (l *line) beside() *line {
	at := *l
	at.log, at.live = slices.Clone(l.log), maps.Clone(l.live)
	at.parked, at.ahead, at.parts = nil, nil, nil
	if l.series != nil {
		s := *l.series
		s.live = maps.Clone(s.live)
		at.series = &s
	}
	return &at
}

// begin makes the line what was gathered beside it.
func (l *line) begin(at *line) {
	l.prev, l.start, l.log, l.live, l.bytes = at.prev, at.start, at.log, at.live, at.bytes
	l.last, l.ttl = at.last, at.ttl
	l.base, l.plain, l.since, l.tip, l.size, l.series = at.base, at.plain, at.since, at.tip, at.size, at.series
	l.ahead, l.parts = nil, nil
	for seq := range l.parked {
		if seq < l.next() {
			delete(l.parked, seq)
		}
	}
}
