package trail

import (
	"context"
	"errors"
	"fmt"
)

// prunedBundle takes the hashes of a bundle that is gone from its tile. It is for the root to say
// whether they are the ones, and for a trail.prune leaf whether it may be gone.
func (w *walk) prunedBundle(index uint64) (whole bool, err error) {
	row, err := w.tile(0, index)
	if errors.Is(err, ErrTile) {
		w.report.Integrity.fail(int64(index*width), w.last, err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for i, h := range row {
		if err := w.grow(index*width+uint64(i), h); err != nil {
			return false, err
		}
	}
	w.report.Pruned += width
	w.jumped = true
	return true, nil
}

// mayBeGone judges at the end what was gone: one stretch behind the first bundle, that a leaf tells of.
func (w *walk) mayBeGone(ctx context.Context) error {
	if n := w.report.Pruned; n > 0 && w.allowed < width+n && w.o.Later != "" {
		below, err := laterRemoval(ctx, w.o.Later, w.report.Epoch)
		if err != nil {
			return err
		}
		w.allowed = max(w.allowed, below)
	}
	if n := w.report.Pruned; n > 0 && (w.firstKept() != width+n || w.allowed < width+n) {
		w.report.Integrity.fail(width, w.last, fmt.Errorf("%w: %d leaves are not there, and no leaf says that they were removed by age", ErrTile, n))
	}
	return nil
}

// laterRemoval is what the trails of later epochs in a folder say of the leaves of one.
func laterRemoval(ctx context.Context, dir string, epoch uint64) (below uint64, err error) {
	epochs, err := Epochs(dir)
	for _, e := range epochs {
		if e <= epoch {
			continue
		}
		s, err := OpenSnapshot(EpochDir(dir, e))
		if errors.Is(err, ErrNoTrail) || errors.Is(err, ErrCheckpoint) {
			continue
		}
		if err != nil {
			return 0, err
		}
		for l, err := range s.Leaves(ctx, 0) {
			if err != nil {
				return 0, err
			}
			if of, b, ok := Removal(l.Leaf, e); ok && of == epoch {
				below = max(below, b)
			}
		}
	}
	return below, err
}
