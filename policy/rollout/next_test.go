package rollout

import (
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// of is what was measured where each of some callers asked once.
func of(sources, denied, failed uint64) Measured {
	return Measured{Compared: sources, Denied: denied, Failed: failed, Questions: sources, Callers: []Callers{{Kind: "connect", Sources: sources, Denied: denied, Failed: failed}}}
}

func TestNext(t *testing.T) {
	plan := &Plan{Soak: 600, Rings: []Ring{{Name: "canary", Nodes: []string{"/node/canary-"}}, {Name: "depot", Zones: []string{"depot"}}}}
	first, depot, rest := at("/node/canary-1", "", "node"), at("/zone/depot/node/d1", "depot", "node"), at("/node/n1", "", "node")
	peer := func(n Node, heard bool, phase Phase, ago time.Duration) Peer {
		p := Peer{Node: n, Heard: heard}
		if phase != "" {
			p.State = &State{Phase: phase, Since: noon.Add(-ago), Reason: "too much"}
			p.Soaked = phase == Enforcing && ago >= 10*time.Minute
		}
		return p
	}
	canary2 := at("/node/canary-2", "", "node")
	soaked, young, old := 10*time.Minute, 10*time.Minute-time.Second, 2*time.Hour
	waiting := State{Phase: Waiting, Since: noon.Add(-time.Hour)}
	enforcing := State{Phase: Enforcing, Since: noon.Add(-time.Hour)}
	for _, c := range []struct {
		name   string
		self   Node
		state  State
		m      Measured
		first  bool
		behind bool
		broken string
		peers  []Peer
		want   Phase
		waits  string // a part
	}{
		{name: "the first ring begins at once", self: first, want: Enforcing},
		{name: "a lone node in the last", self: rest, want: Waiting, waits: "ring canary: no node that is known here is in it"},
		{name: "nothing before it", self: rest, first: true, peers: []Peer{peer(first, true, Stopped, old)}, want: Enforcing},
		{name: "a ring before that has not begun", self: depot, peers: []Peer{peer(first, true, "", 0)}, want: Waiting, waits: "ring canary: " + first.ID},
		{name: "that waits", self: depot, peers: []Peer{peer(first, true, Waiting, old)}, want: Waiting, waits: "does not enforce it yet"},
		{name: "that has not soaked", self: depot, peers: []Peer{peer(first, true, Enforcing, young)}, want: Waiting, waits: "has not soaked for 10m0s"},
		{name: "that has", self: depot, peers: []Peer{peer(first, true, Enforcing, soaked)}, want: Enforcing},
		{name: "of which one is late", self: depot, peers: []Peer{peer(first, true, Enforcing, soaked), peer(canary2, true, Waiting, old)}, want: Waiting, waits: canary2.ID},
		{name: "of which one is cut off", self: depot, peers: []Peer{peer(first, true, Enforcing, soaked), peer(canary2, false, Waiting, old)}, want: Enforcing},
		{name: "that is cut off whole", self: depot, peers: []Peer{peer(first, false, Enforcing, soaked), peer(rest, true, Waiting, old)}, want: Waiting, waits: "none of its 1 nodes is heard"},
		{name: "the last waits for all", self: rest, peers: []Peer{peer(first, true, Enforcing, soaked), peer(depot, true, Enforcing, young)}, want: Waiting, waits: "ring depot"},
		{name: "and for no one of its own", self: rest, peers: []Peer{peer(first, true, Enforcing, soaked), peer(depot, true, Enforcing, soaked), peer(at("/node/n2", "", ""), true, Waiting, old)}, want: Enforcing},
		{name: "that is empty, and nobody is heard", self: rest, peers: []Peer{peer(at("/node/n2", "", ""), false, "", 0)}, want: Waiting, waits: "no other node is heard"},
		{name: "that is empty", self: rest, peers: []Peer{peer(at("/node/n2", "", ""), true, Enforcing, old)}, want: Waiting, waits: "ring canary: no node"},
		{name: "an empty one after one that has soaked", self: rest, peers: []Peer{peer(first, true, Enforcing, soaked)}, want: Waiting, waits: "ring depot: no node"},
		{name: "a node that is behind", self: rest, behind: true, want: Waiting, waits: "lacks state"},
		{name: "which the first ring may be", self: first, behind: true, want: Enforcing},
		{name: "a version that hangs", self: rest, state: waiting, broken: "it hangs", want: Stopped},
		{name: "a clock that was set forward", self: depot, peers: []Peer{{Node: first, Heard: true, State: &State{Phase: Enforcing, Since: noon.Add(-old)}}}, want: Waiting, waits: "soaked"},

		{name: "somebody stopped it", self: first, state: waiting, peers: []Peer{peer(rest, true, Stopped, old)}, want: Waiting, waits: rest.ID + ` stopped it: "too much"`},
		{name: "who is not heard any more", self: first, state: waiting, peers: []Peer{peer(rest, false, Stopped, old)}, want: Enforcing},
		{name: "in a ring before, and is not heard any more", self: rest, state: waiting, peers: []Peer{peer(first, false, Stopped, old), peer(canary2, false, "", 0), peer(depot, true, "", 0)}, want: Waiting, waits: "none of its 2 nodes is heard"},
		{name: "which takes nothing back", self: first, state: enforcing, peers: []Peer{peer(rest, true, Stopped, old)}, want: Enforcing},
		{name: "stopped stays", self: first, state: State{Phase: Stopped, Since: noon, Reason: "x"}, want: Stopped},

		{name: "too few to tell", self: rest, state: enforcing, m: of(19, 19, 19), want: Enforcing},
		{name: "as many denials as may be", self: rest, state: enforcing, m: of(20, 1, 0), want: Enforcing},
		{name: "one more", self: rest, state: enforcing, m: of(20, 2, 0), want: Stopped},
		{name: "in the shadow too", self: depot, state: waiting, m: of(20, 2, 0), want: Stopped},
		{name: "failures", self: rest, state: enforcing, m: of(100, 0, 2), want: Stopped},
		{name: "one caller alone", self: rest, state: enforcing, m: Measured{Compared: 1000, Denied: 900, Questions: 50, Callers: []Callers{{Kind: "connect", Sources: 10, Denied: 1, Failed: 1}}}, want: Enforcing},
		{name: "as many failures as may be", self: rest, state: enforcing, m: of(100, 0, 1), want: Enforcing},
		{name: "nothing to go back to", self: rest, state: enforcing, first: true, m: of(100, 100, 0), want: Enforcing},
	} {
		got := Next(Situation{Plan: plan, Version: 7, Self: c.self, First: c.first, Behind: c.behind, Broken: c.broken, State: c.state, Measured: c.m, Peers: c.peers, Now: noon})
		if got.State.Phase != c.want || !strings.Contains(got.Waits, c.waits) || (got.Waits != "") != (c.waits != "") {
			t.Errorf("%s: %+v, want %s, waiting for %q", c.name, got, c.want, c.waits)
		}
		if changed := got.State.Phase != c.state.Phase; changed != got.State.Since.Equal(noon) && c.state.Phase != Stopped {
			t.Errorf("%s: since %s", c.name, got.State.Since)
		}
		if got.State.Phase == Stopped && got.State.Reason == "" {
			t.Errorf("%s: stopped without a reason", c.name)
		}
	}
}

// Enforced counts what passed while the version was in force, and nothing else.
func TestEnforced(t *testing.T) {
	plan := &Plan{Soak: 60, Rings: []Ring{{Name: "canary", Nodes: []string{"/node/canary-"}}}}
	s := Situation{Plan: plan, Version: 7, Self: at("/node/canary-1", "", "node"), Now: noon, Passed: time.Hour}
	for i, want := range []time.Duration{0, 30 * time.Second, 30 * time.Second, 60 * time.Second} {
		s.State = Next(s).State
		if s.State.Enforced != want || plan.Soaked(s.State) != (want == time.Minute) {
			t.Errorf("step %d: %+v, soaked %v", i, s.State, plan.Soaked(s.State))
		}
		s.Now, s.Passed = s.Now.Add(24*time.Hour), []time.Duration{30 * time.Second, -time.Hour, 30 * time.Second, 0}[i]
	}
	if plan.Soaked(State{Phase: Stopped, Enforced: time.Hour}) {
		t.Error("a stopped version soaks")
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		limits Limits
		m      Measured
		stops  bool
	}{
		{Limits{}, of(1000, 50, 10), false},
		{Limits{}, of(1000, 51, 0), true},
		{Limits{}, of(1000, 0, 11), true},
		{Limits{DeniedPercent: 100}, of(1000, 1000, 0), false},
		{Limits{DeniedPercent: 50}, of(1000, 500, 0), false},
		{Limits{DeniedPercent: 50}, of(1000, 501, 0), true},
		{Limits{MinDecisions: 1}, of(2, 2, 0), true},
		{Limits{MinDecisions: 1}, of(1, 1, 1), false}, // one alone stops nothing
		{Limits{MinDecisions: 5000}, of(1000, 1000, 0), false},
		{Limits{}, of(1<<63, 1<<62, 0), true}, // no overflow
		{Limits{}, of(1<<63, 1<<58, 0), false},
		// Often is not much, and many of one kind are not hidden by more of another.
		{Limits{}, Measured{Compared: 1000, Denied: 1000, Questions: 19, Callers: []Callers{{"connect", 4, 4, 0}}}, false},
		{Limits{}, Measured{Compared: 1000, Denied: 999, Failed: 999, Questions: 200, Callers: []Callers{{"connect", 100, 1, 1}}}, false},
		{Limits{}, Measured{Compared: 1000, Denied: 3, Questions: 200, Callers: []Callers{{"connect", 3, 3, 0}, {"state_admit", 500, 0, 0}}}, true},
	} {
		if got := c.limits.exceeded(c.m); (got != "") != c.stops {
			t.Errorf("%+v of %+v: %q", c.limits, c.m, got)
		}
	}
	if (Limits{}).exceeded(Measured{}) != "" {
		t.Error("nothing was compared")
	}
	full := of(100, 50, 0)
	full.Uncounted = 7
	if got := (Limits{}).exceeded(full); got != "connect: 50 of 100 callers, more than 5 percent (7 decisions of more callers are not counted): 50 of 100 decisions are denied that the version before allows" {
		t.Error(got)
	}
}
