package feed

import (
	"iter"
	"maps"
	"math"
	"slices"
)

const noLimit = math.MaxUint64

// FreezeAt closes an epoch's feed at lastGood at the latest, as a finding says,
// and reports whether that is news. It needs the epoch's key and is never undone.
func (c *Chain) FreezeAt(epoch, lastGood uint64) bool {
	l, ok := c.lines[epoch]
	return ok && l.freeze(lastGood)
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

// Wants reports whether a record with this number could still be admitted.
func (c *Chain) Wants(epoch, seq uint64) bool {
	l, ok := c.lines[epoch]
	return ok && seq > uint64(len(l.log)) && seq <= l.limit && !(c.held && l.limit == noLimit)
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
	for later, l := range c.lines {
		if later <= epoch || len(l.log) == 0 {
			continue
		}
		if l.prev == (ID{}) {
			return true
		}
		if e, s, ok := c.find(l.prev); ok && (epoch > e || epoch == e && seq > s) {
			return true
		}
	}
	return false
}

// find looks for a record by its ID, newest first: branch points lie near heads.
func (c *Chain) find(id ID) (epoch, seq uint64, ok bool) {
	for epoch, l := range c.lines {
		for _, h := range slices.Backward(l.log) {
			if h.ID == id {
				return epoch, h.Seq, true
			}
		}
	}
	return 0, 0, false
}
