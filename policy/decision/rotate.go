package decision

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// maxSegmentText is how much text goes into one segment, in bytes; a longest event more at most.
const maxSegmentText = 8 << 20

const unfinished = ".tmp"

// errOvertaken: active events were dropped while a segment was made of them.
var errOvertaken = errors.New("events were dropped meanwhile")

// Rotate makes segments of all active events, and removes the oldest where they take too much. Errors
// are the file system's and the store's; the events stay where they are then.
func (l *Log) Rotate() error {
	l.rotating.Lock()
	defer l.rotating.Unlock()
	for {
		more, err := l.rotateOne()
		if errors.Is(err, errOvertaken) {
			continue
		}
		if err != nil {
			return err
		}
		if !more {
			return l.prune()
		}
	}
}

// rotateOne makes one segment, if there is an active event. The file is durable before the transaction
// that makes it a segment: a crash between the two leaves a file that the next one replaces.
func (l *Log) rotateOne() (more bool, err error) {
	at, h, lines, err := l.nextSegment()
	if err != nil || len(lines) == 0 {
		return false, err
	}
	file, err := encodeSegment(h, lines)
	if err != nil {
		return false, err
	}
	digest := statement.Digest(file)
	if err := l.writeFile(segmentName(h.Segment), file); err != nil {
		return false, fmt.Errorf("segment %d of decisions: %w", h.Segment, err)
	}
	leaf := segmentLeaf{Segment: h.Segment, Digest: digest[:], Bytes: len(file), Count: h.Count, First: h.First, Last: h.Last}
	err = l.cfg.Store.Update(func(tx *store.Tx) error {
		now, err := readPlace(tx)
		if err != nil {
			return err
		}
		if now.Taken != at.Taken {
			return errOvertaken
		}
		if _, err := take(tx, at.Taken, h.Last); err != nil {
			return err
		}
		kept, err := statement.Marshal(leaf)
		if err != nil {
			return err
		}
		return joined(trail.Append(tx, trail.Segment, leaf), tx.Put(keptBucket, numberKey(h.Segment), kept),
			place{Segment: h.Segment, Digest: digest[:], Taken: h.Last}.write(tx))
	})
	if err != nil {
		return false, err
	}
	return true, l.prune() // after each, so that no more than one is too many
}

func numberKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// nextSegment reads what goes into the next segment.
func (l *Log) nextSegment() (at place, h Header, lines [][]byte, err error) {
	err = l.cfg.Store.View(func(tx *store.Tx) error {
		var err error
		if at, err = readPlace(tx); err != nil {
			return err
		}
		size := 0
		tx.Range(activeBucket, binary.BigEndian.AppendUint64(nil, at.Taken+1), func(k, v []byte) bool {
			if len(lines) == 0 {
				h.First = sequence(k)
			}
			h.Last = sequence(k)
			lines = append(lines, bytes.Clone(v))
			size += len(v)
			return len(lines) < l.cfg.SegmentAt && size < maxSegmentText
		})
		return nil
	})
	if err != nil || len(lines) == 0 {
		return at, h, nil, err
	}
	first, err := ParseEvent(lines[0])
	if err != nil {
		return at, h, nil, fmt.Errorf("%w: %s: %v", store.ErrCorrupt, activeBucket, err)
	}
	last, err := ParseEvent(lines[len(lines)-1])
	if err != nil {
		return at, h, nil, fmt.Errorf("%w: %s: %v", store.ErrCorrupt, activeBucket, err)
	}
	h.Segment, h.Node, h.Prev, h.Count = at.Segment+1, l.cfg.Labels["id"], hex.EncodeToString(at.Digest), len(lines)
	h.From, h.To = first.Timestamp, last.Timestamp
	return at, h, lines, nil
}

func (l *Log) step(name string) error {
	if l.steps == nil {
		return nil
	}
	return l.steps(name)
}

// writeFile puts a file into the folder, all of it or nothing, and has it on the disk.
func (l *Log) writeFile(name string, b []byte) (err error) {
	if err := os.MkdirAll(l.cfg.Dir, 0o700); err != nil {
		return err
	}
	tmp := filepath.Join(l.cfg.Dir, name+unfinished) // one writer, one name: what a crash left is written over
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, durable.Missing(os.Remove(tmp)))
		}
	}()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"write", func() error { _, err := f.Write(b); return err }},
		{"sync", f.Sync},
		{"rename", func() error { return os.Rename(tmp, filepath.Join(l.cfg.Dir, name)) }},
		{"folder", func() error { return durable.SyncDir(l.cfg.Dir) }},
	} {
		if err := l.step(step.name); err != nil {
			return errors.Join(err, f.Close())
		}
		if err := step.do(); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// prune removes the oldest segments while all together are larger than they may be; the newest
// stays. A gap leaf tells how many events went with each, before the file does.
func (l *Log) prune() error {
	for removed := false; ; removed = true {
		var oldest *segmentLeaf
		total := int64(0)
		err := l.cfg.Store.View(func(tx *store.Tx) error {
			return eachKept(tx, func(s segmentLeaf) {
				if oldest == nil {
					oldest = &s
				}
				total += onDisk(s.Bytes)
			})
		})
		if err != nil {
			return err
		}
		if newest := oldest != nil && total == onDisk(oldest.Bytes); oldest == nil || newest || total <= l.cfg.MaxBytes || l.cfg.Hold {
			if err := l.sweep(oldest); err != nil || !removed {
				return err
			}
			return l.forget(oldest)
		}
		err = l.cfg.Store.Update(func(tx *store.Tx) error {
			why := fmt.Sprintf("segment %d of decisions was removed: all of them may take %d bytes", oldest.Segment, l.cfg.MaxBytes)
			return joined(tx.Delete(keptBucket, numberKey(oldest.Segment)), trail.AppendGap(tx, uint64(oldest.Count), why))
		})
		if err != nil {
			return err
		}
		l.metrics.WithLabelValues("removed").Add(float64(oldest.Count))
	}
}

// clockSlack is how far a clock may have been set back while segments were written: keys are kept for
// as much longer than the oldest segment says.
const clockSlack = 48 * time.Hour

// forget removes the keys of days of which no segment is left.
func (l *Log) forget(oldest *segmentLeaf) error {
	if l.cfg.Keys == nil {
		return nil
	}
	b, err := readFile(filepath.Join(l.cfg.Dir, segmentName(oldest.Segment)))
	if err != nil {
		return err
	}
	h, _, err := readSegment(b, func([]byte) error { return nil })
	if err != nil {
		return err
	}
	return l.cfg.Keys.Forget(h.From.Add(-clockSlack))
}

// onDisk is what a file takes of the disk: whole blocks.
func onDisk(bytes int) int64 {
	const block = 4096
	return (int64(bytes) + block - 1) / block * block
}

// sweep removes files of segments older than the oldest that is kept, and what a crash left
// unfinished.
func (l *Log) sweep(oldest *segmentLeaf) error {
	if oldest == nil {
		return nil
	}
	entries, err := os.ReadDir(l.cfg.Dir)
	if err != nil {
		return durable.Missing(err)
	}
	var errs []error
	for _, e := range entries {
		n, ok := segmentNumber(e.Name())
		if ok && n < oldest.Segment || strings.HasSuffix(e.Name(), segmentEnding+unfinished) {
			errs = append(errs, durable.Missing(os.Remove(filepath.Join(l.cfg.Dir, e.Name()))))
		}
	}
	return errors.Join(errs...)
}
