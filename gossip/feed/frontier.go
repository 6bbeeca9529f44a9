package feed

import (
	"maps"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// Frontier maps feeds to heads.
type Frontier map[FeedID]Head

// Feeds returns the frontier's feeds in their order: by origin, then epoch.
func (f Frontier) Feeds() []FeedID {
	return slices.SortedFunc(maps.Keys(f), FeedID.Compare)
}

// Root returns the hash-tree root: equal roots mean equal heads. Clocks and
// sizes are not in it.
func (f Frontier) Root() [32]byte {
	hashes := make([][32]byte, 0, len(f))
	for _, id := range f.Feeds() {
		if h := f[id]; h.Seq > 0 {
			hashes = append(hashes, leafHash(entryOf(id, h)))
		}
	}
	return fold(hashes)
}

// entryOf is the leaf of a feed with records.
func entryOf(id FeedID, h Head) []byte {
	b, err := statement.Marshal(headEntry{id.Origin.String(), id.Epoch, h.Seq, h.ID})
	if err != nil {
		panic(err) // a struct of strings, numbers and bytes always encodes
	}
	return b
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
