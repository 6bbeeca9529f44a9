package attack

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/gossip/roster"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// What an attack may leave behind in this process, for all honest nodes together.
const (
	spareGoroutines = 40
	spareMemory     = 32 << 20 // bytes in use
)

// fleet is the honest nodes of a region that know each other, and another region.
type fleet struct {
	t            *testing.T
	net          network
	home, abroad *region
	keys         feed.KeyFunc
	nodes        []*node
	class        string        // limits class of honest nodes
	life         time.Duration // of their SVIDs
	rounds       int           // of unharmed
	revocation   func([]byte) (quarantine.Revocation, error)
	goroutines   int
	memory       uint64

	mu      sync.Mutex
	members map[spiffeid.ID]bool
	certs   map[[32]byte][]byte
}

// newFleet starts honest nodes that are all linked and have all said something.
func newFleet(t *testing.T, net network, size int) *fleet {
	t.Helper()
	return newFleetWith(t, net, size, nil)
}

func newFleetWith(t *testing.T, net network, size int, over func(*replica.Config)) *fleet {
	t.Helper()
	f := &fleet{
		t: t, net: net, home: newRegion(t, "east.dev.example"), abroad: newRegion(t, "west.dev.example"), class: "node", life: 12 * time.Hour,
		revocation: func([]byte) (quarantine.Revocation, error) {
			return quarantine.Revocation{}, errors.New("no authority here")
		},
		members: map[spiffeid.ID]bool{}, certs: map[[32]byte][]byte{},
	}
	f.keys = keys(f.home, f.abroad)
	f.grow(size, over)
	return f
}

// grow starts the nodes of a fleet that has none.
func (f *fleet) grow(size int, over func(*replica.Config)) {
	f.t.Helper()
	for i := range size {
		n := newNode(f.t, f, fmt.Sprintf("n%d", i+1), over)
		f.nodes = append(f.nodes, n)
		f.enrol(n.id, n.self.Cert)
		n.start(f.t)
	}
	if f.meet(); size > 0 {
		f.converge(2 * time.Second)
	}
	f.measure()
}

// meet links every node to every other.
func (f *fleet) meet() {
	f.t.Helper()
	for i, n := range f.nodes {
		for _, peer := range f.nodes[:i] {
			peer.meet(f.t, n)
		}
	}
}

// enrol makes a node one of the region's roster.
func (f *fleet) enrol(id spiffeid.ID, cert []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.members[id] = true
	f.certs[sha256.Sum256(cert)] = cert
}

// certOf is the epoch certificate of a member by name.
func (f *fleet) certOf(name string) []byte {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, der := range f.certs {
		if key, err := f.keys(der); err == nil && key.Origin == f.home.node(name) {
			return der
		}
	}
	f.t.Fatalf("no certificate of %s", name)
	return nil
}

func (f *fleet) member(id spiffeid.ID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.members[id]
}

// withSerf starts serf on every node and waits until all are thought alive.
func (f *fleet) withSerf() *fleet {
	f.t.Helper()
	for _, n := range f.nodes {
		n.startRoster(f.t)
	}
	for _, n := range f.nodes[1:] {
		if _, err := n.roster.Join(f.t.Context(), f.nodes[0].id); err != nil {
			f.t.Fatal(err)
		}
	}
	eventually(f.t, 10*time.Second, "serf knows everybody", func() bool {
		return !slices.ContainsFunc(f.nodes, func(n *node) bool { return len(n.roster.Hints()) != len(f.nodes)-1 })
	})
	f.measure()
	return f
}

// measure notes what the fleet needs at rest.
func (f *fleet) measure() {
	f.memory, f.goroutines = inUse(), runtime.NumGoroutine()
}

func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// converge has every node write and waits until all show all of it and have the same
// frontier.
func (f *fleet) converge(within time.Duration) {
	f.t.Helper()
	f.rounds++
	want := map[string]string{}
	start := time.Now()
	for _, n := range f.nodes {
		value := fmt.Sprint("round ", f.rounds)
		n.put("state", value)
		want[n.key("state")] = value
	}
	eventually(f.t, max(within-time.Since(start), time.Millisecond), "every honest write reaches every honest node", func() bool {
		return !slices.ContainsFunc(f.nodes, func(n *node) bool {
			for key, value := range want {
				if !n.shows(key, value) {
					return true
				}
			}
			return false
		})
	})
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		diff := ""
		first, _ := f.nodes[0].frontier()
		for _, n := range f.nodes[1:] {
			if heads, _ := n.frontier(); heads.Root() != first.Root() {
				diff += fmt.Sprintf("\n%s and %s: %+v", f.nodes[0].id, n.id, first.Diff(heads))
			}
		}
		if diff == "" {
			return
		}
		if time.Since(start) > bound(f.t, 15*time.Second) {
			f.t.Fatalf("frontiers differ: %s", diff)
		}
	}
}

// unharmed asks whether honest nodes are what they were before: see the package doc.
func (f *fleet) unharmed() {
	f.t.Helper()
	f.unharmedWithin(2 * time.Second)
}

func (f *fleet) unharmedWithin(d time.Duration) {
	f.t.Helper()
	f.converge(d)
	for _, n := range f.nodes {
		for _, peer := range f.nodes {
			if n == peer {
				continue
			}
			if st := n.standing.Standing(peer.id, time.Now()); st.Standing != quarantine.OK || st.Findings > 0 {
				f.t.Errorf("%s makes of %s: %+v", n.id, peer.id, st)
			}
			if e, ok := n.Get(peer.key("state")); !ok || e.Suspect || e.Rewind || e.Lease != feed.LeaseLive {
				f.t.Errorf("%s shows the state of %s as %+v", n.id, peer.id, e)
			}
			if _, live := n.link.Conn(peer.id); !live {
				f.t.Errorf("%s has lost its link to %s", n.id, peer.id)
			}
			if ends := n.sessionEnds(peer.id); len(ends) > 0 {
				f.t.Errorf("%s has lost its session with %s: %v", n.id, peer.id, ends)
			}
			name, _ := n.NameOf(peer.id)
			if got := n.heard(name); n.roster != nil && (len(got) == 0 || slices.ContainsFunc(got, func(s roster.State) bool { return s != roster.Alive })) {
				f.t.Errorf("%s thought that %s was %v", n.id, peer.id, got)
			}
		}
	}
	f.bounded()
}

// bounded asks whether memory and goroutines are where they were.
func (f *fleet) bounded() {
	f.t.Helper()
	eventually(f.t, 15*time.Second, "goroutines end", func() bool { return runtime.NumGoroutine() <= f.goroutines+spareGoroutines })
	if used := inUse(); used > f.memory+spareMemory {
		f.t.Errorf("%d MiB in use, %d before the attack", used>>20, f.memory>>20)
	}
}

// all waits until something holds for every honest node.
func (f *fleet) all(within time.Duration, what string, cond func(n *node) bool) {
	f.t.Helper()
	eventually(f.t, within, what, func() bool {
		return !slices.ContainsFunc(f.nodes, func(n *node) bool { return !cond(n) })
	})
}

// never lets d pass and fails when cond comes to hold for some honest node.
func (f *fleet) never(d time.Duration, what string, cond func(n *node) bool) {
	f.t.Helper()
	for start := time.Now(); time.Since(start) < d; time.Sleep(10 * time.Millisecond) {
		for _, n := range f.nodes {
			if cond(n) {
				f.t.Fatalf("%s: %s", n.id, what)
			}
		}
	}
}
