package sim

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
)

// Links that a node keeps, by the rules of the product's overlay (cmd/internal/app):
// to everybody in a small fleet, otherwise to its mesh and some others.
const (
	fullMesh  = 16
	farLinks  = 4
	farTerm   = 30 * time.Second
	dialEvery = time.Second
)

// fleet is a run of a scenario.
type fleet struct {
	clock
	Scenario
	rand      *rand.Rand
	authority *authority
	nodes     []*node
	members   []replica.Member
	byID      map[string]*node
	bytes     map[string][]byte // of frames that all nodes share
	links     map[pair]*end     // by the nodes' numbers, the smaller first
	blamed    map[pair]bool     // the first will not have the second any more
	drawn     map[int][]int     // by node: its mesh
	term      int64             // for which it was drawn
	stale     bool              // somebody came or went since
	cut       float64           // share of nodes that is cut off; zero: none
	lastCut   float64           // the same after it is healed
	healing   bool              // a cut was healed, and no session across is there yet
	rejoin    *rejoin           // since the last cut
	thinFree  [2]time.Duration  // when the thin line takes more, in each direction
	updates   []*update
	lied      map[string]time.Duration // when somebody's second story left
	copied    []*disk                  // everybody's, at the last backup
	harms     []string
	story     []line
	err       error
}

type pair [2]int

func newFleet(s Scenario) (*fleet, error) {
	f := &fleet{
		Scenario: s, rand: rand.New(rand.NewPCG(s.Seed, 1)), authority: newAuthority(s.Seed), byID: map[string]*node{},
		bytes: map[string][]byte{}, links: map[pair]*end{}, blamed: map[pair]bool{}, drawn: map[int][]int{}, lied: map[string]time.Duration{},
	}
	f.clock.trace = 0xcbf29ce484222325
	roles := f.cast()
	for i := range s.Nodes {
		n := &node{fleet: f, index: i, id: nodeID(i), number: 1, disk: newDisk(), role: roles[i], found: map[string]time.Duration{}}
		f.nodes = append(f.nodes, n)
		f.members = append(f.members, replica.Member{ID: n.id})
		f.byID[n.id.String()] = n
	}
	for w := range s.Writers {
		if err := f.certify(f.writer(w)); err != nil {
			return nil, err
		}
	}
	for _, n := range f.nodes {
		if err := n.start(); err != nil {
			return nil, err
		}
	}
	f.dial()
	for _, n := range f.nodes {
		n.role.begin(n)
	}
	return f, f.err
}

// certify gives a node a feed of its own.
func (f *fleet) certify(n *node) error {
	id, err := f.authority.identity(n.id, n.number)
	n.self = &id
	return err
}

// writer returns a writer by its number: they are spread over the fleet.
func (f *fleet) writer(w int) *node { return f.nodes[w*f.Nodes/f.Writers] }

// cast decides who is no honest node: by chance, but none of the writers.
func (f *fleet) cast() []role {
	roles := make([]role, f.Nodes)
	var free []int
	writes := map[int]bool{}
	for w := range f.Writers {
		writes[w*f.Nodes/f.Writers] = true
	}
	for i := range roles {
		roles[i] = honest
		if !writes[i] {
			free = append(free, i)
		}
	}
	f.rand.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	for _, a := range f.Adversaries {
		count := min(a.Count+int(a.Share*float64(f.Nodes)), len(free))
		for _, i := range free[:count] {
			roles[i] = a.Role
		}
		free = free[count:]
	}
	return roles
}

// fork returns chance of a node's own, for one of its lives.
func (f *fleet) fork(index, life int) *rand.Rand {
	return rand.New(rand.NewPCG(f.Seed, uint64(index)<<20|uint64(life)+2))
}

// dial keeps the links that nodes want: it opens those that are missing, and closes
// those that nobody wants any more. It runs every dialEvery.
func (f *fleet) dial() {
	f.draw()
	wanted := map[pair]bool{}
	for _, n := range f.nodes {
		if !n.up {
			continue
		}
		for _, peer := range f.wants(n) {
			wanted[pairOf(n, f.nodes[peer])] = true
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(f.links), comparePairs) {
		if e := f.links[p]; e.closed {
			delete(f.links, p)
		} else if !wanted[p] && !f.apart(e.node, e.peer) && e.peer.up && e.node.up {
			f.hangUp(e, nil)
			delete(f.links, p)
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(wanted), comparePairs) {
		a, b := f.nodes[p[0]], f.nodes[p[1]]
		if f.Bridges > 0 && f.crosses(a, b) && (p[0] >= f.Bridges || p[1] != p[0]+f.Nodes/2) {
			continue
		}
		if f.links[p] == nil && b.up && a.up && !f.apart(a, b) && !f.blamed[p] && !f.blamed[pair{p[1], p[0]}] {
			f.connect(a, b)
			f.links[p] = a.ends[len(a.ends)-1]
		}
	}
	f.after(dialEvery, f.dial)
}

func pairOf(a, b *node) pair { return pair{min(a.index, b.index), max(a.index, b.index)} }

func comparePairs(a, b pair) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) }

// wants returns the peers that a node keeps links to.
func (f *fleet) wants(n *node) []int {
	if f.Nodes <= fullMesh+1 {
		var all []int
		for i := range f.nodes {
			if i != n.index {
				all = append(all, i)
			}
		}
		return all
	}
	if len(n.far) > 0 && f.elapsed >= n.farUntil {
		n.far = n.far[1:] // the oldest
	}
	if len(n.far) < farLinks {
		n.farUntil = f.elapsed + farTerm
	}
	for range 4 * farLinks { // by chance: some are in the mesh, away, or drawn twice
		if len(n.far) == farLinks {
			break
		}
		if peer := f.rand.IntN(f.Nodes); peer != n.index && f.nodes[peer].up && !f.apart(n, f.nodes[peer]) && !slices.Contains(n.far, peer) && !slices.Contains(f.drawn[n.index], peer) {
			n.far = append(n.far, peer)
		}
	}
	return slices.Concat(f.drawn[n.index], n.far)
}

// draw works every node's mesh out anew when a ring was ordered anew or somebody came
// or went: out of all, and out of those who answer in the place of those who do not.
func (f *fleet) draw() {
	term := f.now().Unix() / 60
	if term == f.term && !f.stale || f.Nodes <= fullMesh+1 {
		return
	}
	f.term, f.stale = term, false
	meshes := parallel(f.nodes, func(n *node) []int {
		if !n.up {
			return nil
		}
		mesh := f.numbers(replica.Draw(n.id, f.members, f.now()))
		if slices.ContainsFunc(mesh, func(i int) bool { return !f.nodes[i].up || f.apart(n, f.nodes[i]) }) {
			var there []replica.Member
			for i, m := range f.members {
				if f.nodes[i].up && !f.apart(n, f.nodes[i]) {
					there = append(there, m)
				}
			}
			mesh = append(mesh, f.numbers(replica.Draw(n.id, there, f.now()))...)
		}
		return mesh
	})
	for i, n := range f.nodes {
		f.drawn[i] = meshes[i]
		n.far = slices.DeleteFunc(n.far, func(peer int) bool { return !f.nodes[peer].up || f.apart(n, f.nodes[peer]) })
	}
}

// apart reports whether a cut lies between two nodes.
func (f *fleet) apart(a, b *node) bool { return f.cut > 0 && f.inside(a) != f.inside(b) }

// inside reports whether a node is of the part that is cut off.
func (f *fleet) inside(n *node) bool { return float64(n.index) < f.cut*float64(f.Nodes) }

// crosses reports whether two nodes are on the two sides of the thin line.
func (f *fleet) crosses(a, b *node) bool { return a.side() != b.side() }

func (n *node) side() int {
	if n.index < n.fleet.Nodes/2 {
		return 0
	}
	return 1
}

// part cuts a share of the nodes off. Sessions across end when they time out.
func (f *fleet) part(share float64) {
	f.cut, f.lastCut, f.stale, f.healing, f.rejoin = share, share, true, false, nil
	f.tell(nil, "the first %.0f %% of the nodes are cut off", share*100)
	f.dropLater(func(e *end) bool { return f.apart(e.node, e.peer) })
}

// dropLater ends, after the time that it takes to notice, the sessions that are lost
// now and still then.
func (f *fleet) dropLater(lost func(*end) bool) {
	for _, p := range slices.SortedFunc(maps.Keys(f.links), comparePairs) {
		if e := f.links[p]; lost(e) {
			f.after(idleTimeout, func() {
				if lost(e) {
					f.hangUp(e, errLost)
				}
			})
		}
	}
}

// heal ends the cut.
func (f *fleet) heal() {
	f.cut, f.stale, f.healing = 0, true, true
	f.tell(nil, "the cut is healed")
	for _, e := range f.links {
		if !e.closed {
			f.meet(e.node, e.peer)
		}
	}
	for _, n := range f.nodes {
		for _, e := range n.ends {
			for _, frame := range e.held {
				f.after(f.Retransmit, func() { e.arrive(frame) })
			}
			e.held = nil
		}
		n.pump()
	}
}

// kill stops a share of the nodes, honest ones.
func (f *fleet) kill(share float64) {
	var live []*node
	for _, n := range f.nodes {
		if n.up && n.honest() {
			live = append(live, n)
		}
	}
	f.rand.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
	for _, n := range live[:min(int(share*float64(f.Nodes)), len(live))] {
		n.stop()
		f.tell(n, "dies")
	}
	f.stale = true
	f.dropLater(func(e *end) bool { return !e.node.up || !e.peer.up })
}

// revive starts the dead from their disks. Their old sessions are gone.
func (f *fleet) revive() {
	for _, n := range f.nodes {
		if n.up {
			continue
		}
		for _, e := range slices.Clone(n.ends) {
			f.hangUp(e, errLost)
		}
		if err := n.start(); err != nil {
			f.fail(err)
		}
		f.tell(n, "is back")
	}
	f.stale = true
}

func (f *fleet) numbers(ids []spiffeid.ID) []int {
	out := make([]int, len(ids))
	for i, id := range ids {
		out[i] = f.byID[id.String()].index
	}
	return out
}

// found hears of each finding of a node.
func (f *fleet) found(n *node, found feed.Finding) {
	accused := f.byID[found.Accused.String()]
	f.tell(n, "finds that %s is guilty of %s", accused.name(), found.Class)
	if _, known := n.found[found.Accused.String()]; !known && found.Convicts() {
		n.found[found.Accused.String()] = f.elapsed
	}
	if n.honest() && accused.honest() {
		f.harm("%s convicted the honest %s of %s", n.name(), accused.name(), found.Class)
	}
}

// lookForHolds counts it as harm where an honest node holds another.
func (f *fleet) lookForHolds() {
	for _, n := range f.nodes {
		for w := range f.Writers {
			if origin := f.writer(w); n.honest() && n.up && origin.honest() && n.core.Held(origin.id) {
				f.harm("%s holds the honest %s", n.name(), origin.name())
			}
		}
	}
}

func (f *fleet) harm(format string, args ...any) {
	f.harms = append(f.harms, fmt.Sprintf(format, args...))
}

// fail stops the run.
func (f *fleet) fail(err error) {
	if f.err == nil {
		f.err = fmt.Errorf("after %s: %w", f.elapsed, err)
		f.queue = nil
	}
}

// parallel maps on all processors; fn must not change anything.
func parallel[In, Out any](in []In, fn func(In) Out) []Out {
	out := make([]Out, len(in))
	var wait sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wait.Go(func() {
			for i := w; i < len(in); i += workers {
				out[i] = fn(in[i])
			}
		})
	}
	wait.Wait()
	return out
}
