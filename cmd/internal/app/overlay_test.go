package app

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
)

func numbered(i int) spiffeid.ID {
	return spiffeid.RequireFromString(fmt.Sprintf("spiffe://east.dev.example/node/n%d", i))
}

func region(n int) (out []replica.Member) {
	for i := range n {
		out = append(out, replica.Member{ID: numbered(i), Domain: fmt.Sprint(i % 5)})
	}
	return out
}

func all(spiffeid.ID) bool { return true }

func none(spiffeid.ID) bool { return false }

func others(members []replica.Member, self spiffeid.ID) []replica.Member {
	return slices.DeleteFunc(slices.Clone(members), func(m replica.Member) bool { return m.ID == self })
}

// Up to fullMesh others everybody is kept; above, a number that does not grow.
func TestOverlayKeeps(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	now := time.Unix(1_800_000_000, 0)
	for _, n := range []int{1, 2, fullMesh + 1} {
		o := overlay{self: numbered(0)}
		if got := o.keep(others(region(n), o.self), all, now, rng.IntN); len(got) != n-1 {
			t.Errorf("of %d nodes %d links are kept", n, len(got))
		}
	}
	for _, n := range []int{fullMesh + 2, 100, 500} {
		members := region(n)
		degree, most, sum := map[spiffeid.ID]int{}, 0, 0
		for _, m := range members {
			o := overlay{self: m.ID}
			kept := o.keep(others(members, m.ID), none, now, rng.IntN)
			if len(kept) != 6+farLinks || kept[m.ID] {
				t.Fatalf("%s of %d keeps %d links", m.ID, n, len(kept))
			}
			for id := range kept {
				degree[id]++ // kept from the other side; one kept from both counts twice
			}
		}
		for id, in := range degree {
			most, sum = max(most, in), sum+in
			if in < 4 {
				t.Errorf("%d nodes: only %d keep a link to %s", n, in, id)
			}
		}
		if most > 30 {
			t.Errorf("%d nodes: %d keep a link to one", n, most)
		}
		t.Logf("%d nodes: links kept from the other side %.1f on average, %d at most", n, float64(sum)/float64(n), most)
	}
}

// Those that do not answer are replaced, and go on being tried.
func TestOverlayAroundTheAway(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	now := time.Unix(1_800_000_000, 0)
	members := others(region(200), numbered(0))
	o := overlay{self: numbered(0)}
	before := replica.Draw(o.self, members, now)
	gone := map[spiffeid.ID]bool{before[0]: true, before[1]: true}
	kept := o.keep(members, func(id spiffeid.ID) bool { return gone[id] }, now, rng.IntN)
	for _, id := range before {
		if !kept[id] {
			t.Errorf("%s is not tried any more", id)
		}
	}
	if len(kept) < 6+2+farLinks-1 {
		t.Errorf("%d links are kept: nobody took the place of the two", len(kept))
	}
	if len(o.keep(members, all, now, rng.IntN)) != 6 || len(o.far) != 0 {
		t.Errorf("with all away it keeps %v", o.far)
	}
}

// One of those by chance changes every term, the others stay.
func TestOverlayChangesByAndBy(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	now := time.Unix(1_800_000_000, 0)
	members := others(region(500), numbered(0))
	o := overlay{self: numbered(0)}
	o.keep(members, none, now, rng.IntN)
	seen := map[spiffeid.ID]bool{}
	for range 20 {
		before := slices.Clone(o.far)
		now = now.Add(farTerm / 2)
		o.keep(members, none, now, rng.IntN)
		if !slices.Equal(o.far, before) {
			t.Errorf("changed before its term")
		}
		now = now.Add(farTerm / 2)
		o.keep(members, none, now, rng.IntN)
		if len(o.far) != farLinks || !slices.Equal(o.far[:farLinks-1], before[1:]) {
			t.Fatalf("%v after %v", o.far, before)
		}
		seen[o.far[farLinks-1]] = true
	}
	if len(seen) < 18 {
		t.Errorf("%d different nodes in 20 terms", len(seen))
	}
}

func TestSurplus(t *testing.T) {
	var links []unused
	for i := range maxIdle {
		links = append(links, unused{numbered(i), time.Duration(i) * time.Second / 2})
	}
	if got := surplus(slices.Clone(links)); len(got) != 0 {
		t.Errorf("%v are closed", got)
	}
	links = append(links, unused{numbered(100), idleAfter}, unused{numbered(101), 9 * time.Second}, unused{numbered(102), 0})
	got := surplus(links)
	slices.SortFunc(got, func(a, b spiffeid.ID) int { return len(a.String()) - len(b.String()) })
	if len(got) != 3 || got[0] != numbered(maxIdle-1) || got[1] != numbered(100) && got[1] != numbered(101) {
		t.Errorf("%v are closed, want the three that were idle longest", got)
	}
	busy := make([]unused, 2*maxIdle)
	if got := surplus(busy); len(got) != 0 {
		t.Errorf("%d that are in use are closed", len(got))
	}
}

func TestOwnerOf(t *testing.T) {
	for prefix, want := range map[string]string{
		"/node/n1/service/shop":                 "spiffe://east.dev.example/node/n1",
		"/node/n1/":                             "spiffe://east.dev.example/node/n1",
		"/zone/deck/node/n1/x-a/b":              "spiffe://east.dev.example/zone/deck/node/n1",
		"spiffe://west.dev.example/node/n1/x-a": "spiffe://west.dev.example/node/n1",
		"":                                      "", "/": "", "/node/": "", "/node/n1": "", "/zone/deck/": "", "spiffe://": "", "spiffe://west.dev.example/": "",
	} {
		got, ok := ownerOf(east, prefix)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%q: %s, %v", prefix, got, ok)
		}
	}
}
