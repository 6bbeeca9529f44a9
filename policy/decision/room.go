package decision

import (
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// Room is what the log takes of the disk, and what it had to let go.
type Room struct {
	Files    int
	Bytes    int64 // that the files take, in whole blocks
	MaxBytes int64 // Config.MaxBytes
	Hold     bool  // Config.Hold
	Kept     uint64
	// Gone is how many events are no longer here, older than all that are: the gap leaves of the
	// trail say when they went.
	Gone uint64
}

// Room reads how much of it is used. Errors are the store's.
func (l *Log) Room() (r Room, err error) {
	r.MaxBytes, r.Hold = l.cfg.MaxBytes, l.cfg.Hold
	err = l.cfg.Store.View(func(tx *store.Tx) error {
		at, err := readPlace(tx)
		if err != nil {
			return err
		}
		r.Gone = at.Taken
		last, _ := tx.Last(activeBucket)
		r.Kept = max(sequence(last), at.Taken) - at.Taken
		return eachKept(tx, func(s segmentLeaf) {
			if r.Files == 0 {
				r.Gone = s.First - 1
			}
			r.Files++
			r.Bytes += onDisk(s.Bytes)
			r.Kept += uint64(s.Count)
		})
	})
	return r, err
}

// eachKept goes through the segments that are kept, oldest first.
func eachKept(tx *store.Tx, yield func(segmentLeaf)) error {
	var bad error
	tx.Range(keptBucket, nil, func(_, v []byte) bool {
		var s segmentLeaf
		if err := statement.Unmarshal(v, &s); err != nil {
			bad = fmt.Errorf("%w: %s: %v", store.ErrCorrupt, keptBucket, err)
			return false
		}
		yield(s)
		return true
	})
	return bad
}
