package trail

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

// seenSizes are the sizes of the heads in SeenDir of the trail in dir, growing.
func seenSizes(dir string) (out []uint64, err error) {
	entries, err := os.ReadDir(filepath.Join(dir, SeenDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries { // in order of size
		if n, err := strconv.ParseUint(e.Name(), 10, 63); err == nil && seenName(n) == e.Name() {
			out = append(out, n)
		}
	}
	return out, nil
}

func seenName(size uint64) string { return fmt.Sprintf("%012d", size) }

// SeenPath is the file, in a trail's folder, of a head of so many leaves that is kept in SeenDir.
func SeenPath(size uint64) string { return filepath.Join(SeenDir, seenName(size)) }

// NewestSeen is the size of the newest head that is kept in SeenDir of the trail in dir; zero: none is.
func NewestSeen(dir string) (uint64, error) {
	sizes, err := seenSizes(dir)
	if len(sizes) == 0 {
		return 0, err
	}
	return sizes[len(sizes)-1], err
}

// ReadSeen returns the heads in SeenDir of the trail in dir that are of more leaves than above, by size:
// as many as fit in limit bytes, but one at least where there is one. Nothing is verified.
func ReadSeen(dir string, above uint64, limit int) (out [][]byte, err error) {
	sizes, err := seenSizes(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range sizes {
		if n <= above {
			continue
		}
		raw, err := readFile(filepath.Join(dir, SeenPath(n)), maxCheckpoint)
		if err != nil {
			return out, err
		}
		if limit -= len(raw); limit < 0 && len(out) > 0 {
			return out, nil
		}
		out = append(out, raw)
	}
	return out, nil
}

// KeepSeen keeps heads that the copied trail had earlier, with their cosignatures; who reads the copy
// verifies these. It is durable when it returns. Errors wrap ErrCheckpoint, ErrRollback (one is of more
// leaves), ErrRoot or the disk's; those before it are kept then.
func (c *Copy) KeepSeen(heads [][]byte) error {
	for _, raw := range heads {
		head, err := c.past(raw)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(c.dir, SeenDir), 0o755); err != nil {
			return err
		}
		if err := durable.Replace(filepath.Join(c.dir, SeenPath(head.Size)), raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// past reads a head that must be signed by the copied trail's key and lie in its past.
func (c *Copy) past(raw []byte) (Checkpoint, error) {
	head, err := OpenCheckpoint(raw, c.vkey)
	if err != nil {
		return head, err
	}
	if head.Size > c.size || head.Size == 0 {
		return head, fmt.Errorf("%w: a head of %d leaves, the copy has %d", ErrRollback, head.Size, c.size)
	}
	if root, err := c.root(head.Size); err != nil || root != head.Root {
		return head, errors.Join(ErrRoot, err)
	}
	return head, nil
}
