package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrReverted means that a generation was in force on this node and was taken out of it, because
// it failed for most callers. It is not put in force again before the next
// start. Correct what the denials with the rule "level-error" name, and publish that.
var ErrReverted = errors.New("this policy was tried and reverted")

// A generation is on probation until it gave soundEnough sound answers, remembered ones among them,
// and for probation at most. Until then the one before it is kept, and comes back when tooManyFailures
// evaluations failed, more than were sound; when at least manyCallers, and more than half of all,
// got nothing but failures; and when that is nothing that the callers brought with them: the same
// question, asked by this node (Input.ownQuestion), fails as well, as does most else that the node was
// asked for, and the generation before answers all of it. Otherwise what fails is denied and no more: whoever can make an evaluation
// overrun must not get back a generation that was replaced, perhaps because of him.
const (
	soundEnough     = 1000
	probation       = 10 * time.Minute
	tooManyFailures = 8
	manyCallers     = 3
	doubtEvery      = time.Second // the node asks itself, at most
)

// watchdog is what a generation is on probation with.
type watchdog struct {
	before atomic.Pointer[generation] // nil where there is none, or once this one is proven
	trial  *trial                     // never nil where before is not
}

// trial counts how the evaluations of one content go, which generations with other stale modes share.
type trial struct {
	ends  time.Time
	sound atomic.Int64

	mu       sync.Mutex
	doubted  time.Time // when the node asked itself last
	failures int64
	callers  map[string]bool // by source: whether something was sound; at most soundEnough
	lost     int             // how many of them had failures only
}

func newTrial() *trial {
	return &trial{ends: time.Now().Add(probation), callers: map[string]bool{}}
}

// kept is the generation to come back to, nil where this one is proven.
func (w *watchdog) kept() *generation {
	before := w.before.Load()
	if before != nil && (w.trial.sound.Load() >= soundEnough || time.Now().After(w.trial.ends)) {
		w.before.Store(nil)
		return nil
	}
	return before
}

// remembered takes in an answer that was sound before. It never locks.
func (w *watchdog) remembered() {
	if w.before.Load() != nil && w.trial.sound.Add(1) >= soundEnough {
		w.before.Store(nil)
	}
}

// saw takes in one evaluation, and reports that it was one failure too many: whether the policy is to
// blame has to be found out then.
func (w *watchdog) saw(source string, failed bool) bool {
	if w.kept() == nil {
		return false
	}
	t := w.trial
	t.mu.Lock()
	defer t.mu.Unlock()
	sound, known := t.callers[source]
	switch {
	case !known && len(t.callers) < soundEnough:
		t.callers[source] = !failed
		if failed {
			t.lost++
		}
	case known && !sound && !failed:
		t.callers[source] = true
		t.lost--
	}
	if !failed {
		t.sound.Add(1)
		return false
	}
	t.failures++
	if t.failures < tooManyFailures || t.failures <= t.sound.Load() || t.lost < manyCallers || 2*t.lost <= len(t.callers) || time.Since(t.doubted) < doubtEvery {
		return false
	}
	t.doubted = time.Now()
	return true
}

// failed reports whether a level took too many steps or panicked. One that ran out of time, or whose
// caller gave up, did neither: a busy machine is not the policy's fault.
func failed(vs []Verdict) (Verdict, bool) {
	for _, v := range vs {
		if v.failed {
			return v, true
		}
	}
	return Verdict{}, false
}

// watch goes back to the generation before when too many evaluations failed. It does not wait: of
// several that see the last straw one acts.
func (e *Engine) watch(gen *generation, in Input, source string, vs []Verdict) {
	v, bad := failed(vs)
	if !bad {
		e.asked.note(&in)
	}
	if !gen.watchdog.saw(source, bad) {
		return
	}
	before := gen.watchdog.before.Load()
	if before == nil || !e.toBlame(gen, before, in) || !e.gen.CompareAndSwap(gen, before) {
		return
	}
	bare := gen.name(false)
	e.reverted.Store(&bare)
	e.metrics.reverts.Inc()
	if e.cfg.OnRevert != nil {
		e.cfg.OnRevert(gen.revision, before.revision, fmt.Sprintf("level %s: %s", v.Level, v.Reason))
	}
}

// toBlame reports whether a question that a generation failed at is none that only its caller can
// ask: the generation before answers it, and of the same asked by this node one fails and the other
// does not. It is not to blame for one service, or one call, whoever asks: of all that this node is
// asked for, more than half has to fail.
func (e *Engine) toBlame(gen, before *generation, in Input) bool {
	own, ok := in.ownQuestion()
	if !ok || !e.fails(gen, own) || !sound(e.verdicts(before, in)) || !sound(e.verdicts(before, own)) {
		return false
	}
	asked, lost := 1, 1
	for about, other := range e.asked.all() {
		other.Time = own.Time
		if about == aboutOf(&in) || !sound(e.verdicts(before, other)) {
			continue
		}
		if asked++; e.fails(gen, other) {
			lost++
		}
	}
	return 2*lost > asked
}

func (e *Engine) fails(gen *generation, in Input) bool {
	_, bad := failed(e.verdicts(gen, in))
	return bad
}

// verdicts are what a generation makes of a question that nobody asked.
func (e *Engine) verdicts(gen *generation, in Input) []Verdict {
	in.Policy.Levels = gen.state(in.Time.Unix, e.isolated())
	var d Decision
	e.evaluate(context.Background(), gen, &in, &d)
	return d.Verdicts
}

// sound reports whether every level answered.
func sound(vs []Verdict) bool {
	return len(vs) > 0 && !slices.ContainsFunc(vs, func(v Verdict) bool { return v.Outcome == Erroneous })
}

// succeed puts the generation that is about to be in force on probation, where it has one before it.
// One with the contents of that in force, such as with another stale mode only, goes on with its
// probation. The one to come back to has the same stale modes: they are no part of what is tried.
func (e *Engine) succeed(next *generation) {
	cur := e.gen.Load()
	if cur == nil {
		return
	}
	before := cur.watchdog.kept()
	if slices.EqualFunc(cur.levels, next.levels, func(a, b *active) bool { return a.compiled.digest == b.compiled.digest }) {
		next.watchdog.trial = cur.watchdog.trial
	} else {
		next.watchdog.trial = newTrial()
		if before == nil {
			before = cur
		}
	}
	if before != nil {
		next.watchdog.before.Store(before.staleAs(next, e))
	}
}

// staleAs is g with the stale modes that the levels of another generation have.
func (g *generation) staleAs(other *generation, e *Engine) *generation {
	out := &generation{levels: slices.Clone(g.levels)}
	changed := false
	for i, l := range out.levels {
		j := slices.IndexFunc(other.levels, func(o *active) bool { return o.Name == l.Name })
		if j < 0 || other.levels[j].Stale == l.Stale {
			continue
		}
		again := *l
		again.Stale = other.levels[j].Stale
		out.levels[i], changed = &again, true
	}
	if !changed {
		return g
	}
	out.revision = out.name(true)
	out.prepare(e.cfg.Cache, e.metrics)
	return out
}

// Before names the generation that comes back where the one in force fails again and again, empty
// where that is proven.
func (e *Engine) Before() string {
	if g := e.gen.Load(); g != nil {
		if before := g.watchdog.kept(); before != nil {
			return before.revision
		}
	}
	return ""
}
