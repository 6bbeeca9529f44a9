package trail

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

// sweep removes what a killed writer left: temporary files, which nobody else
// removes, and bundles of a batch that never became part of the tree. Writing
// happens only at the right edge, so only the edge's folders are looked at.
func (t tiles) sweep() error {
	if err := sweepDir(t.dir, func(name string) bool {
		return !strings.HasPrefix(name, layout.CheckpointPath) || name == layout.CheckpointPath
	}); err != nil {
		return err
	}
	known := map[string]bool{"version": true, "treeState": true, "treeState.lock": true, "publish.lock": true, "gcState": true, "gcState.lock": true}
	if err := sweepDir(filepath.Join(t.dir, ".state"), func(name string) bool { return known[name] }); err != nil {
		return err
	}
	for _, next := range []uint64{0, 1} { // a batch may have crossed into the next bundle
		bundle := t.size/width + next
		keep := uint64(width)
		if next == 0 {
			keep = t.size % width
		}
		if err := t.sweepEdge(layout.EntriesPath(bundle, 0), keep); err != nil {
			return err
		}
		for level, n := uint64(0), t.size+width; n > 0; level, n = level+1, n/width {
			if err := t.sweepEdge(layout.TilePath(level, bundle>>(level*layout.TileHeight), 0), width); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepEdge cleans the folder a full resource stands in, and the folder of its
// partial versions, where none wider than keep may stay.
func (t tiles) sweepEdge(full string, keep uint64) error {
	path := filepath.Join(t.dir, full)
	if err := sweepDir(filepath.Dir(path), func(name string) bool { return len(name) == 3 }); err != nil {
		return err
	}
	return sweepDir(path+".p", func(name string) bool {
		w, ok := edgeWidth(name)
		return ok && w <= keep
	})
}

// sweepDir removes the plain files of one folder whose names are not to keep.
func sweepDir(dir string, keep func(name string) bool) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return durable.Missing(err)
	}
	for _, f := range files {
		if f.Type().IsRegular() && !keep(f.Name()) {
			if err := durable.Missing(os.Remove(filepath.Join(dir, f.Name()))); err != nil {
				return err
			}
		}
	}
	return nil
}

// collect removes the partial versions of resources that became full between two
// published sizes. A reader of an older head takes the full ones.
func (t tiles) collect(from, to uint64) error {
	first, end := from/width, to/width
	for index := first; index < end; index++ {
		if err := os.RemoveAll(filepath.Join(t.dir, layout.EntriesPath(index, 0)) + ".p"); err != nil {
			return err
		}
	}
	for level := uint64(0); end > first; level, first, end = level+1, first/width, end/width {
		for index := first; index < end; index++ {
			if err := os.RemoveAll(filepath.Join(t.dir, layout.TilePath(level, index, 0)) + ".p"); err != nil {
				return err
			}
		}
	}
	return nil
}
