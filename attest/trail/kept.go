package trail

import "sync"

// maxKept is how many bundles, and how many tiles, a snapshot remembers: some 3 MiB of usual leaves.
const maxKept = 64

// kept remembers what was read of the files of one size of a trail, for those who prove many leaves.
// A nil one remembers nothing. What it gives out is shared, and nobody writes to it.
type kept struct {
	mu      sync.Mutex // guards what follows
	bundles map[uint64][][]byte
	rows    map[[2]uint64][][]byte // by level and index
	trees   map[[2]uint64][][][]byte
}

func (k *kept) entries(index uint64, read func() ([][]byte, error)) ([][]byte, error) {
	if k == nil {
		return read()
	}
	return remember(&k.mu, &k.bundles, index, read)
}

func (k *kept) hashes(level, index uint64, read func() ([][]byte, error)) ([][]byte, error) {
	if k == nil {
		return read()
	}
	return remember(&k.mu, &k.rows, [2]uint64{level, index}, read)
}

// inner returns the hashes of all complete subtrees in a tile, by their height.
func (k *kept) inner(level, index uint64, row [][]byte) [][][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := [2]uint64{level, index}
	if t, ok := k.trees[key]; ok {
		return t
	}
	t := [][][]byte{row}
	for len(row) > 1 {
		above := make([][]byte, len(row)/2)
		for i := range above {
			above[i] = hasher.HashChildren(row[2*i], row[2*i+1])
		}
		t, row = append(t, above), above
	}
	if k.trees == nil || len(k.trees) >= maxKept {
		k.trees = map[[2]uint64][][][]byte{}
	}
	k.trees[key] = t
	return t
}

func remember[K comparable](mu *sync.Mutex, all *map[K][][]byte, key K, read func() ([][]byte, error)) ([][]byte, error) {
	mu.Lock()
	defer mu.Unlock()
	if b, ok := (*all)[key]; ok {
		return b, nil
	}
	b, err := read()
	if err != nil {
		return b, err
	}
	if *all == nil || len(*all) >= maxKept {
		*all = map[K][][]byte{}
	}
	(*all)[key] = b
	return b, nil
}
