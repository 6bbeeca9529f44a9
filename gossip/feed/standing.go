package feed

import (
	"iter"
	"maps"
	"math"
	"slices"
)

const noLimit = math.MaxUint64

// maxSeq is the highest seq, so that there is always one after it.
const maxSeq = math.MaxInt64

// FreezeAt closes an epoch's feed at lastGood at the latest, as a finding says,
// and reports whether that is news. It needs the epoch's key and is never undone.
func (c *Chain) FreezeAt(epoch, lastGood uint64) bool {
	l, ok := c.lines[epoch]
	if !ok || !l.freeze(lastGood) {
		return false
	}
	c.settle()
	return true
}

// Hold stops admission to every feed of the origin that no finding has frozen;
// those go on to the point where they are frozen, so that all nodes end with the
// same records. Hold(false) ends it.
func (c *Chain) Hold(on bool) { c.held = on }

// Held reports whether the origin is held.
func (c *Chain) Held() bool { return c.held }

// FrozenAt returns the last record of an epoch that counts, if a finding froze it.
func (c *Chain) FrozenAt(epoch uint64) (uint64, bool) {
	l, ok := c.lines[epoch]
	if !ok || l.limit == noLimit {
		return 0, false
	}
	return l.limit, true
}

// Suspect reports whether the origin's state is to be doubted: it is held, or
// its newest feed is frozen.
func (c *Chain) Suspect() bool {
	epochs := c.Epochs()
	return c.held || len(epochs) > 0 && c.lines[epochs[len(epochs)-1]].limit != noLimit
}

// Next returns the number of the record that an epoch's feed lacks next: the one
// after its head, or the first part of a snapshot that its origin has signed for.
func (c *Chain) Next(epoch uint64) uint64 {
	l, ok := c.lines[epoch]
	switch {
	case !ok:
		return 1
	case l.ahead != nil:
		return l.ahead.next()
	}
	return l.next()
}

// Missing returns how many records up to head could still be admitted.
func (c *Chain) Missing(epoch, head uint64) uint64 {
	l, ok := c.lines[epoch]
	if !ok || c.held && l.limit == noLimit || c.crowded(l) {
		return 0
	}
	next := c.Next(epoch)
	if head = min(head, l.limit); head < next {
		return 0
	}
	return head - next + 1
}

// Start returns the first record of an epoch's feed that is held, or would be if
// the feed had any. What is before it is superseded.
func (c *Chain) Start(epoch uint64) uint64 {
	if l, ok := c.lines[epoch]; ok {
		return l.start
	}
	return 1
}

// Counts reports whether a held record is in force: a part of a snapshot is
// only when that snapshot is the newest complete one.
func (c *Chain) Counts(rec Record) bool {
	l, ok := c.lines[rec.Epoch]
	return ok && rec.Seq >= l.start && rec.Seq < l.next() && (rec.Kind != Snapshot || l.whole() && rec.Base == l.base)
}

// Anchor returns the newest record of an epoch whose header says from where on the
// feed is complete: the head, or the one before unfinished snapshots. It is zero
// where no record that is held says so.
func (c *Chain) Anchor(epoch uint64) uint64 {
	l, ok := c.lines[epoch]
	switch {
	case !ok:
		return 0
	case l.series == nil:
		return l.head().Seq
	case l.whole():
		return max(l.plain, l.tip)
	case l.plain >= l.start:
		return l.plain
	}
	return 0
}

// Epochs returns the epochs whose keys are known, ascending.
func (c *Chain) Epochs() []uint64 { return slices.Sorted(maps.Keys(c.lines)) }

// Head returns an epoch's head; the zero Head when it has no records.
func (c *Chain) Head(epoch uint64) Head {
	if l, ok := c.lines[epoch]; ok {
		return l.head()
	}
	return Head{}
}

// At returns the record of an epoch with this number.
func (c *Chain) At(epoch, seq uint64) (Head, bool) {
	if l, ok := c.lines[epoch]; ok {
		return l.at(seq)
	}
	return Head{}, false
}

// Heads yields the feeds that have records.
func (c *Chain) Heads() iter.Seq2[FeedID, Head] {
	return func(yield func(FeedID, Head) bool) {
		for epoch, l := range c.lines {
			if len(l.log) > 0 && !yield(FeedID{c.origin, epoch}, l.head()) {
				return
			}
		}
	}
}

// Newest returns the newest record's clock, kind and ttl, for LeaseAt.
func (c *Chain) Newest() (HLC, RecordKind, uint32) {
	epochs := c.Epochs()
	for _, epoch := range slices.Backward(epochs) {
		if l := c.lines[epoch]; len(l.log) > 0 {
			return l.head().HLC, l.last, l.ttl
		}
	}
	return 0, 0, 0
}

// Rewound reports whether a record lies beyond the point from which a newer
// epoch went on.
func (c *Chain) Rewound(epoch, seq uint64) bool {
	for _, later := range slices.Backward(c.Epochs()) {
		if later <= epoch {
			return false
		}
		if path, ok := c.path(later); ok && seq > covered(path, epoch) {
			return true
		}
		if c.lines[later].whole() {
			return false // what older ones say does not count any more
		}
	}
	return false
}

// path returns what an epoch went on from, newest first, if that is known.
func (c *Chain) path(epoch uint64) ([]Place, bool) {
	l := c.lines[epoch]
	switch {
	case l.whole():
		return l.since, true
	case l.start > 1 || len(l.log) == 0:
		return nil, false
	case l.prev == ID{}:
		return nil, true
	}
	from, ok := c.find(l.prev, epoch)
	if !ok {
		return nil, false
	}
	return c.pathFrom(from), true
}

// pathFrom is the path of an epoch that goes on from a place.
func (c *Chain) pathFrom(from Place) []Place {
	older, _ := c.path(from.Epoch)
	path := append([]Place{from}, older...)
	return path[:min(len(path), MaxSince)]
}

// covered returns the last record of an epoch that lies on a path. An epoch before
// all that the path names does as a whole.
func covered(path []Place, epoch uint64) uint64 {
	for _, p := range path {
		if p.Epoch == epoch {
			return p.Seq
		}
	}
	if len(path) > 0 && epoch < path[len(path)-1].Epoch {
		return maxSeq
	}
	return 0
}

// find looks for a record of an epoch before this one by its ID, newest first:
// branch points lie near heads.
func (c *Chain) find(id ID, before uint64) (Place, bool) {
	for epoch, l := range c.lines {
		if epoch >= before {
			continue
		}
		for _, h := range slices.Backward(l.log) {
			if h.ID == id {
				return Place{epoch, h.Seq}, true
			}
		}
	}
	return Place{}, false
}

// crowded reports whether records are kept of as many newer epochs as may be.
func (c *Chain) crowded(l *line) bool {
	feeds := 0
	for epoch, other := range c.lines {
		if epoch > l.key.Epoch && len(other.log) > 0 {
			feeds++
		}
	}
	return feeds >= maxFeeds
}

// settle has every feed begin where the newest complete snapshot of the origin says:
// right after what that replaces, or with a complete snapshot of its own. What does
// not is given up, and so is what is older than the epochs that are kept.
func (c *Chain) settle() {
	var newest *line
	feeds := 0
	for _, epoch := range slices.Backward(c.Epochs()) {
		l := c.lines[epoch]
		if l.over = 0; newest != nil {
			l.over = covered(newest.since, epoch)
		}
		switch first := l.over + 1; {
		case l.start < first:
			l.ahead, l.parts = nil, nil
			l.cut(first)
		case l.start > first && !l.whole():
			c.giveUp(l)
		}
		if feeds == maxFeeds {
			c.giveUp(l)
		}
		if len(l.log) > 0 {
			feeds++
		}
		if newest == nil && l.whole() {
			newest = l
		}
	}
}

// giveUp makes a feed empty, to be filled anew from where it may begin.
func (c *Chain) giveUp(l *line) {
	if len(l.log) > 0 {
		c.gone = append(c.gone, Span{l.key.Feed(), l.start, l.head().Seq})
	}
	l.empty(l.over + 1)
}

// Span is consecutive records of one feed.
type Span struct {
	Feed     FeedID
	From, To uint64
}

// Settle brings the feeds in line with each other. Call it when what is stored of one
// has been restored; all else does it by itself.
func (c *Chain) Settle() { c.settle() }

// Gone returns the records that were given up since it was called last: those before
// a feed's Start apart, they do not count any more, and the feed wants others.
func (c *Chain) Gone() []Span {
	gone := c.gone
	c.gone = nil
	return gone
}

// Leftover reports whether records of an older epoch than the newest remain.
func (c *Chain) Leftover() bool {
	feeds := 0
	for _, l := range c.lines {
		if len(l.log) > 0 {
			feeds++
		}
	}
	return feeds > 1
}
