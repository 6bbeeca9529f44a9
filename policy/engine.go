package policy

import (
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

	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/prometheus/client_golang/prometheus"
)

// Config sets up an Engine.
type Config struct {
	// Require lists levels that may not be absent. Global always is one of them.
	Require []string
	// Deadline ends an evaluation, with a denial. Zero means 250 ms, several thousand times what
	// one takes: it is there for hostile policies, and must not fire because a machine is busy.
	Deadline time.Duration
	Metrics  prometheus.Registerer // nil: no metrics
}

// Engine answers. Its methods may be called concurrently; Decide never waits for Activate.
type Engine struct {
	cfg      Config
	ready    bool // made by New: the zero Engine denies
	gen      atomic.Pointer[generation]
	activate sync.Mutex // held while a generation is built; Decide does not take it
	metrics  metrics
}

// generation is a set of levels in force. It is never changed.
type generation struct {
	levels   []*active // in order of precedence
	revision string
}

type active struct {
	Level
	*compiled
}

// New makes an engine without policy: it denies everything but control calls until Activate.
func New(cfg Config) *Engine {
	if cfg.Deadline <= 0 {
		cfg.Deadline = 250 * time.Millisecond
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
	e.activate.Lock()
	defer e.activate.Unlock()
	if !e.ready {
		return fmt.Errorf("%w: the engine was not made by New", ErrLevel)
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
		return err
	}
	slices.SortFunc(next.levels, func(a, b *active) int {
		return slices.Index(levelOrder, a.Name) - slices.Index(levelOrder, b.Name)
	})
	next.revision = next.name()
	e.gen.Store(next)
	e.metrics.activation(true)
	return nil
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
// "global@1+regional@7#5f1c09ab".
func (g *generation) name() string {
	h := sha256.New()
	parts := make([]string, len(g.levels))
	for i, l := range g.levels {
		h.Write(l.compiled.digest[:])
		parts[i] = l.Name + "@" + l.Revision
	}
	return strings.Join(parts, "+") + "#" + hex.EncodeToString(h.Sum(nil)[:4])
}

// Revision names the generation in force; "none" before the first.
func (e *Engine) Revision() string {
	if g := e.gen.Load(); g != nil {
		return g.revision
	}
	return "none"
}

// Decide answers in. It never fails: what goes wrong is a denial that says so.
func (e *Engine) Decide(ctx context.Context, in Input) (d Decision) {
	start := time.Now()
	d = Decision{ID: NewID(), Kind: in.Kind, Source: in.source(), Target: in.target(),
		At: time.Unix(in.Time.Unix, 0).UTC(), Revision: e.Revision()}
	defer func() {
		if p := recover(); p != nil {
			d.Allow, d.Grant, d.Rule, d.Reason = false, nil, RulePanic, fmt.Sprintf("deciding failed: %v", p)
		}
		e.metrics.decision(d, time.Since(start))
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
	if in.Policy.Levels == nil {
		in.Policy.Levels = gen.state(in.Time.Unix)
	}
	value, err := in.value()
	if err == nil {
		d.Input, err = json.Marshal(in)
	}
	if err == nil && len(d.Input) > MaxInput {
		err = fmt.Errorf("%w: %d bytes of JSON, at most %d", ErrInput, len(d.Input), MaxInput)
	}
	if err != nil {
		d.Input, d.Rule, d.Reason = nil, RuleInput, err.Error()
		return d
	}
	cancel := topdown.NewCancel()
	timer := time.AfterFunc(e.cfg.Deadline, cancel.Cancel)
	defer timer.Stop()
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, cancel.Cancel)()
	}
	run := evaluation{in: &in, value: value, cancel: cancel}
	vs := make([]Verdict, 0, len(levelOrder))
	for _, l := range gen.levels {
		vs = append(vs, run.verdict(ctx, l))
	}
	for _, name := range e.cfg.Require {
		if !slices.ContainsFunc(vs, func(v Verdict) bool { return v.Level == name }) {
			vs = append(vs, Verdict{Level: name, Outcome: Missing})
		}
	}
	combine(&d, &in, vs)
	return d
}

// state tells rules how old each level is.
func (g *generation) state(now int64) map[string]LevelState {
	m := make(map[string]LevelState, len(g.levels))
	for _, l := range g.levels {
		s := LevelState{Revision: l.Revision}
		if !l.Signed.IsZero() {
			s.AgeSeconds = max(0, now-l.Signed.Unix())
		}
		m[l.Name] = s
	}
	return m
}

// NewID returns a decision ID: 16 random bytes, in hex.
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
