package trail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// Epochs returns the epochs that have a folder in dir, <state>/trail, in
// ascending order; none where dir is missing.
func Epochs(dir string) ([]uint64, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, durable.Missing(err)
	}
	var out []uint64
	for _, f := range files {
		if e, err := strconv.ParseUint(f.Name(), 10, 64); err == nil && f.IsDir() && strconv.FormatUint(e, 10) == f.Name() {
			out = append(out, e)
		}
	}
	slices.Sort(out)
	return out, nil
}

// EpochDir is the folder of one epoch, as Verify, List and Tail take it.
func EpochDir(dir string, epoch uint64) string {
	return filepath.Join(dir, strconv.FormatUint(epoch, 10))
}

// readHead reads the head of a folder as it stands, without believing it.
func readHead(dir string) (raw []byte, c Checkpoint, err error) {
	raw, err = readFile(filepath.Join(dir, layout.CheckpointPath), maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		if _, terr := os.Stat(filepath.Join(dir, "tile")); terr == nil {
			return nil, c, fmt.Errorf("%w: it is missing", ErrCheckpoint)
		}
		return nil, c, fmt.Errorf("%w: %s", ErrNoTrail, dir)
	}
	if err != nil {
		return nil, c, err
	}
	c, err = PeekCheckpoint(raw)
	return raw, c, err
}

// List returns at most max leaves from an index on, as they stand under the
// present head. Nothing is verified; that is for Verify. A writer may run
// meanwhile. Past the end there are none, and those that were removed by age are left out.
func List(ctx context.Context, dir string, from uint64, max int) ([]Indexed, error) {
	_, c, err := readHead(dir)
	if err != nil {
		return nil, err
	}
	return list(ctx, tiles{dir: dir, size: c.Size}, from, max)
}

// Tail returns the last n leaves, oldest first, as List does.
func Tail(ctx context.Context, dir string, n int) ([]Indexed, error) {
	_, c, err := readHead(dir)
	if err != nil {
		return nil, err
	}
	return list(ctx, tiles{dir: dir, size: c.Size}, c.Size-min(c.Size, uint64(max(n, 0))), n)
}

func list(ctx context.Context, t tiles, from uint64, max int) ([]Indexed, error) {
	var out []Indexed
	for index := from; index < t.size && len(out) < max; {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		if t.gone(index / width) {
			index = (index/width + 1) * width
			continue
		}
		raw, err := t.bundle(index / width)
		if err != nil {
			return out, err
		}
		for ; index < t.size && len(out) < max; index++ {
			l, err := ParseLeaf(raw[index%width])
			if err != nil {
				return out, fmt.Errorf("leaf %d: %w", index, err)
			}
			out = append(out, Indexed{index, l})
			if index%width == width-1 {
				index++
				break
			}
		}
	}
	return out, nil
}

// ReadGenesis returns what leaf 0 says of a trail, unverified.
func ReadGenesis(dir string) (Genesis, error) {
	_, c, err := readHead(dir)
	if err != nil {
		return Genesis{}, err
	}
	l, err := tiles{dir: dir, size: c.Size}.leaf(0)
	if err != nil {
		return Genesis{}, err
	}
	return readGenesis(l)
}

func readGenesis(l Leaf) (g Genesis, err error) {
	if l.Kind != genesisKind.name {
		return g, fmt.Errorf("%w: leaf 0 is a %s, not a genesis", ErrLeaf, l.Kind)
	}
	if err := statement.Unmarshal(l.Body, &g); err != nil {
		return g, fmt.Errorf("%w: genesis: %w", ErrLeaf, err)
	}
	return g, nil
}

// readGap reads the body of a gap leaf.
func readGap(l Leaf) (g Gap, err error) {
	if err := statement.Unmarshal(l.Body, &g); err != nil {
		return g, fmt.Errorf("%w: gap: %w", ErrLeaf, err)
	}
	return g, nil
}
