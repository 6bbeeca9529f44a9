package trail

import (
	"context"
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// regionHeads is the body of a region.heads leaf: signed heads, as the nodes showed them.
type regionHeads struct {
	Heads [][]byte `cbor:"heads"`
}

// headsPerLeaf bytes of heads go into one leaf.
const headsPerLeaf = 24 << 10

// AppendHeads records signed heads of a region's trails in the trail of its authority, which so is the
// log of the region. Heads of more than 4 KiB are left out.
func AppendHeads(tx *store.Tx, heads [][]byte) error {
	var part regionHeads
	size := 0
	flush := func() error {
		if len(part.Heads) == 0 {
			return nil
		}
		err := Append(tx, RegionHeads, part)
		part.Heads, size = nil, 0
		return err
	}
	for _, h := range heads {
		if len(h) > 4096 {
			continue
		}
		if size+len(h) > headsPerLeaf {
			if err := flush(); err != nil {
				return err
			}
		}
		part.Heads, size = append(part.Heads, h), size+len(h)
	}
	return flush()
}

// NewestHeads returns the newest signed head of each origin that the region's log names, in the trail of
// the region's authority in dir, the folder of one epoch. Neither that trail nor a head is verified
// here: give the head to OpenCheckpoint and then to Verify, as Options.Known. Errors are those of List,
// and ErrLeaf.
func NewestHeads(ctx context.Context, dir string) (map[string][]byte, error) {
	newest, sizes := map[string][]byte{}, map[string]uint64{}
	for from := uint64(0); ; {
		leaves, err := List(ctx, dir, from, 4096)
		if err != nil || len(leaves) == 0 {
			return newest, err
		}
		for _, l := range leaves {
			if l.Kind != RegionHeads.name {
				continue
			}
			var b regionHeads
			if err := statement.Unmarshal(l.Body, &b); err != nil {
				return nil, fmt.Errorf("%w: leaf %d: %w", ErrLeaf, l.Index, err)
			}
			for _, raw := range b.Heads {
				c, err := PeekCheckpoint(raw)
				if err == nil && (newest[c.Origin] == nil || c.Size >= sizes[c.Origin]) {
					newest[c.Origin], sizes[c.Origin] = raw, c.Size
				}
			}
		}
		from = leaves[len(leaves)-1].Index + 1
	}
}
