package feed

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func treeFeed(i int) FeedID {
	return FeedID{spiffeid.RequireFromString(fmt.Sprintf("spiffe://east.dev.example/node/n%d", i)), uint64(i%3 + 1)}
}

func treeOf(f Frontier) *HeadTree {
	var t HeadTree
	for id, h := range f {
		t.Set(id, h)
	}
	return &t
}

// The tree says the same of one frontier however it came about, and another of any other.
func TestHeadTreeIsOfTheHeadsAlone(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var grown HeadTree
	heads := Frontier{}
	for step := range 3000 {
		f := treeFeed(rng.IntN(400))
		h := Head{Seq: rng.Uint64N(4), ID: ID{byte(rng.IntN(3))}, Bytes: rng.Uint64()} // seq 0: the feed goes
		before := grown.Hash("")
		changes := heads[f].Seq != h.Seq || h.Seq > 0 && heads[f].ID != h.ID
		grown.Set(f, h)
		if heads[f] = h; h.Seq == 0 {
			delete(heads, f)
		}
		if (grown.Hash("") != before) != changes {
			t.Fatalf("step %d: a change (%t) of %s shows as %t", step, changes, f, grown.Hash("") != before)
		}
		if step%50 != 0 {
			continue
		}
		anew := treeOf(heads)
		if grown.Hash("") != anew.Hash("") || grown.Len("") != len(heads) {
			t.Fatalf("step %d: %d heads in the tree of %d, root %x, built anew %x", step, grown.Len(""), len(heads), grown.Hash(""), anew.Hash(""))
		}
		if got := Frontier(maps.Collect(grown.Heads(""))); !maps.Equal(got, heads) {
			t.Fatalf("step %d: the tree yields %d heads of %d", step, len(got), len(heads))
		}
	}
	for f := range heads {
		grown.Set(f, Head{})
	}
	if grown.Hash("") != ([32]byte{}) || grown.Len("") != 0 {
		t.Errorf("of no heads: %x", grown.Hash(""))
	}
}

// Going down where hashes differ finds what differs, and little else is looked at.
func TestHeadTreeLeadsToTheDifference(t *testing.T) {
	heads := Frontier{}
	for i := range 1000 {
		heads[treeFeed(i)] = Head{Seq: 1}
	}
	ours := treeOf(heads)
	moved := treeFeed(417)
	heads[moved] = Head{Seq: 2}
	theirs := treeOf(heads)
	at, hashes := Prefix(""), 0
	for {
		a, ok := ours.Children(at)
		b, _ := theirs.Children(at)
		if !ok {
			break
		}
		hashes += Fanout
		next, differ := at, 0
		for i := range a {
			if a[i] != b[i] {
				next, differ = at.Child(i), differ+1
			}
			if ours.Hash(at.Child(i)) != a[i] {
				t.Fatalf("child %d of %q hashes to another than the tree says", i, at)
			}
		}
		if differ != 1 {
			t.Fatalf("%d children of %q differ", differ, at)
		}
		at = next
	}
	small := Frontier(maps.Collect(ours.Heads(at)))
	if _, ok := small[moved]; !ok || len(small) > SmallTree || hashes > 3*Fanout || !at.Covers(moved) {
		t.Errorf("%d hashes lead to %q with %d heads", hashes, at, len(small))
	}
	below := at.Child(digit(treeName(moved), len(at)))
	if Frontier(maps.Collect(ours.Heads(below)))[moved].Seq != 1 || ours.Hash(below) == theirs.Hash(below) {
		t.Errorf("below the smallest subtree %q the head is not found", below)
	}
}

func TestHeadTreeVectors(t *testing.T) {
	for _, v := range []struct {
		feeds int
		root  string
	}{
		{0, "0000000000000000000000000000000000000000000000000000000000000000"},
		{1, "31a5644b01a601dcfa9db82cbc26a5d30771ca711da77f4e614bfc56fa45fd8b"},
		{8, "569630bafdd9adddf1ea262f3d433ce351571c3a395e24059cbc91ff84c6672f"},
		{9, "b96dffc0807d5b98f0034c107600bdf8dd12fc5968d15b0c0eef55f133587d77"},
		{300, "2dbca3dd2c28690d3ce08b22bad41b0a1835101de521d33e1ea2686c4649b282"},
	} {
		var tree HeadTree
		for i := range v.feeds {
			tree.Set(treeFeed(i), Head{Seq: uint64(i + 1), ID: ID{byte(i)}})
		}
		root := tree.Hash("")
		if got := hex.EncodeToString(root[:]); got != v.root {
			t.Errorf("root of %d feeds: %s, want %s", v.feeds, got, v.root)
		}
	}
}

func TestPrefixOf(t *testing.T) {
	for _, v := range []struct {
		b  []byte
		ok bool
	}{{nil, true}, {[]byte{0, 15}, true}, {[]byte{16}, false}, {make([]byte, 8), true}, {make([]byte, 9), false}} {
		if _, ok := PrefixOf(v.b); ok != v.ok {
			t.Errorf("%v: %t", v.b, ok)
		}
	}
}
