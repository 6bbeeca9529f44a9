package trail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// ErrPruned means that leaves were removed by age. Their hashes are in the tiles, so that proofs of
// them stay valid; who has such a leaf can still prove it.
var ErrPruned = errors.New("the leaf was removed by age")

// pruned is the body of a trail.prune leaf.
type pruned struct {
	Epoch  uint64 `cbor:"epoch,omitempty"` // of an older trail of the same node; 0: the trail of the leaf
	Below  uint64 `cbor:"below"`           // leaves from width up to this index, not including it, may be gone
	Before int64  `cbor:"before"`          // all of them are of before this time, Unix seconds
}

// Removal reads a trail.prune leaf of the trail of an epoch: leaves below an index may be gone, of
// that epoch's trail or of an older one's.
func Removal(l Leaf, epoch uint64) (of, below uint64, ok bool) {
	var p pruned
	if l.Kind != Pruned.name || statement.Unmarshal(l.Body, &p) != nil {
		return 0, 0, false
	}
	if p.Epoch != 0 {
		epoch = p.Epoch
	}
	return epoch, p.Below, true
}

// stretch is what Prune removes of one epoch.
type stretch struct {
	dir         string
	epoch       uint64
	from, below uint64
}

// Prune removes the oldest leaves of all epochs up to this one, by whole bundles, as far as all of them
// are of before a time. A leaf that says so is under a signed head before anything goes; of an older
// epoch, whose trail has ended, it is in this one. Of each epoch the first bundle, with the genesis,
// what is behind the last full one, and all tiles stay. It returns how many leaves are gone by now. It
// may run beside the writer, one at a time. Errors are those of Flush, or the disk's; what is left over
// goes the next time.
func (t *Trail) Prune(ctx context.Context, before time.Time) (gone uint64, err error) {
	var all []stretch
	epochs, err := Epochs(t.cfg.Dir)
	for _, e := range epochs {
		if e > t.cfg.Epoch {
			break
		}
		s, serr := t.old(e, before)
		if serr != nil {
			return 0, fmt.Errorf("epoch %d: %w", e, serr)
		}
		if s.below > width {
			all, gone = append(all, s), gone+s.below-width
		}
	}
	if err != nil || len(all) == 0 {
		return 0, err
	}
	if err := t.tellPruned(all, before); err != nil {
		return 0, err
	}
	if err := t.Flush(ctx); err != nil {
		return 0, err
	}
	for _, s := range all {
		if err := removeBelow(s.dir, s.from, s.below); err != nil {
			return 0, err
		}
	}
	return gone, nil
}

// old is what one epoch has of before a time. A folder without a head has nothing.
func (t *Trail) old(epoch uint64, before time.Time) (s stretch, err error) {
	w := tiles{dir: t.Dir(), size: t.Head().Size}
	if epoch != t.cfg.Epoch {
		dir := EpochDir(t.cfg.Dir, epoch)
		_, c, err := readHead(dir)
		if errors.Is(err, ErrNoTrail) || errors.Is(err, ErrCheckpoint) {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		w = tiles{dir: dir, size: c.Size}
	}
	s = stretch{dir: w.dir, epoch: epoch, from: w.firstKept()}
	s.below, err = w.ageLimit(s.from, before)
	return s, err
}

// tellPruned records what is about to go, where no leaf says so yet.
func (t *Trail) tellPruned(all []stretch, before time.Time) error {
	return t.cfg.Store.Update(func(tx *store.Tx) error {
		for _, s := range all {
			key := []byte(filepath.Base(s.dir))
			var told uint64
			if v := tx.Get(pruneBucket, key); v != nil {
				if err := statement.Unmarshal(v, &told); err != nil {
					return err
				}
			}
			if s.below <= told {
				continue
			}
			body := pruned{Below: s.below, Before: before.Unix()}
			if s.epoch != t.cfg.Epoch {
				body.Epoch = s.epoch
			}
			v, err := statement.Marshal(s.below)
			if err != nil {
				return err
			}
			if err := errors.Join(Append(tx, Pruned, body), tx.Put(pruneBucket, key, v)); err != nil {
				return err
			}
		}
		return nil
	})
}

// pruneBucket holds the Below of the newest trail.prune leaf, by the folder's name.
const pruneBucket = "trail/pruned"

// removeBelow removes full bundles, the oldest first: what is gone is always one stretch.
func removeBelow(dir string, from, below uint64) error {
	for index := from / width; index < below/width; index++ {
		if err := durable.Missing(os.Remove(filepath.Join(dir, layout.EntriesPath(index, 0)))); err != nil {
			return err
		}
	}
	return nil
}

// gone reports whether a full bundle other than the first is not on disk.
func (t tiles) gone(index uint64) bool {
	if index == 0 || (index+1)*width > t.size {
		return false
	}
	_, err := os.Stat(filepath.Join(t.dir, layout.EntriesPath(index, 0)))
	return errors.Is(err, fs.ErrNotExist)
}

// firstKept is the index of the first leaf behind the first bundle, and what was removed after it.
func (t tiles) firstKept() uint64 {
	index := uint64(1)
	for t.gone(index) {
		index++
	}
	return index * width
}

// ageLimit returns the end of the full bundles that hold nothing as young as a time.
func (t tiles) ageLimit(from uint64, before time.Time) (uint64, error) {
	for ; from+width <= t.size; from += width {
		raw, err := t.bundle(from / width)
		if err != nil {
			return 0, err
		}
		for _, b := range raw {
			if l, err := ParseLeaf(b); err != nil {
				return 0, fmt.Errorf("%w: %w", ErrDamaged, err)
			} else if !l.At.Before(before) {
				return from, nil
			}
		}
	}
	return from, nil
}

// Prune removes the oldest leaves of a copy, as far as all of them are of before a time and below an
// index up to which the owner's trail says that they may be gone (Removal). each is called with each of
// them before any goes; its error ends it. Errors are its, or the disk's.
func (c *Copy) Prune(before time.Time, allowed uint64, each func(Indexed) error) error {
	from := c.firstKept()
	below, err := c.ageLimit(from, before)
	if err != nil {
		return err
	}
	below = min(below, allowed/width*width)
	for index := from; index < below; index += width {
		old, err := list(context.Background(), c.tiles, index, width)
		if err != nil {
			return err
		}
		for _, l := range old {
			if err := each(l); err != nil {
				return err
			}
		}
	}
	return removeBelow(c.dir, from, below)
}
