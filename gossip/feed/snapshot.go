package feed

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// Bounds and habits of snapshots.
const (
	MaxParts = 1024 // records of one snapshot
	MaxSince = 8    // epochs that it names

	// KeptHeaders is how many headers of records before its start a holder keeps
	// of each feed.
	KeptHeaders = 512

	dueRecords = 1024      // records after a snapshot, before the next is due
	dueBytes   = 256 << 10 // their encoded size, likewise
)

// Place is a record's place among the feeds of one origin. The zero value is no record.
type Place struct {
	Epoch uint64 `cbor:"1,keyasint"`
	Seq   uint64 `cbor:"2,keyasint"`
}

// Written says, in a snapshot, which record wrote a key first with this value. It
// is the owner's word: that record may be gone.
type Written struct {
	Epoch  uint64 `cbor:"1,keyasint"`
	Seq    uint64 `cbor:"2,keyasint"`
	Record ID     `cbor:"3,keyasint"`
	HLC    HLC    `cbor:"4,keyasint"`
}

var errRestates = errors.New("only a snapshot says of each key when it was written")

// restates checks an op against the kind of its record.
func (o *Op) restates(h *Header) error {
	w := o.Written
	if (w != nil) != (h.Kind == Snapshot) {
		return fmt.Errorf("%w: %s", errRestates, o.Key)
	}
	if w == nil {
		return nil
	}
	if w.Seq == 0 || w.Epoch == 0 || w.Epoch > h.Epoch || w.Epoch == h.Epoch && w.Seq >= h.Base {
		return fmt.Errorf("%w: %s was written in %d/%d, restated in %d/%d", errRestates, o.Key, w.Epoch, w.Seq, h.Epoch, h.Base)
	}
	return nil
}

// isPart reports whether the snapshot fields of a snapshot's header make sense.
func (h Header) isPart() bool {
	return h.Parts >= 1 && h.Parts <= MaxParts && h.Base >= 1 && h.Base <= h.Seq && h.Seq-h.Base < uint64(h.Parts) &&
		isPath(h.Since, h.Epoch)
}

// isPath reports whether places can be what an epoch went on from, newest first.
func isPath(places []Place, epoch uint64) bool {
	for _, p := range places {
		if p.Epoch == 0 || p.Epoch >= epoch || p.Seq == 0 || p.Seq > maxSeq {
			return false
		}
		epoch = p.Epoch
	}
	return len(places) <= MaxSince
}

// isLast reports whether the header is that of a snapshot's last part.
func (h Header) isLast() bool { return h.Kind == Snapshot && h.Seq-h.Base == uint64(h.Parts)-1 }

// completeFrom returns the first part of the newest snapshot that is complete at
// the header, as its origin says; zero when there is none, or the header does not tell.
func (h Header) completeFrom() uint64 {
	if h.Kind == Snapshot && !h.isLast() {
		return 0
	}
	return h.Base
}

// series is a snapshot under way. Where base lies before the start of its line it is
// the rest of one: it says nothing, and only its parts can follow.
type series struct {
	base  uint64
	parts uint16
	since []Place
	live  map[string]value
	bytes int
	last  string // key
}

// continues returns the series that rec belongs to. Errors wrap ErrSnapshot.
func (l *line) continues(rec Record, ops []Op) (*series, error) {
	if rec.Kind != Snapshot {
		switch {
		case l.based() && rec.Base != l.base:
			return nil, fmt.Errorf("%w: record %d of %s names the snapshot at %d, the newest is at %d", ErrSnapshot, rec.Seq, rec.Feed(), rec.Base, l.base)
		case !l.based() && rec.Base >= l.start:
			return nil, fmt.Errorf("%w: record %d of %s names a snapshot at %d, which is none", ErrSnapshot, rec.Seq, rec.Feed(), rec.Base)
		}
		return nil, nil
	}
	s := l.series
	switch {
	case rec.Seq == rec.Base:
		s = &series{base: rec.Base, parts: rec.Parts, since: rec.Since, live: map[string]value{}}
	case len(l.log) == 0 && rec.Base < l.start:
		s = &series{base: rec.Base, parts: rec.Parts, since: rec.Since}
	case s == nil || s.base != rec.Base || s.parts != rec.Parts || !slices.Equal(s.since, rec.Since):
		return nil, fmt.Errorf("%w: record %d of %s is no next part of a snapshot", ErrSnapshot, rec.Seq, rec.Feed())
	}
	last := s.last
	for _, op := range ops {
		if op.Key <= last {
			return nil, fmt.Errorf("%w: record %d of %s: key %s is not above %s", ErrSnapshot, rec.Seq, rec.Feed(), op.Key, last)
		}
		last = op.Key
	}
	return s, nil
}

// add takes the ops of the next part.
func (s *series) add(ops []Op) {
	for _, op := range ops {
		if s.last = op.Key; op.Action == Put {
			size := len(op.Key) + len(op.Value)
			s.live[strings.Clone(op.Key)] = value{size, s.base}
			s.bytes += size
		}
	}
}

// quota reports whether the snapshot stays within limits with these ops.
func (s *series) quota(ops []Op, class string, limits Limits) error {
	keys, bytes := len(s.live), s.bytes
	for _, op := range ops {
		if op.Action == Put {
			keys++
			bytes += len(op.Key) + len(op.Value)
		}
	}
	return withinLive(keys, bytes, class, limits)
}

// Parts splits the ops of a snapshot, whose keys must ascend, into the bodies of its
// records. None still makes one.
func Parts(ops []Op) [][]Op {
	var out [][]Op
	var part []Op
	size := 3 // an array's head
	for _, op := range ops {
		b, err := statement.Marshal(op)
		if err != nil {
			panic(err) // a struct of strings, numbers and bytes always encodes
		}
		if len(part) == MaxOps || len(part) > 0 && size+len(b) > MaxBody {
			out, part, size = append(out, part), nil, 3
		}
		part, size = append(part, op), size+len(b)
	}
	return append(out, part)
}
