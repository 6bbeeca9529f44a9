package decision

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// segmentLeaf is the body of a segment leaf.
type segmentLeaf struct {
	Segment uint64 `cbor:"segment"`
	Digest  []byte `cbor:"digest"` // SHA-256 of the file
	Bytes   int    `cbor:"bytes"`  // of the file
	Count   int    `cbor:"count"`
	First   uint64 `cbor:"first"`
	Last    uint64 `cbor:"last"`
}

// SegmentOf is the segment that a trail leaf names: the name of its file, the SHA-256 and the size of it.
func SegmentOf(leaf trail.Leaf) (name string, digest [32]byte, bytes int64, ok bool) {
	var s segmentLeaf
	if leaf.Kind != trail.Segment.Name() || statement.Unmarshal(leaf.Body, &s) != nil || len(s.Digest) != 32 || s.Bytes <= 0 || s.Bytes > MaxSegmentFile {
		return "", digest, 0, false
	}
	return segmentName(s.Segment), [32]byte(s.Digest), int64(s.Bytes), true
}

// Findings of Verify.
var (
	// ErrChain means that a segment does not follow the one before: one was exchanged, cut out or
	// put back from a copy.
	ErrChain = errors.New("the segment does not continue the one before")
	// ErrUnsigned means that the trail has another digest for a segment of that number, or none
	// while it has one for a later segment: the file was exchanged since it was written.
	ErrUnsigned = errors.New("the segment is not the one in the trail")
	// ErrMissing means that the trail names a segment newer than all files: the newest were deleted.
	// The node itself only removes the oldest, and never the last.
	ErrMissing = errors.New("the newest segments that the trail names are not there")
)

// Leaves collects what a trail says of segments. Its zero value is empty; give Add to
// trail.Options.Leaf, for every epoch.
type Leaves struct {
	digests map[uint64][]string // by segment; a disk that was put back may have written one again
	oldest  uint64              // the least that is named
	aged    bool                // the trail removed leaves by age
	newest  uint64              // that of the last leaf: after a disk was put back the numbers go on lower
}

// Add takes a leaf in, if it is one of a segment. Leaves come in the order of the trail.
func (l *Leaves) Add(leaf trail.Indexed) {
	var s segmentLeaf
	l.aged = l.aged || leaf.Kind == trail.Pruned.Name()
	if leaf.Kind != trail.Segment.Name() || statement.Unmarshal(leaf.Body, &s) != nil {
		return
	}
	if l.oldest == 0 || s.Segment < l.oldest {
		l.oldest = s.Segment
	}
	if l.digests == nil {
		l.digests = map[uint64][]string{}
	}
	l.digests[s.Segment] = append(l.digests[s.Segment], hex.EncodeToString(s.Digest))
	l.newest = s.Segment
}

// Report is what Verify found.
type Report struct {
	Segments int       `json:"segments"`
	Events   int       `json:"events"`
	First    uint64    `json:"first_segment,omitempty"` // the oldest kept
	From     time.Time `json:"from,omitzero"`
	To       time.Time `json:"to,omitzero"`
	Missing  uint64    `json:"missing"`            // events between the first and the last that are in no segment; gap leaves tell of them
	Waiting  int       `json:"waiting"`            // newest segments whose leaf is not in the trail yet
	Aged     int       `json:"aged,omitempty"`     // oldest segments whose leaves were removed by age: those behind them name their digests
	Absent   int       `json:"absent,omitempty"`   // segments that the trail names, where there is no folder: nothing of them was checked
	Err      error     `json:"-"`                  // the first finding, nil where there is none
	Finding  string    `json:"finding,omitempty"`  // Err in words
	BadFile  string    `json:"bad_file,omitempty"` // where it is
}

// Good reports whether nothing was found. Where segments are Absent there was nothing to find anything
// in: whoever relies on them must look at that as well.
func (r Report) Good() bool { return r.Err == nil }

func (r *Report) fail(file string, err error) {
	if r.Err == nil {
		r.Err, r.Finding, r.BadFile = err, err.Error(), file
	}
}

// Verify reads the segments in dir, a folder of segments, and checks their form, that each
// continues the one before, and that each is the one whose digest is in the trail. It needs no
// running node. What is wrong is in the Report; an error is the file system's. A trail may be somewhere
// without its segments: where there is no folder, the Report says how many are Absent. A folder without
// the newest that the trail names is a finding, be it empty.
func Verify(dir string, leaves Leaves) (r Report, err error) {
	files, err := segmentFiles(dir)
	if errors.Is(err, os.ErrNotExist) {
		r.Absent = len(leaves.digests)
		return r, nil
	}
	if err != nil {
		return r, err
	}
	var before Header
	var digest [32]byte
	for _, name := range files {
		b, err := readFile(name)
		if err != nil && !errors.Is(err, ErrSegment) {
			return r, err
		}
		var h Header
		if err == nil {
			h, digest, err = r.segment(name, b, before, digest, leaves)
		}
		if err != nil {
			r.fail(filepath.Base(name), err)
			return r, nil // what follows cannot be judged
		}
		before = h
	}
	if n, ok := leaves.after(before.Segment); ok {
		r.fail(segmentName(n), fmt.Errorf("%w: segment %d is the first of them, the trail names segment %d", ErrMissing, n, leaves.newest))
	}
	return r, nil
}

// after returns the first segment above n of those up to the newest.
func (l *Leaves) after(n uint64) (first uint64, ok bool) {
	for s := range l.digests {
		if s > n && s <= l.newest && (!ok || s < first) {
			first, ok = s, true
		}
	}
	return first, ok
}

func (r *Report) segment(name string, file []byte, before Header, prev [32]byte, leaves Leaves) (Header, [32]byte, error) {
	last := uint64(0)
	h, digest, err := readSegment(file, func(line []byte) error {
		e, err := ParseEvent(line)
		switch {
		case err != nil:
			return err
		case e.RequestID <= last:
			return fmt.Errorf("%w: event %d follows event %d", ErrSegment, e.RequestID, last)
		}
		last = e.RequestID
		return nil
	})
	number, _ := segmentNumber(filepath.Base(name))
	switch {
	case err != nil:
		return h, digest, err
	case h.Segment != number:
		return h, digest, fmt.Errorf("%w: it says that it is segment %d", ErrSegment, h.Segment)
	case last != h.Last:
		return h, digest, fmt.Errorf("%w: its last event is %d, its first line says %d", ErrSegment, last, h.Last)
	case before.Segment == 0:
		r.First, r.From = h.Segment, h.From
	case h.Segment != before.Segment+1 || h.Prev != hex.EncodeToString(prev[:]) || h.First <= before.Last:
		return h, digest, fmt.Errorf("%w: segment %d after %d", ErrChain, h.Segment, before.Segment)
	default:
		r.Missing += h.First - before.Last - 1
	}
	known := leaves.digests[h.Segment]
	if h.Segment > leaves.newest {
		r.Waiting++
	} else if leaves.aged && h.Segment < leaves.oldest {
		r.Aged++ // the next one names its digest
	} else if !slices.Contains(known, hex.EncodeToString(digest[:])) {
		return h, digest, fmt.Errorf("%w: segment %d", ErrUnsigned, h.Segment)
	}
	r.Segments, r.Events, r.To = r.Segments+1, r.Events+h.Count, h.To
	r.Missing += h.Last - h.First + 1 - uint64(h.Count)
	return h, digest, nil
}
