package feed

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"
)

// tale is what a hostile origin signed: of each epoch one history, in which snapshots
// tell whatever of the epochs before.
type tale struct {
	lives   []life
	records map[FeedID][]Record
	ends    map[uint64]uint64 // of frozen epochs
}

// invent makes up a tale.
func invent(tb testing.TB, lives []life, rng *rand.Rand) *tale {
	out := &tale{lives, map[FeedID][]Record{}, map[uint64]uint64{}}
	for _, l := range lives {
		var base uint64
		var told []Record
		sign := func(h Header, ops ...Op) {
			h.Seq, h.HLC = uint64(len(told)+1), NewHLC(t0)
			if len(told) > 0 {
				last := told[len(told)-1]
				h.Prev, h.HLC = last.ID(), last.HLC+1
			}
			told = append(told, forge(tb, l, h, ops...))
		}
		for range 1 + rng.IntN(5) {
			switch rng.IntN(3) {
			case 0:
				from := uint64(len(told) + 1)
				parts := 1 + rng.IntN(3)
				var since []Place
				for e := l.Epoch - 1; e > 0; e-- {
					if rng.IntN(3) > 0 {
						since = append(since, Place{e, 1 + rng.Uint64N(9)})
					}
				}
				for i := range parts {
					sign(Header{Kind: Snapshot, Base: from, Parts: uint16(parts), Since: since}, restated(note(i), "x"))
				}
				base = from
			default:
				for range 1 + rng.IntN(4) {
					sign(Header{Base: base}, put(note(rng.IntN(9)), "y"))
				}
			}
		}
		out.records[l.Feed()] = told
		if rng.IntN(4) == 0 {
			out.ends[l.Epoch] = rng.Uint64N(uint64(len(told)) + 1)
		}
	}
	return out
}

// hear has a node hear a part of a tale, in an order of its own, and of some of the
// findings: as one does that was cut off now and then.
func (w *tale) hear(n *node, rng *rand.Rand) {
	now := t0.Add(time.Hour)
	heard := map[FeedID]int{}
	for range 4 * len(w.lives) {
		l := w.lives[rng.IntN(len(w.lives))]
		told := w.records[l.Feed()]
		switch rng.IntN(8) {
		case 0:
			if end, frozen := w.ends[l.Epoch]; frozen {
				n.FreezeAt(l.Epoch, end)
			}
		case 1:
			n.Witness(now, told[rng.IntN(len(told))].Signed)
		default:
			for range 1 + rng.IntN(6) {
				if i := heard[l.Feed()]; i < len(told) {
					n.admit(now, told[i])
					heard[l.Feed()]++
				}
			}
		}
	}
}

// Whatever an origin signs of its epochs, in whatever order that is heard: who has told
// each other everything holds the same.
func FuzzEpochsConverge(f *testing.F) {
	for seed := range uint64(150) {
		f.Add(seed)
	}
	var lives []life
	for epoch := range uint64(5) {
		lives = append(lives, newLife(f, n1, epoch+1, true))
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := invent(t, lives, rng)
		var nodes []*node
		for range 4 {
			n := newNode(t, n1, lives...)
			w.hear(n, rng)
			nodes = append(nodes, n)
		}
		nodes = append(nodes, newNode(t, n1, lives...)) // a late joiner
		for epoch, end := range w.ends {
			for _, n := range nodes {
				n.FreezeAt(epoch, end)
			}
		}
		exchange(lives, nodes...)
		for i, n := range nodes {
			if a, b := Frontier(maps.Collect(nodes[0].Heads())), Frontier(maps.Collect(n.Heads())); a.Root() != b.Root() {
				var story string
				for _, l := range lives {
					story += fmt.Sprintf("epoch %d (end %v):", l.Epoch, w.ends[l.Epoch])
					for _, rec := range w.records[l.Feed()] {
						story += fmt.Sprintf(" %d/%d/%d%v", rec.Kind, rec.Base, rec.Parts, rec.Since)
					}
					story += "\n"
					for _, n := range []*node{nodes[0], n} {
						at := n.lines[l.Epoch]
						story += fmt.Sprintf("    from %d to %d, base %d, over %d\n", at.start, at.head().Seq, at.base, at.over)
					}
				}
				t.Fatalf("nodes 0 and %d differ: %+v\n%s", i, a.Diff(b), story)
			}

		}

	})
}
