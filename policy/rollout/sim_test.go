package rollout

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// simNode is one node of a simulated fleet: what it does, and what it has heard of others.
type simNode struct {
	Node
	state State
	cut   bool // from all others
	m     Measured
	heard []hearsay     // by number
	ahead time.Duration // of the true time, by its own clock
}

type hearsay struct {
	at     time.Time
	state  *State
	soaked bool
}

// sim is a fleet that rolls a version out: 100 nodes, each with a view of its own that lags
// behind by up to a minute.
type sim struct {
	t     *testing.T
	plan  *Plan
	nodes []*simNode
	rings map[string]int // by ID
	rng   *rand.Rand
	now   time.Time
	began map[*simNode]time.Time // to enforce, by the true time
	// bad is the share of callers, in percent, to whom the version denies too much on a node.
	bad func(*simNode) uint64
}

const (
	tick   = 20 * time.Second
	lag    = time.Minute     // after which news has come, unless somebody is cut off
	silent = 2 * time.Minute // after which a node counts as not heard
)

func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: noon, began: map[*simNode]time.Time{}, bad: func(*simNode) uint64 { return 0 },
		plan: &Plan{Soak: 600, Rings: []Ring{{Name: "canary", Nodes: []string{"/node/n00"}}, {Name: "depot", Zones: []string{"depot"}}, {Name: "half", Percent: 50}}}}
	for i := range 100 {
		path, zone := fmt.Sprintf("/node/n%03d", i), ""
		if i%10 == 3 {
			path, zone = fmt.Sprintf("/zone/depot/node/n%03d", i), "depot"
		}
		s.nodes = append(s.nodes, &simNode{Node: at(path, zone, "node"), heard: make([]hearsay, 100)})
	}
	var all []Node
	for _, n := range s.nodes {
		all = append(all, n.Node)
	}
	s.rings = map[string]int{}
	for i, ring := range s.plan.Assign(7, all) {
		s.rings[all[i].ID] = ring
	}
	return s
}

// step lets time pass: news travels or is lost, decisions are made, and every node takes its step.
func (s *sim) step() {
	s.now = s.now.Add(tick)
	for i, to := range s.nodes {
		for j, from := range s.nodes {
			if i != j && !to.cut && !from.cut && (s.rng.IntN(3) == 0 || s.now.Sub(to.heard[j].at) >= lag) {
				state := from.state
				to.heard[j] = hearsay{at: s.now, state: &state, soaked: s.plan.Soaked(state)}
				if state.Phase == "" {
					to.heard[j].state = nil
				}
			}
		}
	}
	for i, n := range s.nodes {
		before := n.state
		n.m = of(100, s.bad(n), 0)
		sit := Situation{Plan: s.plan, Version: 7, Self: n.Node, State: n.state, Measured: n.m, Now: s.now.Add(n.ahead), Passed: tick}
		for j, h := range n.heard {
			if j != i {
				sit.Peers = append(sit.Peers, Peer{Node: s.nodes[j].Node, Heard: !h.at.IsZero() && s.now.Sub(h.at) < silent, State: h.state, Soaked: h.soaked})
			}
		}
		n.state = Next(sit).State
		if before.Phase != n.state.Phase {
			n.m = Measured{}
			s.check(n, before)
		}
	}
}

// check holds what always holds against one change, with all there is to know.
func (s *sim) check(n *simNode, before State) {
	if before.Phase == Stopped {
		s.t.Fatalf("%s left stopped", n.ID)
	}
	if n.state.Phase != Enforcing {
		return
	}
	s.began[n] = s.now
	ring := s.rings[n.ID]
	for _, o := range s.nodes {
		if o != n && !o.cut && s.rings[o.ID] < ring &&
			(o.state.Phase == Waiting || o.state.Phase == "" || o.state.Phase == Enforcing && s.now.Sub(s.began[o]) < 600*time.Second) {
			s.t.Fatalf("%s of ring %d enforces while %s of ring %d is %s for %s", n.ID, ring, o.ID, s.rings[o.ID], o.state.Phase, s.now.Sub(s.began[o]))
		}
	}
}

func (s *sim) count(p Phase) (n int) {
	for _, x := range s.nodes {
		if x.state.Phase == p {
			n++
		}
	}
	return n
}

func (s *sim) run(d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end); {
		s.step()
	}
}

// A good version reaches everybody, ring by ring, and no sooner than after three soak times.
func TestFleetPromotesItself(t *testing.T) {
	for seed := range uint64(2) {
		s := newSim(t, seed)
		s.run(30 * time.Minute)
		if s.count(Waiting) == 0 {
			t.Errorf("seed %d: everybody enforces after three soak times less the way of the news", seed)
		}
		s.run(10 * time.Minute)
		if n := s.count(Enforcing); n != 100 {
			t.Errorf("seed %d: %d enforce after 40 minutes", seed, n)
		}
	}
}

// A version that denies too much on one kind of node is stopped there, goes no further than the ring
// in which it was found out, and those who enforce it without harm keep it.
func TestFleetStops(t *testing.T) {
	for seed := range uint64(2) {
		s := newSim(t, seed)
		s.bad = func(n *simNode) uint64 {
			if n.Zone == "depot" && n.state.Phase == Enforcing {
				return 20
			}
			return 0
		}
		s.run(90 * time.Minute)
		for _, n := range s.nodes {
			ring := s.rings[n.ID]
			switch {
			case ring == 0 && n.state.Phase != Enforcing, ring == 1 && n.Zone == "depot" && n.state.Phase == Enforcing, ring > 1 && n.state.Phase != Waiting:
				t.Errorf("seed %d: %s of ring %d is %s", seed, n.ID, ring, n.state.Phase)
			}
		}
		if s.count(Stopped) == 0 {
			t.Errorf("seed %d: nobody stopped", seed)
		}
	}
}

// What would harm later rings is found out in their shadow, before any of them enforces it.
func TestShadowStopsBeforeItIsEnforced(t *testing.T) {
	s := newSim(t, 1)
	s.bad = func(n *simNode) uint64 {
		if s.rings[n.ID] == 3 {
			return 30
		}
		return 0
	}
	s.run(time.Hour)
	for _, n := range s.nodes {
		if s.rings[n.ID] == 3 && n.state.Phase != Stopped {
			t.Errorf("%s is %s", n.ID, n.state.Phase)
		}
	}
	if s.count(Enforcing) > 10 {
		t.Errorf("%d enforce it", s.count(Enforcing))
	}
}

// Who is cut off keeps what it has; a whole ring that is cut off holds the next; both go on when
// they are heard again.
func TestCutOffNodesKeepWhatTheyHave(t *testing.T) {
	s := newSim(t, 2)
	lone := s.nodes[50] // of the last rings
	lone.cut = true
	var depot []*simNode
	s.run(time.Minute)
	for _, n := range s.nodes {
		if n.Zone == "depot" && s.rings[n.ID] == 1 {
			n.cut = true
			depot = append(depot, n)
		}
	}
	s.run(90 * time.Minute)
	if n := s.count(Enforcing); n >= 20 || lone.state.Phase != Waiting {
		t.Errorf("%d enforce while a ring is cut off; the lone node is %s", n, lone.state.Phase)
	}
	for _, n := range depot {
		n.cut = false
	}
	s.run(time.Hour)
	if n := s.count(Enforcing); n != 99 || lone.state.Phase != Waiting {
		t.Errorf("%d enforce once it is heard again; the lone node is %s", n, lone.state.Phase)
	}
	lone.cut = false
	s.run(10 * time.Minute)
	if n := s.count(Enforcing); n != 100 {
		t.Errorf("%d enforce in the end", n)
	}
}

// One node that lies can hold a version up, and take it from nobody.
func TestLiarOnlyDelays(t *testing.T) {
	s := newSim(t, 3)
	s.run(12 * time.Minute)
	enforcing := s.count(Enforcing)
	s.nodes[99].state = State{Phase: Stopped, Since: s.now, Reason: "a lie"}
	s.run(time.Hour)
	if n := s.count(Enforcing); n < enforcing || n > 25 {
		t.Errorf("%d enforce, %d did before the lie", n, enforcing)
	}
	if s.count(Stopped) != 1 {
		t.Errorf("%d stopped", s.count(Stopped))
	}
	s.nodes[99].cut = true
	s.run(time.Hour)
	if n := s.count(Enforcing); n != 99 {
		t.Errorf("%d enforce once the liar is not heard any more", n)
	}
}

// Clocks that are set forward, of those who are tried and of those who wait, shorten no soak time.
func TestJumpingClocksShortenNoSoak(t *testing.T) {
	s := newSim(t, 5)
	s.run(time.Minute) // the canary enforces
	for i, n := range s.nodes {
		n.ahead = time.Duration(i%3) * 24 * time.Hour
	}
	s.nodes[0].ahead = 365 * 24 * time.Hour // of the first ring
	s.run(8 * time.Minute)                  // s.check holds every step against the true time
	for _, n := range s.nodes {
		if n.state.Phase == Enforcing && s.rings[n.ID] > 0 {
			t.Errorf("%s of ring %d enforces before the first has soaked", n.ID, s.rings[n.ID])
		}
	}
	for _, n := range s.nodes {
		n.ahead = -n.ahead
	}
	s.run(40 * time.Minute)
	if n := s.count(Enforcing); n != 100 {
		t.Errorf("%d enforce in the end", n)
	}
}

// The same fleet does the same twice.
func TestDeterministic(t *testing.T) {
	var got [2]string
	for i := range got {
		s := newSim(t, 4)
		s.run(25 * time.Minute)
		for _, n := range s.nodes {
			got[i] += fmt.Sprint(n.state.Phase, n.state.Since.Unix(), " ")
		}
	}
	if got[0] != got[1] {
		t.Error("two runs of one fleet differ")
	}
}
