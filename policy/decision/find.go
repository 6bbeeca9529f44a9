package decision

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/payload"
)

const wholeID = 32 // digits

// Last returns the newest denial. Errors wrap ErrNotFound, or are the store's and the file
// system's.
func (l *Log) Last() (Event, error) {
	var value []byte
	err := l.cfg.Store.View(func(tx *store.Tx) error {
		tx.Range(activeBucket, nil, func(k, v []byte) bool {
			if k[len(k)-1] == denied {
				value = append(value[:0], v...)
			}
			return true
		})
		return nil
	})
	if err != nil {
		return Event{}, err
	}
	if value != nil {
		return l.opened(value)
	}
	var newest *Event
	err = l.backwards(func(line []byte) bool {
		if e, err := ParseEvent(line); err == nil && !e.Result.Allow {
			newest = &e
		}
		return true
	}, func() bool { return newest == nil })
	if err != nil {
		return Event{}, err
	}
	if newest == nil {
		return Event{}, fmt.Errorf("%w: nothing was denied yet", ErrNotFound)
	}
	return *newest, newest.open(l.keys())
}

// keys open events of this log.
func (l *Log) keys() opener {
	if l.cfg.Keys == nil {
		return payload.NewReader("") // there are none
	}
	return l.cfg.Keys
}

func (l *Log) opened(line []byte) (Event, error) {
	e, err := ParseEvent(line)
	if err != nil {
		return e, err
	}
	return e, e.open(l.keys())
}

// Prefix is the beginning of an ID, of four hex digits or more, in the spelling of IDs. Errors say
// what an ID is.
func Prefix(id string) (string, error) {
	prefix := strings.ToLower(id)
	switch {
	case strings.Trim(prefix, "0123456789abcdef") != "":
		return "", fmt.Errorf("%.40q is not the ID of a decision: want digits 0 to 9 and a to f, as in 71f76d024d6cf27a3285122cf1e5ffa3", id)
	case len(prefix) < 4, len(prefix) > wholeID:
		return "", fmt.Errorf("%.40q is not the ID of a decision: want 4 to %d digits", id, wholeID)
	}
	return prefix, nil
}

// Get returns the kept decision whose ID begins so (Prefix). Errors wrap ErrNotFound or
// ErrAmbiguous, or are those of Prefix, the store and the file system.
func (l *Log) Get(id string) (Event, error) {
	prefix, err := Prefix(id)
	if err != nil {
		return Event{}, err
	}
	found := map[string][]byte{} // by ID: a segment may be read while its events are still active
	err = l.cfg.Store.View(func(tx *store.Tx) error {
		tx.Range(activeBucket, nil, func(k, v []byte) bool {
			if id := hex.EncodeToString(k[8 : len(k)-1]); strings.HasPrefix(id, prefix) {
				found[id] = bytes.Clone(v)
			}
			return true
		})
		return nil
	})
	enough := func() bool { return len(found) > 1 || len(found) == 1 && len(prefix) >= wholeID }
	if err == nil && !enough() {
		mark := []byte(`"decision_id":"` + prefix)
		err = l.backwards(func(line []byte) bool {
			if bytes.Contains(line, mark) {
				if e, err := ParseEvent(line); err == nil && strings.HasPrefix(e.DecisionID, prefix) {
					found[e.DecisionID] = bytes.Clone(line)
				}
			}
			return !enough()
		}, func() bool { return !enough() })
	}
	switch {
	case err != nil:
		return Event{}, err
	case len(found) == 0:
		return Event{}, fmt.Errorf("%w: %s", ErrNotFound, prefix)
	case len(found) > 1:
		return Event{}, fmt.Errorf("%w: %s: %d of them", ErrAmbiguous, prefix, len(found))
	}
	for _, v := range found {
		return l.opened(v)
	}
	return Event{}, ErrNotFound
}

// backwards reads the segments, newest first, as long as more asks for another. A segment that the
// disk's bound takes meanwhile is skipped.
func (l *Log) backwards(line func([]byte) bool, more func() bool) error {
	files, err := segmentFiles(l.cfg.Dir)
	if err != nil {
		return durable.Missing(err)
	}
	for _, name := range slices.Backward(files) {
		if !more() {
			return nil
		}
		err := linesOf(name, func(b []byte) error {
			if !line(b) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
