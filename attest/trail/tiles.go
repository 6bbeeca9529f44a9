package trail

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
)

const (
	width     = layout.TileWidth // entries of a bundle, hashes of a tile
	hashSize  = 32
	maxBundle = width * (2 + 0xffff)
)

var (
	// ErrTile means a bundle or tile that the head needs is missing, short or
	// does not fit its neighbours.
	ErrTile = errors.New("a tile does not fit the trail")

	// ErrNoTrail means the folder holds no trail. Give the folder of one epoch:
	// <state>/trail/<epoch>.
	ErrNoTrail = errors.New("no trail in this folder")
)

var hasher = rfc6962.DefaultHasher

// tiles reads the files of a trail as of one size. A right edge that has grown
// since is cut back to it.
type tiles struct {
	dir  string
	size uint64
	kept *kept // nil: every read is one of the disk
}

// open reads what the spec calls a partial resource, or, where that was
// collected since, the full one: then more follows than was asked for.
func (t tiles) open(path func(p uint8) string, p uint8, max int64) (b []byte, more bool, err error) {
	b, err = readFile(filepath.Join(t.dir, path(p)), max)
	if p != 0 && errors.Is(err, fs.ErrNotExist) {
		more = true
		b, err = readFile(filepath.Join(t.dir, path(0)), max)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, fmt.Errorf("%w: %s is missing", ErrTile, path(p))
	}
	return b, more, err
}

func readFile(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Grow(int(min(max, info.Size())) + bytes.MinRead) // room to meet the end in: no second read
	if _, err := b.ReadFrom(io.LimitReader(f, max+1)); err != nil {
		return nil, err
	}
	if int64(b.Len()) > max {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrTile, path, max)
	}
	return b.Bytes(), nil
}

// bundle returns the encoded leaves of one bundle: as many as there are before
// the first that is short, with an error that says so.
func (t tiles) bundle(index uint64) ([][]byte, error) {
	return t.kept.entries(index, func() ([][]byte, error) { return t.readBundle(index) })
}

func (t tiles) readBundle(index uint64) ([][]byte, error) {
	p := layout.PartialTileSize(0, index, t.size)
	want := int(p)
	if p == 0 {
		want = width
	}
	path := func(p uint8) string { return layout.EntriesPath(index, p) }
	b, more, err := t.open(path, p, maxBundle)
	if err != nil {
		return nil, err
	}
	out := make([][]byte, 0, want)
	for len(out) < want {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return out, fmt.Errorf("%w: %s ends after %d of %d leaves", ErrTile, path(p), len(out), want)
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		out, b = append(out, b[2:n:n]), b[n:]
	}
	if len(b) != 0 && !more {
		return out, fmt.Errorf("%w: %s holds more than %d leaves", ErrTile, path(p), want)
	}
	return out, nil
}

// tile returns the hashes of one tile.
func (t tiles) tile(level, index uint64) ([][]byte, error) {
	return t.kept.hashes(level, index, func() ([][]byte, error) { return t.readTile(level, index) })
}

func (t tiles) readTile(level, index uint64) ([][]byte, error) {
	p := layout.PartialTileSize(level, index, t.size)
	want := int(p)
	if p == 0 {
		want = width
	}
	path := func(p uint8) string { return layout.TilePath(level, index, p) }
	b, more, err := t.open(path, p, width*hashSize)
	if err != nil {
		return nil, err
	}
	if len(b) < want*hashSize || len(b) > want*hashSize && !more {
		return nil, fmt.Errorf("%w: %s has %d bytes instead of %d", ErrTile, path(p), len(b), want*hashSize)
	}
	out := make([][]byte, want)
	for i := range out {
		out[i] = b[i*hashSize : (i+1)*hashSize]
	}
	return out, nil
}

// root computes the root of the first n leaves from the tiles.
func (t tiles) root(n uint64) ([32]byte, error) {
	if n == 0 {
		return [32]byte(hasher.EmptyRoot()), nil
	}
	var hashes [][]byte
	for _, id := range compact.RangeNodes(0, n, nil) {
		h, err := t.node(id)
		if err != nil {
			return [32]byte{}, err
		}
		hashes = append(hashes, h)
	}
	r, err := (&compact.RangeFactory{Hash: hasher.HashChildren}).NewRange(0, n, hashes)
	if err != nil {
		return [32]byte{}, err
	}
	root, err := r.GetRootHash(nil)
	if err != nil {
		return [32]byte{}, err
	}
	return [32]byte(root), nil
}

// node returns the hash of a complete subtree. Tiles keep every eighth level;
// what lies between is hashed again.
func (t tiles) node(id compact.NodeID) ([]byte, error) {
	level, above := id.Level/layout.TileHeight, id.Level%layout.TileHeight
	first := id.Index << above // at the tile's own level
	row, err := t.tile(uint64(level), first/width)
	if err != nil {
		return nil, err
	}
	lo := int(first % width)
	hi := lo + 1<<above
	if hi > len(row) {
		return nil, fmt.Errorf("%w: level %d has no node %d in a tree of %d", ErrTile, id.Level, id.Index, t.size)
	}
	if t.kept != nil {
		return t.kept.inner(uint64(level), first/width, row)[above][lo>>above], nil
	}
	row = append([][]byte(nil), row[lo:hi]...)
	for len(row) > 1 {
		for i := range len(row) / 2 {
			row[i] = hasher.HashChildren(row[2*i], row[2*i+1])
		}
		row = row[:len(row)/2]
	}
	return row[0], nil
}

// leaf returns one leaf.
func (t tiles) leaf(index uint64) (Leaf, error) {
	b, err := t.bundle(index / width)
	if uint64(len(b)) <= index%width {
		return Leaf{}, fmt.Errorf("leaf %d: %w", index, errors.Join(ErrTile, err))
	}
	l, err := ParseLeaf(b[index%width])
	if err != nil {
		return Leaf{}, fmt.Errorf("leaf %d: %w", index, err)
	}
	return l, nil
}

// beyond reports whether leaves lie on disk behind the tree's right edge.
func (t tiles) beyond() (bool, error) {
	index, p := t.size/width, t.size%width
	full := filepath.Join(t.dir, layout.EntriesPath(index, 0))
	if _, err := os.Stat(full); err == nil {
		return true, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	edges, err := os.ReadDir(full + ".p")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	for _, e := range edges {
		if w, ok := edgeWidth(e.Name()); ok && w > p {
			return true, nil
		}
	}
	return false, nil
}

// edgeWidth reads the name of a partial resource: 1 to 255.
func edgeWidth(name string) (uint64, bool) {
	w, err := strconv.ParseUint(name, 10, 8)
	return w, err == nil && w > 0 && strconv.FormatUint(w, 10) == name
}
