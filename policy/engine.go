package policy

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config sets up an Engine.
type Config struct {
	// Require lists levels that may not be absent. Global always is one of them.
	Require []string
	// Deadline ends an evaluation, with a denial. Zero means one second, many thousand times what
	// one takes: MaxSteps ends it before, unless the machine is very busy.
	Deadline time.Duration
	// Cache is how many decisions are remembered, about 1 KB each. Zero means 8,192; less than zero
	// means none, for whoever measures or replays policy.
	Cache int
	// OnRevert is told that a generation was taken out of force and which is back, by the goroutine
	// whose decision was the last straw, which it must not keep long. Nil: nobody.
	OnRevert func(from, to, why string)
	// Isolated reports whether the authority of this node's levels is out of reach, which rules see as
	// input.policy.levels.<level>.isolated. It must return at once. Nil: it never is.
	Isolated func() bool
	// Unrecorded leaves Decision.Input empty, for whoever has the input in writing already.
	Unrecorded bool
	Metrics    prometheus.Registerer // nil: no metrics
}

// Engine answers. Its methods may be called concurrently; Decide and Recall never wait for Activate.
type Engine struct {
	cfg      Config
	ready    bool // made by New: the zero Engine denies
	gen      atomic.Pointer[generation]
	activate sync.Mutex             // held while a generation is built; Decide does not take it
	prepared *generation            // the newest, under activate
	reverted atomic.Pointer[string] // revision of the generation that was taken out of force
	metrics  metrics
	observer atomic.Pointer[func(Input, Decision)]
	asked    asked
}

// generation is a set of levels in force. What it answers is never changed.
type generation struct {
	levels   []*active // in order of precedence
	revision string
	views    map[Kind]*view
	cache    *cache // nil where nothing is remembered
	watchdog watchdog
	states   atomic.Pointer[levelStates] // of the newest second that was asked about
}

// levelStates is what rules see of the levels within one second. It is never changed.
type levelStates struct {
	unix     int64
	isolated bool
	levels   map[string]LevelState
}

type active struct {
	Level
	*compiled
}

// New makes an engine without policy: it denies everything but control calls until Activate.
func New(cfg Config) *Engine {
	if cfg.Deadline <= 0 {
		cfg.Deadline = time.Second
	}
	if !slices.Contains(cfg.Require, Global) {
		cfg.Require = append([]string{Global}, cfg.Require...)
	}
	return &Engine{cfg: cfg, ready: true, metrics: newMetrics(cfg.Metrics)}
}

// Activate replaces the whole generation by these levels, or changes nothing and reports every
// mistake in them. A level whose content did not change is not compiled again. The caller must not
// change the levels' maps afterwards.
func (e *Engine) Activate(levels ...Level) error {
	use, err := e.Prepare(levels...)
	if err == nil {
		use()
	}
	return err
}

// Prepare is the first half of Activate, for callers that have something to make durable in
// between: it builds the generation, and use puts it in force. Only the use of the newest Prepare
// does anything.
func (e *Engine) Prepare(levels ...Level) (use func(), err error) {
	e.activate.Lock()
	defer e.activate.Unlock()
	if !e.ready {
		return nil, fmt.Errorf("%w: the engine was not made by New", ErrLevel)
	}
	next := &generation{}
	var errs []error
	for _, l := range levels {
		if slices.ContainsFunc(next.levels, func(a *active) bool { return a.Name == l.Name }) {
			errs = append(errs, fmt.Errorf("%w: level %s is given twice", ErrLevel, l.Name))
			continue
		}
		l.Required = l.Required || slices.Contains(e.cfg.Require, l.Name)
		c, err := e.compiled(&l)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		next.levels = append(next.levels, &active{Level: l, compiled: c})
	}
	if err := errors.Join(errs...); err != nil {
		e.metrics.activation(false)
		return nil, err
	}
	slices.SortFunc(next.levels, func(a, b *active) int {
		return slices.Index(levelOrder, a.Name) - slices.Index(levelOrder, b.Name)
	})
	next.revision = next.name(true)
	if r := e.reverted.Load(); r != nil && *r == next.name(false) {
		e.metrics.activation(false)
		return nil, fmt.Errorf("%w: %s", ErrReverted, next.revision)
	}
	next.prepare(e.cfg.Cache, e.metrics)
	e.prepared = next
	return func() {
		e.activate.Lock()
		defer e.activate.Unlock()
		if e.prepared == next {
			e.succeed(next)
			e.gen.Store(next)
			e.metrics.activation(true)
		}
	}, nil
}

// Prepared names the generation of the newest Prepare, as Revision will once it is used; "none" before
// the first.
func (e *Engine) Prepared() string {
	e.activate.Lock()
	defer e.activate.Unlock()
	if e.prepared == nil {
		return "none"
	}
	return e.prepared.revision
}

// prepare gives a generation its views and its cache, which begins empty: no answer outlives its
// generation.
func (g *generation) prepare(cache int, m metrics) {
	g.views = map[Kind]*view{}
	for _, kind := range Kinds {
		g.views[kind] = viewOf(g.levels, kind, m.by[kind])
	}
	if cache >= 0 {
		g.cache = newCache(cmp.Or(cache, defaultCache))
	}
}

// view is what the rules for a kind see.
func (g *generation) view(kind Kind) *view {
	if v := g.views[kind]; v != nil {
		return v
	}
	return wholeView
}

func (e *Engine) compiled(l *Level) (*compiled, error) {
	data, err := l.check()
	if err != nil {
		return nil, err
	}
	if cur := e.gen.Load(); cur != nil {
		for _, a := range cur.levels {
			if a.compiled.digest == l.digest(data) {
				return a.compiled, nil
			}
		}
	}
	return compile(l)
}

// name is the levels' revisions and a digest of their contents, such as
// "global@1+regional@7#5f1c09ab", where with marks a stale level has one: "regional@7~freeze".
func (g *generation) name(marks bool) string {
	h := sha256.New()
	parts := make([]string, len(g.levels))
	for i, l := range g.levels {
		h.Write(l.compiled.digest[:])
		parts[i] = l.Name + "@" + l.Revision
		if marks && l.Stale != "" {
			parts[i] += "~" + l.Stale
		}
	}
	return strings.Join(parts, "+") + "#" + hex.EncodeToString(h.Sum(nil)[:4])
}

// Observe has fn told of every decision once it is made, by whoever asked for it: fn must return
// at once, and change nothing that it is given. Nil ends that.
func (e *Engine) Observe(fn func(Input, Decision)) {
	if fn == nil {
		e.observer.Store(nil)
		return
	}
	e.observer.Store(&fn)
}

func (e *Engine) observed(in Input, d Decision) {
	if fn := e.observer.Load(); fn != nil {
		(*fn)(in, d)
	}
}

// Revision names the generation in force; "none" before the first.
func (e *Engine) Revision() string {
	if g := e.gen.Load(); g != nil {
		return g.revision
	}
	return "none"
}

// Recall returns the decision that answers in, if the generation in force has made it before: nil
// otherwise. It evaluates, allocates and records nothing. The ID and At are those of the time when
// it was made, and there is no Input: who records the answer asks Decide. It is read only.
func (e *Engine) Recall(in Input) *Decision {
	gen := e.gen.Load()
	if gen == nil || gen.cache == nil {
		return nil
	}
	var room [maxKey]byte
	v := gen.views[in.Kind]
	key := v.answerKey(&in, e.isolated(), room[:0])
	if key == nil {
		return nil
	}
	d := gen.cache.get(key)
	if d != nil {
		gen.watchdog.remembered()
		v.counts.count(d)
		e.metrics.remembered.Inc()
		e.observed(in, *d)
	}
	return d
}

// Decide answers in. It never fails: what goes wrong is a denial that says so.
func (e *Engine) Decide(ctx context.Context, in Input) (d Decision) {
	start := time.Now()
	d = Decision{ID: NewID(), Kind: in.Kind, Source: in.source(), Target: in.target(),
		At: time.Unix(in.Time.Unix, 0).UTC(), Revision: "none"}
	defer func() {
		if p := recover(); p != nil {
			d.Allow, d.Grants, d.Rule, d.Reason = false, nil, RulePanic, fmt.Sprintf("deciding failed: %v", p)
		}
		e.metrics.decision(&d, time.Since(start))
		e.observed(in, d)
	}()
	if !e.ready {
		d.Rule, d.Reason = RuleNoEngine, "the policy engine was not set up"
		return d
	}
	gen := e.gen.Load()
	if gen == nil {
		gen = &generation{revision: "none"}
	}
	d.Revision = gen.revision
	var room [maxKey]byte
	var key []byte
	isolated := e.isolated()
	if gen.cache != nil {
		key = gen.views[in.Kind].answerKey(&in, isolated, room[:0])
	}
	if in.Policy.Levels == nil {
		in.Policy.Levels = gen.state(in.Time.Unix, isolated)
	}
	var record json.RawMessage
	if !e.cfg.Unrecorded {
		var err error
		if record, err = gen.view(in.Kind).record(&in); err != nil {
			d.Rule, d.Reason = RuleInput, err.Error()
			return d
		}
	}
	if key != nil {
		if known := gen.cache.get(key); known != nil {
			gen.watchdog.remembered()
			id, at := d.ID, d.At
			d = *known
			d.ID, d.At, d.Cached, d.Input = id, at, true, record
			return d
		}
	}
	d.Input = record
	e.evaluate(ctx, gen, &in, &d)
	e.watch(gen, in, d.Source, d.Verdicts)
	if key != nil && d.settled() {
		gen.cache.put(key, d)
	}
	return d
}

// evaluate asks every level and fills in d.
func (e *Engine) evaluate(ctx context.Context, gen *generation, in *Input, d *Decision) {
	value, err := gen.view(in.Kind).value(in)
	if err != nil {
		d.Input, d.Rule, d.Reason = nil, RuleInput, err.Error()
		return
	}
	if in.ended() {
		d.Rule, d.Reason = RuleEnded, "what it rests on, such as an SVID, ended at "+time.Unix(in.Time.Until, 0).UTC().Format(time.RFC3339)
		return
	}
	run := evaluation{in: in, value: value, meter: newMeter(ctx, e.cfg.Deadline)}
	vs := make([]Verdict, 0, len(levelOrder))
	for _, l := range gen.levels {
		vs = append(vs, run.verdict(ctx, l))
	}
	for _, name := range e.cfg.Require {
		if !slices.ContainsFunc(vs, func(v Verdict) bool { return v.Level == name }) {
			vs = append(vs, Verdict{Level: name, Outcome: Missing})
		}
	}
	combine(d, in, vs)
}

func (e *Engine) isolated() bool { return e.cfg.Isolated != nil && e.cfg.Isolated() }

// state tells rules how old each level is, and whether its authority is in reach. It is read only.
func (g *generation) state(now int64, isolated bool) map[string]LevelState {
	if s := g.states.Load(); s != nil && s.unix == now && s.isolated == isolated {
		return s.levels
	}
	m := make(map[string]LevelState, len(g.levels))
	for _, l := range g.levels {
		s := LevelState{Revision: l.Revision, Isolated: isolated}
		if !l.Signed.IsZero() {
			s.AgeSeconds = max(0, now-l.Signed.Unix())
		}
		m[l.Name] = s
	}
	g.states.Store(&levelStates{now, isolated, m})
	return m
}

// NewID returns a decision ID: 16 random bytes, in hex.
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
