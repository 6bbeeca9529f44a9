package sim

import (
	"math"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// update is one write and where it has come.
type update struct {
	number  int
	writer  int
	put     time.Duration
	written bool    // durable at its writer
	after   []int64 // by node: ns from put until it is durable there; zero: not yet
	from    []int32 // by node: who brought it; -1: nobody in particular
}

func (u *update) reach(node, from int, at time.Duration) {
	if u.after[node] == 0 {
		u.after[node], u.from[node] = int64(max(at-u.put, 1)), int32(from)
	}
}

// delays returns how long the updates took to the honest nodes that are up, sorted,
// and how many did not come. How long it took to who was down does not count.
func (f *fleet) delays() (all []time.Duration, lost int) {
	for _, u := range f.updates {
		if !u.written {
			continue // its writer died: nobody was told that it is kept
		}
		for _, n := range f.nodes {
			switch {
			case !n.honest() || !n.up || n.index == u.writer || u.put == 0:
			case u.after[n.index] == 0:
				lost++
			case n.since > u.put: // it was down
			default:
				all = append(all, time.Duration(u.after[n.index]))
			}
		}
	}
	slices.Sort(all)
	return all, lost
}

// quantile of sorted values; the nearest rank.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}

// total is what all nodes sent so far.
func (f *fleet) total() (t traffic) {
	for _, n := range f.nodes {
		t = t.plus(n.sent)
	}
	return t
}

// written counts the records of all feeds.
func (f *fleet) written() (count uint64) {
	for _, n := range f.nodes {
		if n.self != nil && n.up {
			count += n.core.Frontier()[feed.FeedID{Origin: n.id, Epoch: 1}].Seq
		}
	}
	return count
}

// diverged counts honest nodes that are up and whose frontier is another than that of
// most.
func (f *fleet) diverged() int {
	roots := map[[32]byte]int{}
	count := 0
	for _, n := range f.nodes {
		if n.honest() && n.up {
			roots[n.core.Frontier().Root()]++
			count++
		}
	}
	most := 0
	for _, c := range roots {
		most = max(most, c)
	}
	return count - most
}

// debt adds up what honest nodes know to be missing, and with owed what they know that
// honest peers lack.
func (f *fleet) debt() (missing, owed uint64) {
	for _, n := range f.nodes {
		if !n.honest() || !n.up {
			continue
		}
		d := n.core.Debt()
		missing += d.Missing.Records
		for _, p := range d.Peers {
			if peer := f.byID[p.Peer.String()]; peer.honest() && peer.up {
				owed += p.Owed.Records
			}
		}
	}
	return missing, owed
}

// spared counts the pairs of an honest node that is up and a guilty one that it has
// not convicted.
func (f *fleet) spared() (count int) {
	for _, bad := range f.nodes {
		if !bad.role.guilty() {
			continue
		}
		for _, n := range f.nodes {
			if n.honest() && n.up && n.core.Convicted(bad.id) == "" {
				count++
			}
		}
	}
	return count
}

// convicted is how long after somebody's second story the last honest node that is up had
// convicted them; zero where nobody lied, or somebody was spared.
func (f *fleet) convicted() (last time.Duration) {
	for id, lied := range f.lied {
		for _, n := range f.nodes {
			if at, ok := n.found[id]; ok && n.honest() && n.up {
				last = max(last, at-lied)
			}
		}
	}
	return last
}
