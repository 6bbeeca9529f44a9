package app

import (
	"net/netip"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/roster"
)

// fleetSize is how many nodes TestFleet has: BAILIWICK_FLEET, which make test sets to 50.
func fleetSize(t *testing.T) int {
	size := 20
	if s := os.Getenv("BAILIWICK_FLEET"); s != "" {
		var err error
		if size, err = strconv.Atoi(s); err != nil || size < 12 || size > 250 {
			t.Fatalf("BAILIWICK_FLEET is %q, want 12 to 250", s)
		}
	}
	if underRace {
		size = min(size, 12)
	}
	return size
}

// missNothing fails unless all nodes have paid their sync debt.
func missNothing(t *testing.T, nodes []*fleetNode) {
	t.Helper()
	for _, n := range nodes {
		if d, err := n.replica.Debt(t.Context()); err != nil || d.Missing.Records > 0 {
			t.Errorf("%s: debt %+v, %v", n.id, d.Missing, err)
		}
	}
}

// TestFleet runs a region on the real stack (serf, QUIC with TLS, feeds with their stores on
// disk) in virtual time: it meets and converges, both halves of it write while they
// are apart, and a node crashes, misses something and comes back from its disk.
func TestFleet(t *testing.T) {
	size := fleetSize(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, size)
		defer f.close()
		t.Logf("%d nodes agree after %s", size, agree(t, f.nodes, 30*time.Second))
		hinted := func(n *fleetNode) (alive int) {
			for i := range size {
				if n.serf.hint(numbered(i)) == string(roster.Alive) {
					alive++
				}
			}
			return alive
		}
		for _, n := range f.nodes { // what gossip missed comes with push/pull
			for waited := 0; hinted(n) < size*9/10; waited++ {
				if waited == 180 {
					t.Fatalf("%s has hints of %d others", n.id, hinted(n))
				}
				time.Sleep(time.Second)
			}
		}
		took := f.spread(f.nodes[7], f.nodes, "first")
		t.Logf("a write is everywhere after %s", took)
		if took > 25*time.Millisecond {
			t.Errorf("a write is everywhere only after %s", took)
		}

		half := byte(size / 2)
		f.divide(func(a, b netip.AddrPort) bool { return (a.Addr().As4()[3] <= half) != (b.Addr().As4()[3] <= half) })
		time.Sleep(20 * time.Second)
		one, two := f.nodes[:half], f.nodes[half:]
		f.spread(one[2], one, "near")
		f.spread(two[2], two, "far")
		if one[0].shows(feed.KeyOf(two[2].id, feed.KindService, "far")) || two[0].shows(feed.KeyOf(one[2].id, feed.KindService, "near")) {
			t.Error("the halves are not apart")
		}
		f.divide(nil)
		t.Logf("the halves agree %s after the heal", agree(t, f.nodes, 30*time.Second))
		missNothing(t, f.nodes)

		lost := f.nodes[5]
		f.divide(func(a, b netip.AddrPort) bool { return a == lost.addr || b == lost.addr }) // it says no farewell
		lost.stop()
		f.spread(f.nodes[3], append(f.nodes[:5:5], f.nodes[6:]...), "missed")
		time.Sleep(15 * time.Second)
		f.divide(nil)
		f.run(lost, f.net.port(lost.addr))
		t.Logf("the one that crashed agrees %s after its start", agree(t, f.nodes, 30*time.Second))
		if !lost.shows(feed.KeyOf(f.nodes[3].id, feed.KindService, "missed")) {
			t.Error("it lacks what it missed")
		}
		f.spread(lost, f.nodes, "back")
		missNothing(t, f.nodes)
	})
}
