package replica

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func members(n, domains int) []Member {
	var out []Member
	for i := range n {
		m := Member{ID: nodeID(i + 1)}
		if domains > 0 {
			m.Domain = fmt.Sprint("zone", i%domains)
		}
		out = append(out, m)
	}
	return out
}

func drawAll(all []Member, now time.Time) map[spiffeid.ID][]spiffeid.ID {
	out := map[spiffeid.ID][]spiffeid.ID{}
	for _, m := range all {
		out[m.ID] = Draw(m.ID, all, now)
	}
	return out
}

func TestDraw(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for n := range 10 {
		if got := Draw(nodeID(1), members(n, 0), now); len(got) != min(max(n-1, 0), degree) || slices.Contains(got, nodeID(1)) {
			t.Errorf("of %d members: %v", n, got)
		}
	}
	all := members(1000, 5)
	mesh := drawAll(all, now)
	in := map[spiffeid.ID]int{}
	zone := map[spiffeid.ID]string{}
	for _, m := range all {
		zone[m.ID] = m.Domain
	}
	for id, peers := range mesh {
		zones := map[string]int{}
		for _, p := range peers {
			in[p]++
			zones[zone[p]]++
		}
		if len(peers) != degree || slices.Max(slices.Collect(maps.Values(zones))) > degree/2 {
			t.Fatalf("%s pushes to %v in %v", id, peers, zones)
		}
	}
	few := 0
	for _, m := range all {
		if in[m.ID] < 4 || in[m.ID] > 8 {
			few++
		}
	}
	if few > 10 {
		t.Errorf("%d of 1000 nodes are pushed to by less than 4 or more than 8", few)
	}
	changed := func(other map[spiffeid.ID][]spiffeid.ID) (moved int) {
		for id, peers := range mesh {
			for _, p := range peers {
				if !slices.Contains(other[id], p) {
					moved++
				}
			}
		}
		return moved
	}
	if got := changed(drawAll(all, now.Add(time.Minute))); got < 1500 || got > 2500 {
		t.Errorf("%d of 6000 links move in a minute, want those of one ring", got)
	}
	if got := changed(drawAll(all[:999], now)); got > 40 {
		t.Errorf("%d links move when one node goes", got)
	}
	alone := members(20, 1)
	if got := Draw(nodeID(1), alone, now); len(got) != degree {
		t.Errorf("with one failure domain for all: %v", got)
	}
}

// Over the graph that is drawn a flood reaches everybody in few hops, also when a
// fifth of the nodes pass nothing on. A model: no clocks, no links.
func TestFloodOverTheDrawnGraph(t *testing.T) {
	for _, droppers := range []int{0, 200} {
		all := members(1000, 4)
		rng := rand.New(rand.NewPCG(1, uint64(droppers)))
		missed, honest, copies, most := 0, 0, 0, 0
		for round := range 3 {
			mesh := drawAll(all, time.Unix(int64(round)*6000, 0))
			drops := map[spiffeid.ID]bool{}
			for _, i := range rng.Perm(1000)[:droppers] {
				drops[all[i].ID] = true
			}
			start := all[rng.IntN(1000)].ID
			delete(drops, start)
			hop := map[spiffeid.ID]int{start: 0}
			for queue := []spiffeid.ID{start}; len(queue) > 0; queue = queue[1:] {
				if drops[queue[0]] {
					continue
				}
				for _, p := range mesh[queue[0]] {
					copies++
					if _, known := hop[p]; !known {
						hop[p] = hop[queue[0]] + 1
						most = max(most, hop[p])
						queue = append(queue, p)
					}
				}
			}
			for _, m := range all {
				if !drops[m.ID] {
					honest++
					if _, ok := hop[m.ID]; !ok {
						missed++
					}
				}
			}
		}
		t.Logf("%d droppers: %d of %d honest nodes not reached, at most %d hops, %.2f copies a node", droppers, missed, honest, most, float64(copies)/3000)
		if missed > honest/500 || most > 10 {
			t.Errorf("%d droppers: %d of %d honest nodes not reached, %d hops", droppers, missed, honest, most)
		}
	}
}

// traffic counts the record frames that reach nodes.
type traffic struct{ records atomic.Int64 }

// wire is a stream between two ends that takes latency each way.
func (c *traffic) wire(t *testing.T, latency time.Duration) (a, b net.Conn) {
	a, x := net.Pipe()
	y, b := net.Pipe()
	go c.carry(t, x, y, latency)
	go c.carry(t, y, x, latency)
	return a, b
}

func (c *traffic) carry(t *testing.T, from, to net.Conn, latency time.Duration) {
	defer from.Close()
	defer to.Close()
	b := make([]byte, writeAtOnce+maxFrame)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		for rest := b[:n]; len(rest) >= 5; { // a session writes whole frames
			if frameType(rest[4]) == frameRecord {
				c.records.Add(1)
			}
			rest = rest[min(4+int(binary.BigEndian.Uint32(rest)), len(rest)):]
		}
		select {
		case <-time.After(latency):
		case <-t.Context().Done():
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// fleet is nodes, each attached to some others by chance, and silent ones among them
// that take everything and pass nothing on.
func fleet(t *testing.T, size, attached int, silent func(spiffeid.ID) bool) (nodes []*node, c *traffic) {
	t.Helper()
	roster := members(size, 4)
	c = &traffic{}
	byID := map[spiffeid.ID]*node{}
	for i := range size {
		if !silent(nodeID(i + 1)) {
			n := newNodeWith(t, i+1, func(cfg *Config) { cfg.Roster = func() []Member { return roster } })
			nodes, byID[n.id] = append(nodes, n), n
		}
	}
	met := map[[2]spiffeid.ID]bool{}
	rng := rand.New(rand.NewPCG(uint64(size), 1))
	for _, a := range nodes {
		for _, i := range rng.Perm(size)[:min(attached/2, size)] {
			id := roster[i].ID
			if id == a.id || met[[2]spiffeid.ID{a.id, id}] || met[[2]spiffeid.ID{id, a.id}] {
				continue
			}
			met[[2]spiffeid.ID{a.id, id}] = true
			if b := byID[id]; b != nil {
				x, y := c.wire(t, 500*time.Microsecond)
				go a.Attach(t.Context(), b.id, x)
				go b.Attach(t.Context(), a.id, y)
				continue
			}
			mine, theirs := net.Pipe()
			go a.Attach(t.Context(), id, theirs)
			go func() { _, _ = io.Copy(io.Discard, mine) }()
		}
	}
	settle(2 * time.Second)
	return nodes, c
}

// spread has one node write and returns how long it takes until all show it.
func spread(t *testing.T, nodes []*node, from *node, name, value string) time.Duration {
	t.Helper()
	start := time.Now()
	from.put(name, value)
	for time.Since(start) < 20*time.Second {
		synctest.Wait()
		missing := slices.ContainsFunc(nodes, func(n *node) bool {
			_, ok := n.Get(from.key(name))
			return !ok
		})
		if !missing {
			return time.Since(start)
		}
		time.Sleep(250 * time.Microsecond)
	}
	t.Fatalf("%s does not reach everybody", name)
	return 0
}

func nobody(spiffeid.ID) bool { return false }

func TestMeshOfManyNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, writes = 60, 8
		nodes, c := fleet(t, size, 24, nobody)
		for _, n := range nodes {
			_ = n.do(t.Context(), func() error {
				pushed, kept := 0, 0
				for s := range n.sessions {
					if s.peer.eager {
						pushed++
					} else if s.peer.front != nil || len(s.peer.ahead) > 0 {
						kept++
					}
				}
				if pushed != degree || kept > 0 {
					t.Errorf("%s pushes to %d and keeps the frontiers of %d others", n.id, pushed, kept)
				}
				return nil
			})
		}
		c.records.Store(0)
		worst := time.Duration(0)
		for i := range writes {
			worst = max(worst, spread(t, nodes, nodes[i*7], "small", "x"))
		}
		small := float64(c.records.Load()) / size / writes
		c.records.Store(0)
		worstLarge := spread(t, nodes, nodes[1], "large", strings.Repeat("x", 3<<10))
		settle(2 * time.Second)
		large := float64(c.records.Load()) / size
		t.Logf("%d nodes, 0.5 ms links: last node after %s and %.2f copies a node; announced: %s and %.2f", size, worst, small, worstLarge, large)
		if small > 6 || worst > 20*time.Millisecond {
			t.Errorf("last node after %s, %.2f copies a node", worst, small)
		}
		if large > 1.5 || worstLarge > 100*time.Millisecond {
			t.Errorf("announced: last node after %s, %.2f copies a node", worstLarge, large)
		}
		converged(t, nodes...)
	})
}

func TestSilentDroppersDoNotStopIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, _ := fleet(t, 60, 24, func(id spiffeid.ID) bool {
			return strings.HasSuffix(id.Path(), "3") || strings.HasSuffix(id.Path(), "7")
		})
		if len(nodes) != 48 {
			t.Fatalf("%d honest nodes", len(nodes))
		}
		worst := time.Duration(0)
		for i := range 8 {
			worst = max(worst, spread(t, nodes, nodes[i*6], "small", "x"))
		}
		t.Logf("20 %% droppers: last node after %s", worst)
		if worst > 1200*time.Millisecond { // whom the mesh does not reach hears lazily
			t.Errorf("last node after %s", worst)
		}
		settle(2 * time.Second)
		converged(t, nodes...)
	})
}

// A node to which none of the honest ones would push hears of changed heads by chance.
func TestWhomTheMeshDoesNotReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 30
		cut := nodeID(1)
		pushers := map[spiffeid.ID]bool{}
		for id, peers := range drawAll(members(size, 4), time.Now()) {
			if slices.Contains(peers, cut) {
				pushers[id] = true
			}
		}
		nodes, _ := fleet(t, size, 2*size, func(id spiffeid.ID) bool { return pushers[id] })
		soon := 0
		for i := range 8 {
			took := spread(t, nodes, nodes[len(nodes)-1-i], "small", "x")
			if took < lazyEvery+100*time.Millisecond {
				soon++
			}
			if took > 5*time.Second {
				t.Errorf("the last node after %s", took)
			}
			time.Sleep(time.Duration(i) * 77 * time.Millisecond)
		}
		if soon < 4 { // chance misses one in twenty; without news of heads it hears of hardly any
			t.Errorf("it heard of %d of 8 writes within a moment", soon)
		}
	})
}
