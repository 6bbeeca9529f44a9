package feed

import (
	"cmp"
	"maps"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// Frontier maps feeds to heads.
type Frontier map[FeedID]Head

// Feeds returns the frontier's feeds in their order: by origin, then epoch.
func (f Frontier) Feeds() []FeedID {
	return slices.SortedFunc(maps.Keys(f), func(a, b FeedID) int {
		return cmp.Or(cmp.Compare(a.Origin.String(), b.Origin.String()), cmp.Compare(a.Epoch, b.Epoch))
	})
}

// Root returns the hash-tree root: equal roots mean equal heads. Clocks and
// sizes are not in it.
func (f Frontier) Root() [32]byte {
	hashes := make([][32]byte, 0, len(f))
	for _, id := range f.Feeds() {
		if h := f[id]; h.Seq > 0 {
			b, err := statement.Marshal(headEntry{id.Origin.String(), id.Epoch, h.Seq, h.ID})
			if err != nil {
				panic(err) // a struct of strings, numbers and bytes always encodes
			}
			hashes = append(hashes, leafHash(b))
		}
	}
	return treeHash(hashes)
}

// Difference is a feed on which two frontiers disagree.
type Difference struct {
	Feed         FeedID
	Ours, Theirs Head
}

// Diff returns where the frontiers differ, in order.
func (f Frontier) Diff(theirs Frontier) []Difference {
	all := maps.Clone(f)
	if all == nil {
		all = Frontier{}
	}
	maps.Copy(all, theirs)
	var out []Difference
	for _, id := range all.Feeds() {
		a, b := f[id], theirs[id]
		if a.Seq != b.Seq || a.ID != b.ID {
			out = append(out, Difference{id, a, b})
		}
	}
	return out
}
