package trail

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/tessera/api/layout"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

// Copy is another node's trail of one epoch, as a custodian keeps it: the same files,
// for Verify, List and whoever else reads a trail. Only leaves travel; the tiles over
// them are derived here, and nothing counts before a signed head covers it. It is
// owned by one goroutine.
type Copy struct {
	owner spiffeid.ID
	epoch uint64
	head  Checkpoint // as Seal last took it; the zero value at first
	tiles            // as of head

	tree *compact.Range              // of all that was added
	rows map[compact.NodeID][][]byte // the right edge of each level of tiles
	edge [][]byte                    // leaves behind the last full bundle
	vkey string                      // what the genesis names
}

// OpenCopy opens or begins a copy of a node's trail in dir, the folder of one epoch.
// Full bundles that came before a crash count as added. Errors wrap ErrDamaged, ErrNode
// or the disk's. A damaged copy is to be removed and made again.
func OpenCopy(dir string, node spiffeid.ID, epoch uint64) (*Copy, error) {
	if _, err := Origin(node, epoch); err != nil {
		return nil, err
	}
	c := &Copy{owner: node, epoch: epoch, tiles: tiles{dir: dir}}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	raw, head, err := readHead(dir)
	if errors.Is(err, ErrNoTrail) || errors.Is(err, ErrCheckpoint) && !c.has(layout.CheckpointPath) {
		return c, c.restart() // never sealed
	}
	if err == nil {
		c.head, c.size = head, head.Size
		err = c.own(raw)
	}
	if err == nil {
		err = c.sweep()
	}
	if err == nil {
		err = c.restart()
	}
	if err == nil {
		err = c.narrow()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: copy %s: %w", ErrDamaged, dir, err)
	}
	return c, nil
}

func (c *Copy) has(path string) bool {
	_, err := os.Stat(filepath.Join(c.dir, path))
	return err == nil
}

// own checks that the head on disk is by the key of the genesis on disk.
func (c *Copy) own(raw []byte) error {
	l, err := c.leaf(0)
	if err != nil {
		return err
	}
	if err := c.genesis(l); err != nil {
		return err
	}
	if c.head, err = OpenCheckpoint(raw, c.vkey); err != nil {
		return err
	}
	root, err := c.root(c.size)
	if err == nil && root != c.head.Root {
		err = ErrRoot
	}
	return err
}

func (c *Copy) genesis(l Leaf) error {
	g, err := readGenesis(l)
	if err != nil {
		return err
	}
	if g.Node != c.owner.String() || g.Epoch != c.epoch {
		return fmt.Errorf("%w: it is the trail of %s in epoch %d", ErrLeaf, g.Node, g.Epoch)
	}
	c.vkey = g.Verifier
	return nil
}

// restart makes the edge what is on disk: all under the head, and full bundles behind it.
func (c *Copy) restart() error {
	c.rows, c.edge = map[compact.NodeID][][]byte{}, nil
	var hashes [][]byte
	for _, id := range compact.RangeNodes(0, c.size, nil) {
		h, err := c.node(id)
		if err != nil {
			return err
		}
		hashes = append(hashes, h)
	}
	var err error
	if c.tree, err = (&compact.RangeFactory{Hash: hasher.HashChildren}).NewRange(0, c.size, hashes); err != nil {
		return err
	}
	for level, n := uint(0), c.size; n > 0; level, n = level+1, n/width {
		if n%width == 0 {
			continue
		}
		row, err := c.tile(uint64(level), n/width)
		if err != nil {
			return err
		}
		c.rows[compact.NodeID{Level: level, Index: n / width}] = row
	}
	if c.size%width != 0 {
		if c.edge, err = c.bundle(c.size / width); err != nil {
			return err
		}
	}
	for c.has(layout.EntriesPath(c.Added()/width, 0)) {
		full, err := tiles{dir: c.dir, size: (c.Added()/width + 1) * width}.bundle(c.Added() / width)
		if err != nil {
			return nil // it comes again
		}
		for _, b := range full[len(c.edge):] {
			if err := c.add(b, false); err != nil {
				return nil
			}
		}
	}
	return nil
}

// Dir is the folder of the copy.
func (c *Copy) Dir() string { return c.dir }

// Head is the head that Seal took last; its Size is zero where there was none.
func (c *Copy) Head() Checkpoint { return c.head }

// Whole reports whether the copy's head is still on the disk: somebody may have removed the folder. Then
// open it anew.
func (c *Copy) Whole() bool { return c.head.Size == 0 || c.has(layout.CheckpointPath) }

// Added is how many leaves there are, under the head and behind it: the index of the
// leaf to add next.
func (c *Copy) Added() uint64 { return c.tree.End() }

// Add puts leaves behind those that are there, as ReadRaw gives them. They count only
// once a head is sealed. Errors wrap ErrLeaf or the disk's.
func (c *Copy) Add(leaves [][]byte) error {
	for _, b := range leaves {
		if err := c.add(b, true); err != nil {
			return err
		}
	}
	return nil
}

func (c *Copy) add(b []byte, write bool) error {
	l, err := ParseLeaf(b)
	if err == nil && c.Added() == 0 {
		err = c.genesis(l)
	}
	if err != nil {
		return err
	}
	at := c.Added()
	failed := c.hash(hasher.HashLeaf(b))
	if c.edge = append(c.edge, b); len(c.edge) == width {
		if write {
			failed = errors.Join(failed, c.write(layout.EntriesPath(at/width, 0), frame(c.edge)))
		}
		c.edge = nil
	}
	return failed
}

// hash adds the hash of a leaf to the tree, and writes the tiles that become full.
func (c *Copy) hash(h []byte) (failed error) {
	err := c.tree.Append(h, func(id compact.NodeID, h []byte) {
		if id.Level%layout.TileHeight != 0 {
			return
		}
		key := compact.NodeID{Level: id.Level / layout.TileHeight, Index: id.Index / width}
		c.rows[key] = append(c.rows[key], h)
		if len(c.rows[key]) == width {
			failed = errors.Join(failed, c.write(layout.TilePath(uint64(key.Level), key.Index, 0), join(c.rows[key])))
			delete(c.rows, key)
		}
	})
	return errors.Join(err, failed)
}

func (c *Copy) write(path string, b []byte) error {
	path = filepath.Join(c.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return durable.Replace(path, b, 0o644)
}

// SetWitnessed keeps a head of the copied trail that has cosignatures, unless a newer one is kept; who
// reads the copy verifies them. Errors wrap ErrCheckpoint, ErrRollback (it is of more leaves), ErrRoot or
// the disk's.
func (c *Copy) SetWitnessed(raw []byte) error {
	head, err := c.past(raw)
	if err != nil {
		return err
	}
	old, err := readWitnessed(c.dir)
	if err == nil && old != nil && (old.Size > head.Size || string(old.Raw) == string(raw)) {
		return nil
	}
	return replaceWitnessed(c.dir, raw, time.Now())
}

// AddHashes is Add for a bundle whose owner removed the leaves by age: what ReadHashes gives for the next
// leaf. Of a bundle that was here in part, these leaves go too.
func (c *Copy) AddHashes(row []byte) error {
	if len(row) != width*hashSize || c.Added() < width {
		return fmt.Errorf("%w: %d bytes are no hashes of a bundle at leaf %d", ErrTile, len(row), c.Added())
	}
	have := len(c.edge)
	c.edge = nil
	for i := have; i < width; i++ {
		if err := c.hash(row[i*hashSize : (i+1)*hashSize]); err != nil {
			return err
		}
	}
	return nil
}

func join(hashes [][]byte) (out []byte) {
	for _, h := range hashes {
		out = append(out, h...)
	}
	return out
}

// frame is the bundle of leaves.
func frame(leaves [][]byte) (out []byte) {
	for _, b := range leaves {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(b))), b...)
	}
	return out
}

// Genesis is what leaf 0 says. It is believed only as far as the caller knows its key. Errors wrap ErrLeaf or
// ErrTile.
func (c *Copy) Genesis() (Genesis, error) {
	if c.Added() == 0 {
		return Genesis{}, fmt.Errorf("%w: it has no genesis", ErrLeaf)
	}
	if c.Added() < width {
		l, err := ParseLeaf(c.edge[0])
		if err != nil {
			return Genesis{}, err
		}
		return readGenesis(l)
	}
	l, err := tiles{dir: c.dir, size: c.Added() / width * width}.leaf(0)
	if err != nil {
		return Genesis{}, err
	}
	return readGenesis(l)
}
