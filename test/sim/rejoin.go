package sim

import (
	"math"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// rejoinEvery is how often a fleet is looked at after a cut was healed.
const rejoinEvery = 10 * time.Millisecond

// rejoin is how two sides came together again.
type rejoin struct {
	begun   time.Duration // when the first session was there again
	took    time.Duration // until every honest node had the same frontier
	missing [2]uint64     // bytes of records that the side had and the other lacked
	crossed uint64        // bytes of frames that went across since
	ended   bool
}

// meet hears of each session that is there; the first across a healed cut begins the
// measurement.
func (f *fleet) meet(a, b *node) {
	if f.healing && f.wasInside(a) != f.wasInside(b) {
		f.healing = false
		f.watchRejoin()
	}
}

// watchRejoin measures from now on.
func (f *fleet) watchRejoin() {
	f.rejoin = &rejoin{begun: f.elapsed}
	sides := [2]feed.Frontier{{}, {}}
	for _, n := range f.nodes {
		if n.honest() && n.up {
			side := 0
			if f.wasInside(n) {
				side = 1
			}
			for id, h := range n.core.Frontier() {
				if h.Seq > sides[side][id].Seq {
					sides[side][id] = h
				}
			}
		}
	}
	for side, heads := range sides {
		for id, h := range heads {
			theirs := sides[1-side][id]
			if h.Seq > theirs.Seq {
				f.rejoin.missing[side] += f.between(side == 1, id, theirs.Seq)
			}
		}
	}
	f.tell(nil, "the sides meet again; they lack %d and %d bytes", f.rejoin.missing[0], f.rejoin.missing[1])
	r := f.rejoin
	f.after(rejoinEvery, func() { f.lookAtRejoin(r) })
}

// between is how many bytes of records of a feed follow seq at the nodes of a side.
func (f *fleet) between(inside bool, id feed.FeedID, seq uint64) uint64 {
	var most uint64
	for _, n := range f.nodes {
		if n.honest() && n.up && f.wasInside(n) == inside {
			most = max(most, n.disk.size(id, seq))
		}
	}
	return most
}

// wasInside reports whether a node was of the part that was cut off last.
func (f *fleet) wasInside(n *node) bool { return float64(n.index) < f.lastCut*float64(f.Nodes) }

// lookAtRejoin goes on until all frontiers are equal, or another cut comes.
func (f *fleet) lookAtRejoin(r *rejoin) {
	if f.rejoin != r {
		return
	}
	if f.diverged() > 0 {
		f.after(rejoinEvery, func() { f.lookAtRejoin(r) })
		return
	}
	r.took, r.ended = f.elapsed-r.begun, true
	f.tell(nil, "all frontiers are equal, %s after the sides met", r.took)
}

// rejoinValues adds what the Report tells of a cut.
func (f *fleet) rejoinValues(v map[string]float64) {
	r := f.rejoin
	if r == nil {
		return
	}
	if !r.ended {
		v["rejoined"], v["resent"], v["slower"] = math.Inf(1), math.Inf(1), math.Inf(1)
		return
	}
	v["rejoined"] = milliseconds(r.took)
	if missing := r.missing[0] + r.missing[1]; missing > 0 {
		v["resent"] = float64(r.crossed) / float64(missing)
	}
	if f.Thin > 0 {
		v["slower"] = r.took.Seconds() / duration(int(max(r.missing[0], r.missing[1])), f.Thin).Seconds()
	}
}
