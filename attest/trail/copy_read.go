package trail

import (
	"fmt"
)

// ReadRaw returns the head of the trail in dir and the leaves under it from an index on, as
// they are encoded: as many as fit in limit bytes, but one at least where there is one.
// Nothing is verified. Where the first was removed by age it returns the head and ErrPruned: then ask
// ReadHashes. Other errors are those of List.
func ReadRaw(dir string, from uint64, limit int) (head []byte, leaves [][]byte, err error) {
	head, c, err := readHead(dir)
	if err != nil {
		return nil, nil, err
	}
	t := tiles{dir: dir, size: c.Size}
	for index := from; index < c.Size; {
		if t.gone(index / width) {
			if len(leaves) > 0 {
				return head, leaves, nil
			}
			return head, nil, fmt.Errorf("%w: leaf %d", ErrPruned, index)
		}
		raw, err := t.bundle(index / width)
		if err != nil {
			return head, leaves, err
		}
		for _, b := range raw[index%width:] {
			if limit -= len(b) + 2; limit < 0 && len(leaves) > 0 {
				return head, leaves, nil
			}
			leaves = append(leaves, b)
			index++
		}
	}
	return head, leaves, nil
}

// ReadWitnessed returns the newest witnessed head of the trail in dir as it stands, nil where there is
// none. Nothing is verified.
func ReadWitnessed(dir string) ([]byte, error) {
	c, err := readWitnessed(dir)
	if c == nil || err != nil {
		return nil, err
	}
	return c.Raw, nil
}

// ReadHashes returns the 256 hashes of the full bundle that a leaf is in, 32 bytes each, as the tile in
// dir has them. Errors wrap ErrTile or the file system's.
func ReadHashes(dir string, from uint64) ([]byte, error) {
	_, c, err := readHead(dir)
	if err != nil {
		return nil, err
	}
	if (from/width+1)*width > c.Size {
		return nil, fmt.Errorf("%w: leaf %d of %d is in no full bundle", ErrTile, from, c.Size)
	}
	row, err := tiles{dir: dir, size: c.Size}.tile(0, from/width)
	return join(row), err
}
