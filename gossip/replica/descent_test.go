package replica

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// tap is links between nodes that take time, and counts the bytes of frames of each
// type that pass.
type tap struct {
	latency time.Duration // each way
	rate    int           // bytes a second, each way; 0: no end of them

	mu    sync.Mutex // guards bytes
	bytes [frameEnd + 1]int
}

func (p *tap) count(t frameType, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes[t] += n
}

// counts are the bytes that have passed, by the type of frame.
func (p *tap) counts() [frameEnd + 1]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes
}

func (p *tap) sent() (n int) {
	for _, b := range p.counts() {
		n += b
	}
	return n
}

// compared is what comparing frontiers took.
func (p *tap) compared() int {
	c := p.counts()
	return c[frameRoot] + c[frameNodes] + c[frameLeaves] + c[frameHeads]
}

// join attaches two nodes.
func (p *tap) join(t *testing.T, a, b *node) (cut func()) {
	ours, x := net.Pipe()
	y, theirs := net.Pipe()
	carry := func(from, to net.Conn) {
		type due struct {
			at time.Time
			b  []byte
		}
		way := make(chan due, 1<<16)
		go func() {
			defer to.Close()
			for d := range way {
				if wait := time.Until(d.at); wait > 0 { // a timer for what is due fires within select: more work, for the race detector too
					select {
					case <-time.After(wait):
					case <-t.Context().Done():
						return
					}
				}
				if _, err := to.Write(d.b); err != nil {
					return
				}
			}
		}()
		defer close(way)
		in := bufio.NewReader(from)
		for {
			kind, body, err := readFrame(in)
			if err != nil {
				return
			}
			p.count(kind, 5+len(body))
			if p.rate > 0 {
				select {
				case <-time.After(time.Duration(5+len(body)) * time.Second / time.Duration(p.rate)):
				case <-t.Context().Done():
					return
				}
			}
			const burst = 10 * time.Millisecond // what comes within it comes at once, so that one commit takes it
			way <- due{time.Now().Add(p.latency).Truncate(burst).Add(burst), frame(kind, body)}
		}
	}
	go carry(x, y)
	go carry(y, x)
	go a.Attach(t.Context(), b.id, ours)
	go b.Attach(t.Context(), a.id, theirs)
	return func() {
		ours.Close()
		theirs.Close()
		settle(time.Second)
	}
}

// world is feeds of many origins that only exist in the stores of others.
type world struct {
	t     *testing.T
	feeds []*hostile
	recs  [][]feed.Record
	pad   int    // bytes that every record is larger
	base  uint64 // what records name
}

func newWorld(t *testing.T, n int) *world {
	w := &world{t: t, feeds: make([]*hostile, n), recs: make([][]feed.Record, n)}
	for i := range w.feeds {
		w.feeds[i] = newHostile(t, 1000+i)
	}
	return w
}

// write makes the next record of the i-th feed.
func (w *world) write(i int) feed.Record {
	h, before := w.feeds[i], w.recs[i]
	head := feed.Header{Seq: uint64(len(before) + 1), HLC: now(), Base: w.base}
	if len(before) > 0 {
		last := before[len(before)-1]
		head.Prev, head.HLC = last.ID(), max(head.HLC, last.HLC+1)
	}
	rec := h.sign(head, op(feed.KeyOf(h.id, feed.KindService, "shop"), fmt.Sprint(head.Seq)+strings.Repeat("x", w.pad)))
	w.recs[i] = append(before, rec)
	return rec
}

// snapshot makes the next record of the i-th feed one that replaces those before it.
func (w *world) snapshot(i int) feed.Record {
	h, last := w.feeds[i], w.recs[i][len(w.recs[i])-1]
	head := feed.Header{Kind: feed.Snapshot, Seq: last.Seq + 1, Base: last.Seq + 1, Parts: 1, Prev: last.ID(), HLC: last.HLC + 1}
	restated := op(feed.KeyOf(h.id, feed.KindService, "shop"), fmt.Sprint(last.Seq))
	restated.Written = &feed.Written{Epoch: 1, Seq: last.Seq, Record: last.ID(), HLC: last.HLC}
	rec := h.sign(head, restated)
	w.recs[i] = append(w.recs[i], rec)
	w.base = rec.Seq
	return rec
}

// give hands records to a node as a peer would, from nobody it knows later.
func (w *world) give(n *node, recs ...feed.Record) {
	w.t.Helper()
	if err := n.do(w.t.Context(), func() error {
		for _, rec := range recs {
			h := w.feeds[slices.IndexFunc(w.feeds, func(h *hostile) bool { return h.id == rec.Feed().Origin })]
			if _, err := n.learnKey(h.key); err != nil {
				return err
			}
			n.Replica.put(bucketCerts, feedKey(h.key.Feed()), h.key.Cert)
			c := n.chains[h.id]
			n.act(nil, c, c.Admit(time.Now(), rec), time.Now())
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
}

func TestComparingCostsTheDifference(t *testing.T) {
	const feeds = 1000
	for _, test := range []struct {
		name           string
		common, differ int // feeds that both have; of these, that one is ahead of
		most           int // bytes
	}{
		{"equal", feeds, 0, 4 * (5 + 32)},
		{"one differs", feeds, 1, 2 << 10},
		{"thirty differ", feeds, 30, 40 << 10},
		{"all differ", feeds, feeds, 400 << 10},
		{"one has none", 0, 0, 160 << 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newNode(t, 1), newNode(t, 2)
				a.put("shop", "1")
				b.put("shop", "1")
				meet := tap{latency: 20 * time.Millisecond}
				cut := meet.join(t, a, b)
				settle(5 * time.Second)
				cut()
				w := newWorld(t, feeds)
				for i := range feeds {
					rec := w.write(i)
					w.give(a, rec)
					if i < test.common {
						w.give(b, rec)
					}
				}
				for i := range test.differ {
					w.give([]*node{a, b}[i%2], w.write(i))
				}
				p := tap{latency: 20 * time.Millisecond}
				p.join(t, a, b)
				settle(900 * time.Millisecond) // before the next roots
				c := p.counts()
				t.Logf("%d bytes to compare %d feeds: roots %d, nodes %d, leaves %d, heads %d; wants %d, records %d, headers %d, certificates %d", p.compared(), feeds,
					c[frameRoot], c[frameNodes], c[frameLeaves], c[frameHeads], c[frameWant], c[frameRecord], c[frameHeader], c[frameCert])
				if p.compared() > test.most {
					t.Errorf("comparing took %d bytes, at most %d", p.compared(), test.most)
				}
				if test.differ <= 30 {
					converged(t, a, b)
				}
				settle(5 * time.Second)
				converged(t, a, b)
			})
		})
	}
}

// Heads move on both sides while the two compare.
func TestComparingWhileHeadsMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const feeds = 300
		a, b := newNode(t, 1), newNode(t, 2)
		w := newWorld(t, feeds)
		for i := range feeds {
			rec := w.write(i)
			w.give(a, rec)
			w.give(b, rec)
		}
		p := tap{latency: 150 * time.Millisecond}
		p.join(t, a, b)
		for i := range 3 * feeds {
			n := []*node{a, b}[i%feeds%2]
			w.give(n, w.write(i%feeds))
			settle(10 * time.Millisecond)
		}
		settle(3 * time.Second)
		converged(t, a, b)
		w.give(a, w.write(7))
		settle(3 * time.Second)
		converged(t, a, b)
	})
}

// What a hostile peer can have of us by comparing is bounded, whatever it says.
func TestComparingIsBounded(t *testing.T) {
	always := [32]byte{1}
	all := func(p feed.Prefix) (out []branch) {
		for i := range feed.Fanout {
			n := branch{prefix: p.Child(i)}
			for c := range n.children {
				n.children[c] = always
			}
			out = append(out, n)
		}
		return out
	}
	for _, test := range []struct {
		name   string
		frames [][]byte
	}{
		{"roots", [][]byte{frame(frameRoot, always[:]), frame(frameRoot, make([]byte, 32))}},
		{"nodes", nodesFrames(all(""))},
		{"nodes further down", nodesFrames(all("\x03"))},
		{"nothing of anything", leavesFrames([]leaves{{}})},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, h := newNode(t, 1), newHostile(t, 9)
				n.put("shop", "1")
				w := newWorld(t, 1000)
				for i := range w.feeds {
					w.give(n, w.write(i))
				}
				mine, theirs := net.Pipe()
				go n.Attach(t.Context(), h.id, theirs)
				var got atomic.Int64
				go func() {
					in := bufio.NewReader(mine)
					for {
						_, body, err := readFrame(in)
						if err != nil {
							return
						}
						got.Add(int64(5 + len(body)))
					}
				}()
				const seconds = 20
				sent := 0
				for start := time.Now(); time.Since(start) < seconds*time.Second; time.Sleep(time.Millisecond) {
					b := test.frames[sent%len(test.frames)]
					if _, err := mine.Write(b); err != nil {
						t.Fatalf("after %d frames: %v", sent, err)
					}
					sent++
				}
				t.Logf("%d bytes for %d frames", got.Load(), sent)
				if got.Load() > compareBurst+seconds*compareBytes*5/4 { // with what frames add
					t.Errorf("%d bytes in %d seconds", got.Load(), seconds)
				}
				mine.Close()
				synctest.Wait()
			})
		})
	}
}

// Frames that no tree leads to are the peer's fault.
func TestFalseTrees(t *testing.T) {
	id := feed.FeedID{Origin: nodeID(1), Epoch: 1}
	wrong := feed.Prefix("\x00")
	if wrong.Covers(id) {
		wrong = "\x01"
	}
	deep := feed.Prefix("\x01\x01\x01\x01\x01\x01\x01\x01")
	for name, b := range map[string][]byte{
		"nodes twice":          encode([]treeNode{{Prefix: []byte{1}, Hashes: []byte{}}, {Prefix: []byte{1}, Hashes: []byte{}}}),
		"nodes below another":  encode([]treeNode{{Prefix: []byte{1}, Hashes: []byte{}}, {Prefix: []byte{1, 2}, Hashes: []byte{}}}),
		"nodes too deep":       encode([]treeNode{encodeNode(branch{prefix: deep})}),
		"no prefix":            encode([]treeNode{{Prefix: []byte{16}, Hashes: []byte{}}}),
		"more children":        encode([]treeNode{{Which: 3, Hashes: make([]byte, 32)}}),
		"too many":             encode(slices.Repeat([]treeNode{{}}, maxNodes+1)),
		"children without sum": encode([]treeNode{{Which: 1, Hashes: []byte{}}}),
	} {
		if got, err := parseNodes(b); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for name, b := range map[string][]byte{
		"head of another subtree": encode([]treeLeaves{{Prefix: []byte(wrong), Heads: []headClaim{claimOf(id, feed.Head{Seq: 1})}}}),
		"head without records":    encode([]treeLeaves{{Heads: []headClaim{claimOf(id, feed.Head{})}}}),
		"leaves twice":            encode([]treeLeaves{{}, {}}),
		"too many":                encode(slices.Repeat([]treeLeaves{{}}, maxLeaves+1)),
	} {
		if got, err := parseLeaves(b); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, 1)
		for _, kind := range []frameType{frameNodes, frameLeaves} {
			on := newHostile(t, 9).to(n)
			on.send(kind, []byte{1})
			wantErr(t, <-on.err, ErrRelay)
		}
	})
}

// Peers for which Carry picks other origins are shown other trees, and those that
// agree share one; few are kept.
func TestCarriedSets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 40)
		part := func(peer, origin spiffeid.ID) bool { // some peers lack the feeds of some origins
			return name(peer)%16 != 3 && name(origin)%2 == 0 || name(origin)%16 == name(peer)%16
		}
		n := newNodeWith(t, 1, func(cfg *Config) { cfg.Carry = part })
		for i := range w.feeds {
			w.give(n, w.write(i))
			if i%10 > 0 {
				continue
			}
			if err := n.do(t.Context(), func() error {
				for j := range 60 {
					p := n.peers[nodeID(j)]
					if p == nil {
						p = &peer{id: nodeID(j)}
						n.peers[p.id] = p
					}
					want := feed.Frontier{}
					for origin, c := range n.chains {
						if part(p.id, origin) {
							for f, h := range c.Heads() {
								want[f] = h
							}
						}
					}
					if got := n.carriedWith(p).frontier(); got.Root() != want.Root() {
						t.Fatalf("%d feeds travel to %s, want %d", len(got), p.id, len(want))
					}
					if len(n.carried) > maxCarried {
						t.Fatalf("%d sets", len(n.carried))
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
