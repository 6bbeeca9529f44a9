package trail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

// Seal takes a signed head of exactly the leaves that were added: then they count, and are
// durable. A head that does not fit them drops what was added since the last one, and
// changes nothing else. Errors wrap ErrCheckpoint (the genesis names another key), ErrRoot
// (the leaves are others: with a head that is signed, the node keeps two histories, or
// whoever gave the leaves changed them), ErrRollback (it is of fewer leaves) or the disk's.
func (c *Copy) Seal(raw []byte) error {
	if err := c.seal(raw); err != nil {
		return errors.Join(err, c.drop())
	}
	return nil
}

func (c *Copy) seal(raw []byte) error {
	if c.Added() == 0 {
		return fmt.Errorf("%w: it has no genesis", ErrLeaf)
	}
	head, err := OpenCheckpoint(raw, c.vkey)
	if err != nil {
		return err
	}
	if head.Size < c.head.Size || head.Size != c.Added() {
		return fmt.Errorf("%w: the head is of %d leaves, there are %d", ErrRollback, head.Size, c.Added())
	}
	root, err := c.tree.GetRootHash(nil)
	if err != nil {
		return err
	}
	//bailiwick:check TestReplayedLeaf/custodian
	if [32]byte(root) != head.Root {
		return ErrRoot
	}
	if string(head.Raw) == string(c.head.Raw) {
		return nil
	}
	if n := uint64(len(c.edge)); n > 0 {
		if err := c.write(layout.EntriesPath(head.Size/width, uint8(n)), frame(c.edge)); err != nil {
			return err
		}
	}
	for key, row := range c.rows {
		if err := c.write(layout.TilePath(uint64(key.Level), key.Index, uint8(len(row))), join(row)); err != nil {
			return err
		}
	}
	if err := c.write(layout.CheckpointPath, head.Raw); err != nil {
		return err
	}
	before := c.size
	c.head, c.size = head, head.Size
	if err := c.collect(before, c.size); err != nil {
		return err
	}
	return c.narrow()
}

// narrow removes the edges of older heads: nobody else reads a copy while it is written.
func (c *Copy) narrow() error {
	for key, row := range c.rows {
		if err := keepOnly(filepath.Join(c.dir, layout.TilePath(uint64(key.Level), key.Index, 0))+".p", len(row)); err != nil {
			return err
		}
	}
	return keepOnly(filepath.Join(c.dir, layout.EntriesPath(c.size/width, 0))+".p", int(c.size%width))
}

func keepOnly(dir string, w int) error {
	return sweepDir(dir, func(name string) bool { return name == strconv.Itoa(w) })
}

// drop forgets what was added since the last head.
func (c *Copy) drop() error {
	for index := c.size / width; index < (c.Added()+width-1)/width; index++ {
		if err := durable.Missing(os.Remove(filepath.Join(c.dir, layout.EntriesPath(index, 0)))); err != nil {
			return err
		}
	}
	for level, from, to := uint64(0), c.size/width, c.Added()/width; to > from || level == 0; level, from, to = level+1, from/width, to/width {
		for index := from; index < to; index++ {
			if err := durable.Missing(os.Remove(filepath.Join(c.dir, layout.TilePath(level, index, 0)))); err != nil {
				return err
			}
		}
	}
	if c.size == 0 {
		c.vkey = ""
	} else if err := c.sweep(); err != nil {
		return err
	}
	return c.restart()
}
