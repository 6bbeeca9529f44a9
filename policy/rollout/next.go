package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Phase is how far a node is with a version.
type Phase string

// The phases; see the package doc.
const (
	Waiting   Phase = "waiting"
	Enforcing Phase = "enforcing"
	Stopped   Phase = "stopped"
)

// State is what a node remembers of the record it is rolling out, and tells others.
type State struct {
	Phase  Phase
	Since  time.Time // when the phase began, by the node's clock; for people
	Reason string    // why it stopped
	// Enforced is how long the node has enforced the version while it ran, by a clock that nobody sets.
	Enforced time.Duration
}

// Soaked reports whether a node in this state has enforced the version for as long as its ring must.
func (p *Plan) Soaked(s State) bool { return s.Phase == Enforcing && s.Enforced >= p.soak() }

func (p *Plan) soak() time.Duration { return time.Duration(p.Soak) * time.Second }

// Measured is what a node has counted in its phase: the questions that both versions answered. The
// first three are for people. Limits are held against Questions and Callers, which nobody moves by
// asking often.
type Measured struct {
	Compared uint64
	Denied   uint64 // by the new version, of those that the one before allows
	Failed   uint64 // under the new version

	Questions uint64 // different ones
	Callers   []Callers
	Uncounted uint64 // questions of sources for which there was no room in Callers
}

// Callers is the different sources of one kind of question.
type Callers struct {
	Kind    string
	Sources uint64
	Denied  uint64 // of them, who was denied something that the version before allows
	Failed  uint64 // of them, for whom the new version failed
}

// Peer is another node of the scope, and what it says of this very record.
type Peer struct {
	Node
	Heard bool   // lately
	State *State // nil where it has said nothing of this record
	// Soaked: it says that it has enforced the record for its plan's soak time (Plan.Soaked).
	Soaked bool
	// Enforces is how the name of the record begins that it has in force at the level; zero: it said
	// nothing of it.
	Enforces [8]byte
}

// Situation is all that a step depends on.
type Situation struct {
	Plan     *Plan
	Version  uint64
	Self     Node
	First    bool // there is no version before
	Behind   bool // this node knows that it lacks state of others
	State    State
	Measured Measured
	Broken   string        // why the new version cannot be measured: it hangs, or does not compile here
	Peers    []Peer        // the others of the scope
	Now      time.Time     // by this node's clock, which may jump: nothing is measured with it
	Passed   time.Duration // since the step before, by one that does not; 0 for the first
}

// Outlook is what follows.
type Outlook struct {
	State State
	Ring  int
	// Waits says what a node that waits waits for; empty otherwise.
	Waits string
}

// Next takes one step.
func Next(s Situation) Outlook {
	nodes := []Node{s.Self}
	for _, p := range s.Peers {
		nodes = append(nodes, p.Node)
	}
	in := s.Plan.Assign(s.Version, nodes)
	out := Outlook{State: s.State, Ring: in[0]}
	if out.State.Phase == "" {
		out.State = State{Phase: Waiting, Since: s.Now}
	}
	switch out.State.Phase {
	case Stopped:
		return out
	case Waiting, Enforcing:
		if s.First { // nothing can be kept or gone back to
			break
		}
		if reason := cmp.Or(s.Broken, s.Plan.Limit.exceeded(s.Measured)); reason != "" {
			out.State = State{Phase: Stopped, Since: s.Now, Reason: fmt.Sprintf("%s: %s", phaseText(out.State.Phase), reason)}
			return out
		}
	}
	if out.State.Phase == Enforcing {
		out.State.Enforced += max(0, s.Passed)
		return out
	}
	if out.Waits = s.blocked(out.Ring, in[1:]); out.Waits == "" {
		out.State = State{Phase: Enforcing, Since: s.Now}
	}
	return out
}

func phaseText(p Phase) string {
	if p == Enforcing {
		return "in force here"
	}
	return "in the shadow here"
}

// blocked says why a ring may not begin, or "". of are the rings of the peers.
func (s *Situation) blocked(ring int, of []int) string {
	if s.First {
		return ""
	}
	for _, p := range s.Peers {
		if p.Heard && p.State != nil && p.State.Phase == Stopped {
			return fmt.Sprintf("%s stopped it: %q", p.ID, p.State.Reason) // its words may be anything
		}
	}
	if ring > 0 && s.Behind {
		return "this node lacks state of others"
	}
	if ring > 0 && len(s.Peers) > 0 && !slices.ContainsFunc(s.Peers, func(p Peer) bool { return p.Heard }) {
		return "no other node is heard"
	}
	rings := make([]struct {
		members, soaked int
		late, young     string
	}, ring)
	for i, p := range s.Peers {
		if of[i] >= ring {
			continue
		}
		r := &rings[of[i]]
		r.members++
		switch {
		case !p.Heard:
		case p.State == nil || p.State.Phase != Enforcing:
			r.late = p.ID
		case !p.Soaked && s.Plan.Soak > 0:
			r.young = p.ID
		default:
			r.soaked++
		}
	}
	for i, r := range rings {
		name := s.Plan.Name(i)
		switch {
		case r.late != "":
			return fmt.Sprintf("ring %s: %s does not enforce it yet", name, r.late)
		case r.young != "":
			return fmt.Sprintf("ring %s: it has not soaked for %s", name, s.Plan.soak())
		case r.members == 0:
			return fmt.Sprintf("ring %s: no node that is known here is in it", name)
		case r.soaked == 0:
			return fmt.Sprintf("ring %s: none of its %d nodes is heard", name, r.members)
		}
	}
	return ""
}

// exceeded says which limit is exceeded, or "". One source alone exceeds none: it may be the one
// whom the version is to shut out.
func (l Limits) exceeded(m Measured) string {
	if m.Questions < cmp.Or(l.MinDecisions, defaultMinDecisions) {
		return ""
	}
	denied, failed := cmp.Or(l.DeniedPercent, defaultDeniedPercent), cmp.Or(l.FailedPercent, defaultFailedPercent)
	for _, c := range m.Callers {
		over := func(n, percent uint64) bool { return n > 1 && n > c.Sources/100*percent+c.Sources%100*percent/100 }
		text, what := "", ""
		switch {
		case over(c.Failed, failed):
			text = fmt.Sprintf("%d of %d callers, more than %d percent", c.Failed, c.Sources, failed)
			what = fmt.Sprintf("%d of %d decisions fail", m.Failed, m.Compared)
		case denied < 100 && over(c.Denied, denied):
			text = fmt.Sprintf("%d of %d callers, more than %d percent", c.Denied, c.Sources, denied)
			what = fmt.Sprintf("%d of %d decisions are denied that the version before allows", m.Denied, m.Compared)
		default:
			continue
		}
		if m.Uncounted > 0 {
			text += fmt.Sprintf(" (%d decisions of more callers are not counted)", m.Uncounted)
		}
		return fmt.Sprintf("%s: %s: %s", c.Kind, text, what)
	}
	return ""
}
