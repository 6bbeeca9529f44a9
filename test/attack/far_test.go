package attack

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// cutOff starts an honest node that has what the others lack: records of writers that only it
// could reach.
func (f *fleet) cutOff(name string, writers []*hostile, each, size int) (n *node, written map[*hostile][]feed.Record) {
	f.t.Helper()
	n = newNode(f.t, f, name, nil)
	f.enrol(n.id, n.self.Cert)
	n.start(f.t)
	written = map[*hostile][]feed.Record{}
	for _, w := range writers {
		s := w.attach(n)
		for i := range each {
			rec := w.say(op(w.key(fmt.Sprint("k", i%32)), fmt.Sprint(i, strings.Repeat("x", size))))
			s.record(rec)
			written[w] = append(written[w], rec)
		}
		eventually(f.t, 5*time.Second, "the node that is cut off has what was written there", func() bool { return n.has(w, each) })
	}
	return n, written
}

// joined links the node that was cut off to all others, and asks whether any is harmed.
func (f *fleet) joined(n *node) {
	f.t.Helper()
	for _, peer := range f.nodes[1:] {
		n.meet(f.t, peer)
	}
	f.nodes = append(f.nodes, n)
	f.measure()
	f.unharmed()
}

// has reports whether a node has so many records of a writer.
func (n *node) has(w *hostile, records int) bool {
	heads, _ := n.frontier()
	return heads[feed.FeedID{Origin: w.id, Epoch: 1}].Seq >= uint64(records)
}

// turncoats are so many members of the region, of names that begin alike.
func (f *fleet) turncoats(name string, count int) (out []*hostile) {
	for i := range count {
		out = append(out, f.turncoat(fmt.Sprint(name, i)))
	}
	return out
}

// After a partition nodes leave to each other what they fetch across it. A peer says things that
// make them wait for each other: it may not have them wait with what another has. How long they
// do, virtual time shows.
func TestFarClaims(t *testing.T) {
	// It claims more than anybody has: what little another has is still fetched at once.
	t.Run("wants", func(t *testing.T) {
		attacked(t, 3, func(t *testing.T, f *fleet) {
			pass(t, 2*time.Second)
			writers := f.turncoats("w", 5)
			far, _ := f.cutOff("z1", writers, 40, 900)
			h := f.turncoat("h1")
			s := h.attach(f.nodes[0])
			s.claim(f.madeUpOf(1<<30, 100)...)
			time.Sleep(100 * time.Millisecond)
			far.meet(t, f.nodes[0])
			start := time.Now()
			f.all(20*time.Second, "what the other side has is here", func(n *node) bool {
				return !slices.ContainsFunc(writers, func(w *hostile) bool { return !n.has(w, 40) })
			})
			if took := time.Since(start); virtual(t) && took > time.Second {
				t.Errorf("it took %s", took)
			}
			f.joined(far)
		})
	})
	// Some say all the time that their copies differ, and that they have a lot more: whoever has
	// news still gets its turn.
	t.Run("comparisons", func(t *testing.T) {
		attacked(t, 3, func(t *testing.T, f *fleet) {
			pass(t, 2*time.Second)
			writers := f.turncoats("w", 5)
			far, _ := f.cutOff("z1", writers, 20, 300)
			here := func() bool {
				return !slices.ContainsFunc(writers, func(w *hostile) bool { return !f.nodes[2].has(w, 20) })
			}
			var sessions []*session
			for _, h := range f.turncoats("x", rounds(t, 4, 2)) { // the node goes down for peers whose names come after its own
				s := h.attach(f.nodes[0])
				s.claim(f.madeUpOf(1<<30, 100)...)
				sessions = append(sessions, s)
			}
			joins := rounds(t, 200, 20)
			var joined time.Time
			for i := 0; !here(); i++ {
				for j, s := range sessions {
					s.send(frameRoot, bytes.Repeat([]byte{byte(i), byte(j)}, 16))
				}
				if i == joins {
					joined = time.Now()
					far.meet(t, f.nodes[0])
				}
				if i > joins && time.Since(joined) > bound(t, 10*time.Second) {
					t.Fatal("what the other side has is not here 10 s later")
				}
				time.Sleep(50 * time.Millisecond)
			}
			f.joined(far)
		})
	})
	// One whose copy is as complete as this node's brings a record now and then of what is missing.
	t.Run("drip", func(t *testing.T) {
		attacked(t, 2, func(t *testing.T, f *fleet) {
			pass(t, 2*time.Second)
			each := rounds(t, 600, 200)
			w := f.turncoat("w1")
			far, written := f.cutOff("z1", []*hostile{w}, each, 900)
			h, roots := f.turncoat("h1"), make(chan []byte, 64)
			s := h.link(f.nodes[0]).speak(func(kind byte, body []byte) {
				if kind == frameRoot && len(roots) < cap(roots) {
					roots <- body
				}
			})
			s.send(frameRoot, <-roots) // it has all the same
			accomplice := f.turncoat("h2").attach(f.nodes[0])
			accomplice.claim(headClaim{w.id.String(), 1, uint64(each), feed.ID{1}, 1 << 20})
			s.send(frameCert, w.self.Cert)
			start := time.Now()
			for i, rec := range written[w] {
				if i == 10 { // this node waits for it
					far.meet(t, f.nodes[0])
				}
				if f.nodes[0].has(w, each) {
					break
				}
				s.record(rec)
				time.Sleep(50 * time.Millisecond) // 20 kB a second
			}
			f.all(20*time.Second, "all of it is here", func(n *node) bool { return n.has(w, each) })
			if took := time.Since(start); virtual(t) && took > 12*time.Second {
				t.Errorf("what the other side has is here after %s", took)
			}
			f.joined(far)
		})
	})
}

// madeUpOf are heads of feeds that do not exist, each of so many bytes.
func (f *fleet) madeUpOf(size uint64, count int) []headClaim {
	out := f.madeUp(0)[:count]
	for i := range out {
		out[i].Bytes = size
	}
	return out
}
