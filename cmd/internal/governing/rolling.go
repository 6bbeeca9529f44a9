package governing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
	"github.com/bailiwick-mesh/bailiwick/policy/shadow"
)

// rollEvery is how often a node looks whether a staged policy goes on.
const rollEvery = time.Second

// Fleet is what a Rolling asks of the node around it, and tells it.
type Fleet struct {
	Node   func() rollout.Node
	Peers  func(bundle.Kept) []rollout.Peer // others of its scope, and what they say of it
	Behind func(context.Context) bool       // this node lacks state of others
	Taken  func(before string)              // other policy is in force than the generation before

	Settled func(newest bundle.Kept, name [32]byte) bool // others enforce a record that the newest has overtaken
	Offer   func(newest bundle.Kept)                     // look again at what others carry under the newest
}

// Rolling takes staged policy forward on this node: one record at a time, that of the
// highest level first. It measures in a shadow of its own, so that operators can compare
// with candidates of theirs at the same time.
type Rolling struct {
	policies  *Policies
	engine    *policy.Engine
	shadowing *Shadowing
	shadow    *shadow.Shadow
	log       *slog.Logger

	fleet Fleet

	reverted atomic.Pointer[string] // why the engine took a generation out of force since the last look

	mu    sync.Mutex
	now   []Rolled // of the last look
	run   string   // what the shadow compares: record, phase and generation; empty: nothing
	fault string   // why it cannot be compared

	known map[string]versions // by level; owned by loop

	looked time.Time                  // last; owned by loop
	inUse  map[[32]byte]time.Duration // how long each staged record was enforced; the disk has it by the minute
}

// versions is a staged record and the one that was in force before it, verified once: that
// takes long for a large policy.
type versions struct {
	of, inForce    [32]byte // the names it is for
	staged, before *bundle.Verified
}

// Rolled is how far this node is with a staged record.
type Rolled struct {
	Record   bundle.Kept
	Outlook  rollout.Outlook
	Measured rollout.Measured // by the shadow, in this phase
}

// NewRolling takes forward what p holds, beside a shadow for the operator's candidates.
func NewRolling(p *Policies, s *Shadowing, fleet Fleet, log *slog.Logger) *Rolling {
	return &Rolling{policies: p, engine: p.engine, shadowing: s, shadow: s.staged, fleet: fleet, log: log, known: map[string]versions{}}
}

// Reverted is told when the engine took a generation out of force by itself, and why.
func (r *Rolling) Reverted(why string) {
	told := "the engine went back: " + why
	r.reverted.Store(&told)
}

// Run looks every second until ctx ends, or the store fails.
func (r *Rolling) Run(ctx context.Context) error {
	tick := time.NewTicker(rollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := r.look(ctx, time.Now()); err != nil {
			return err
		}
	}
}

// look takes at most one step with each staged record. Errors are the store's.
func (r *Rolling) look(ctx context.Context, now time.Time) error {
	p := r.policies
	passed := time.Duration(0)
	if !r.looked.IsZero() {
		passed = now.Sub(r.looked) // by the monotonic clock
	}
	r.looked = now
	var all []Rolled
	busy, reverted := "", r.reverted.Swap(nil)
	for _, s := range p.slots {
		k, ok := p.Newest(s.level, s.scope)
		if !ok || k.Record.Rollout == nil {
			continue
		}
		if busy != "" {
			all = append(all, Rolled{Record: k, Outlook: rollout.Outlook{State: p.stages.of(k.Name), Waits: "the rollout of " + busy + " goes first"}})
			continue
		}
		if err := r.catchUp(ctx, k, now); err != nil {
			return err
		}
		one, over, err := r.step(ctx, k, reverted, now, passed)
		if err != nil {
			return err
		}
		all = append(all, one)
		if !over {
			busy = k.Record.String()
		}
	}
	if busy == "" {
		r.compare("", nil)
	}
	r.mu.Lock()
	r.now = all
	r.mu.Unlock()
	return nil
}

// catchUp has this node go on where it was away while others put in force what the newest record has
// overtaken: of what it holds itself, the newest that has settled; the rest is offered to it again.
func (r *Rolling) catchUp(ctx context.Context, newest bundle.Kept, now time.Time) error {
	p := r.policies
	current := p.current(newest.Record.Level)
	if current == nil || current.Record.Version >= newest.Record.Version {
		return nil
	}
	r.fleet.Offer(newest)
	for _, k := range p.Kept() {
		if k.Record.Level != newest.Record.Level || k.Record.Scope != newest.Record.Scope || k.Record.Mode != bundle.Enforce ||
			k.Record.Version >= newest.Record.Version || k.Record.Version <= current.Record.Version || k.Record.Rollout == nil {
			continue
		}
		if phase := p.stages.of(k.Name).Phase; phase == rollout.Stopped || phase == rollout.Enforcing || !r.fleet.Settled(newest, k.Name) || r.fleet.Behind(ctx) {
			continue // stopped here, or taken out of force by the engine, or not what holds elsewhere
		}
		held, err := p.holds(policySlot{level: k.Record.Level, scope: k.Record.Scope})
		i := slices.IndexFunc(held, func(h *bundle.Verified) bool { return h.Name == k.Name })
		if err != nil || i < 0 {
			r.log.Warn("what others enforce does not verify any more here", "policy", k.Record.String(), "err", err)
			continue
		}
		revision := r.engine.Revision()
		if err := p.enforce(k, held[i], now); err != nil {
			return err
		}
		r.fleet.Taken(revision)
		return nil
	}
	return nil
}

// step looks at one record, and acts. over means that nothing of it is measured any more.
func (r *Rolling) step(ctx context.Context, k bundle.Kept, reverted *string, now time.Time, passed time.Duration) (one Rolled, over bool, err error) {
	p := r.policies
	current := p.current(k.Record.Level)
	if current == nil {
		return Rolled{Record: k}, true, nil
	}
	state := p.stages.of(k.Name)
	state.Enforced = max(state.Enforced, r.inUse[k.Name])
	v, err := r.versions(k, current)
	if err != nil { // the keys were changed since, or the disk is damaged: what is in force stays
		return Rolled{Record: k, Outlook: rollout.Outlook{State: state, Waits: err.Error()}}, true, nil
	}
	s := rollout.Situation{
		Plan: k.Record.Rollout, Version: k.Record.Version, Self: r.fleet.Node(), First: v.before == nil, State: state, Now: now, Passed: passed,
	}
	if state.Phase == "" || state.Phase == rollout.Waiting {
		s.Behind, s.Peers = r.fleet.Behind(ctx), r.fleet.Peers(k)
	}
	s.Measured, s.Broken = r.measured(k, state.Phase)
	if state.Phase == rollout.Enforcing && reverted != nil {
		s.Broken = *reverted
	}
	one = Rolled{Record: k, Outlook: rollout.Next(s), Measured: s.Measured}
	next := one.Outlook.State
	if next.Phase != state.Phase {
		var use *bundle.Verified
		switch {
		case next.Phase == rollout.Enforcing && current.Name != k.Name:
			use = v.staged
		case next.Phase == rollout.Stopped && current.Name == k.Name:
			use = v.before
		}
		ring := k.Record.Rollout.Name(one.Outlook.Ring)
		revision := r.engine.Revision()
		err := p.move(k, next, ring, use)
		if e := (storeError{}); err != nil && !errors.As(err, &e) { // it was compiled when it came, and is refused now
			next = rollout.State{Phase: rollout.Stopped, Since: now, Reason: err.Error()}
			one.Outlook.State = next
			err = p.move(k, next, ring, nil)
		}
		if err != nil {
			return one, false, err
		}
		r.log.Info("staged policy", "policy", k.Record.String(), "ring", ring, "phase", next.Phase, "reason", next.Reason)
		r.fleet.Taken(revision)
	} else if err := r.enforced(k, state, next); err != nil {
		return one, false, err
	}
	switch soaking := time.Duration(k.Record.Rollout.Soak*int64(len(k.Record.Rollout.Rings)+1)) * time.Second; {
	case next.Phase == rollout.Waiting:
		r.compare(r.runOf(k, next.Phase), v.staged)
	case next.Phase == rollout.Enforcing && v.before != nil && next.Enforced < soaking:
		r.compare(r.runOf(k, next.Phase), v.before)
	default:
		return one, true, nil
	}
	return one, false, nil
}

// enforced remembers how long a record has been in force, on the disk by the minute and as soon as it
// has soaked.
func (r *Rolling) enforced(k bundle.Kept, before, now rollout.State) error {
	if now.Phase != rollout.Enforcing {
		return nil
	}
	if r.inUse == nil {
		r.inUse = map[[32]byte]time.Duration{}
	}
	r.inUse[k.Name] = now.Enforced
	plan := k.Record.Rollout
	if before.Enforced/time.Minute == now.Enforced/time.Minute && plan.Soaked(before) == plan.Soaked(now) {
		return nil
	}
	return r.policies.stages.put(k.Name, now)
}

// versions returns a staged record and the one to keep or to go back to; nil: there is none.
func (r *Rolling) versions(k bundle.Kept, current *bundle.Verified) (versions, error) {
	v, ok := r.known[k.Record.Level]
	if ok && v.of == k.Name && v.inForce == current.Name {
		return v, nil
	}
	p := r.policies
	held, err := p.holds(policySlot{level: k.Record.Level, scope: k.Record.Scope})
	if err != nil {
		return v, err
	}
	i := slices.IndexFunc(held, func(h *bundle.Verified) bool { return h.Name == k.Name })
	if i < 0 {
		return v, fmt.Errorf("%w: %s is not held any more", store.ErrCorrupt, k.Record.String())
	}
	v = versions{of: k.Name, inForce: current.Name, staged: held[i], before: current}
	if current.Name == k.Name {
		v.before = p.before(held[i+1:])
	}
	r.known[k.Record.Level] = v
	return v, nil
}

// runOf names what is compared: another phase or generation begins anew.
func (r *Rolling) runOf(k bundle.Kept, phase rollout.Phase) string {
	return fmt.Sprintf("%x %s %s", k.Name, phase, r.engine.Revision())
}

// compare puts another version of a level into the shadow, or ends that.
func (r *Rolling) compare(run string, with *bundle.Verified) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if run == r.run {
		return
	}
	r.run, r.fault = run, ""
	defer r.shadowing.watch()
	if with == nil {
		r.shadow.Stop()
		return
	}
	engine, err := r.shadowing.generation(with.Level())
	if err != nil { // it was compiled when it came: not beside these levels
		r.fault = err.Error()
		r.shadow.Stop()
		return
	}
	r.shadow.Start(shadow.Candidate{Engine: engine, Revision: engine.Revision(), Against: r.engine.Revision()})
}

// measured is what the shadow found in this phase, and why it cannot go on.
func (r *Rolling) measured(k bundle.Kept, phase rollout.Phase) (m rollout.Measured, broken string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.run == "" || r.run != r.runOf(k, phase) {
		return m, ""
	}
	report, ok := r.shadow.Report()
	if !ok {
		return m, r.fault
	}
	m = measuredBy(report, phase)
	if phase == rollout.Enforcing {
		return m, ""
	}
	return m, report.Ended
}

// measuredBy is a report as a rollout reads it: by which of the two versions is the new one.
func measuredBy(r shadow.Report, phase rollout.Phase) rollout.Measured {
	m := rollout.Measured{Compared: r.Compared, Denied: r.Counts[shadow.Denies], Failed: r.Counts[shadow.Fails], Questions: r.Questions, Uncounted: r.Uncounted}
	before := phase == rollout.Enforcing // the version before is in the shadow
	if before {
		m.Denied, m.Failed = r.Counts[shadow.Allows], r.Errors
	}
	for _, c := range r.Callers {
		of := rollout.Callers{Kind: string(c.Kind), Sources: c.Sources, Denied: c.Denies, Failed: c.Fails}
		if before {
			of.Denied, of.Failed = c.Allows, c.Errors
		}
		m.Callers = append(m.Callers, of)
	}
	return m
}

// Progress is how far this node is with staged policy.
func (r *Rolling) Progress() []Rolled {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.now)
}
