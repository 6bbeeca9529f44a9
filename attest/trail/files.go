package trail

import (
	"iter"

	"github.com/transparency-dev/tessera/api/layout"
)

// File is a file of a trail's folder.
type File struct {
	Path string // relative, with slashes
	Data []byte
}

// Paths yields the files that a trail of to leaves has and one of its first from leaves had not:
// bundles and tiles, full ones and the right edge of each level, as C2SP tlog-tiles names them. The
// head is not among them. All but the edges stay as they are for ever, and so does an edge of its width.
func Paths(from, to uint64) iter.Seq[string] {
	return func(yield func(string) bool) {
		for r := range resources(from, to) {
			if !yield(r.path()) {
				return
			}
		}
	}
}

// Files reads the files of Paths, from the first from leaves on to the head. An edge that has grown
// since is cut back. Bundles that were removed by age are left out. It ends with the first error:
// ErrTile or the file system's.
func (s *Snapshot) Files(from uint64) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		for r := range resources(from, s.head.Size) {
			if r.leaves && s.tiles.gone(r.index) {
				continue
			}
			rows, err := s.tiles.resource(r)
			if err != nil {
				yield(File{}, err)
				return
			}
			b := join(rows)
			if r.leaves {
				b = frame(rows)
			}
			if !yield(File{r.path(), b}, nil) {
				return
			}
		}
	}
}

// resource is a bundle of leaves, or a tile.
type resource struct {
	leaves       bool
	level, index uint64
	p            uint8 // its width, or 0: full
}

func (r resource) path() string {
	if r.leaves {
		return layout.EntriesPath(r.index, r.p)
	}
	return layout.TilePath(r.level, r.index, r.p)
}

func (t tiles) resource(r resource) ([][]byte, error) {
	if r.leaves {
		return t.bundle(r.index)
	}
	return t.tile(r.level, r.index)
}

func resources(from, to uint64) iter.Seq[resource] {
	return func(yield func(resource) bool) {
		for level := uint64(0); from < to; level, from, to = level+1, from/width, to/width {
			for index := from / width; index*width < to; index++ {
				p := uint8(0)
				if (index+1)*width > to {
					p = uint8(to % width)
				}
				if level == 0 && !yield(resource{leaves: true, index: index, p: p}) || !yield(resource{false, level, index, p}) {
					return
				}
			}
		}
	}
}
