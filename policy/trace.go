package policy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// RuleTrace is how one deny or allow rule fared with an input.
type RuleTrace struct {
	LevelRule
	Held bool `json:"held"`
	// Conditions are those of a rule that held; of another, those that held before the one that
	// did not, and that one last.
	Conditions []Condition `json:"conditions"`
	Left       int         `json:"left"` // conditions that were not reached any more
}

// Failed is the condition at which a rule ended that did not hold.
func (r RuleTrace) Failed() *Condition {
	if r.Held || len(r.Conditions) == 0 {
		return nil
	}
	return &r.Conditions[len(r.Conditions)-1]
}

// Condition is one line of a rule's body.
type Condition struct {
	File  string `json:"file"`
	Line  int    `json:"line"`
	Text  string `json:"text"` // as its author wrote it, on one line
	Holds bool   `json:"holds"`
	// Undefined: it did not hold because something that it reads is not there.
	Undefined bool        `json:"undefined,omitempty"`
	Facts     []Fact      `json:"facts,omitempty"`  // what it reads
	Within    []Condition `json:"within,omitempty"` // where the rules ended that it asks
}

// Fact is something that a condition reads.
type Fact struct {
	Path   string `json:"path"`            // such as input.source.region
	Value  string `json:"value,omitempty"` // as JSON, cut at some 200 bytes
	Absent bool   `json:"absent,omitempty"`
}

const (
	maxText   = 200 // bytes of a condition or value that are shown
	maxWithin = 3
)

// Aside returns an engine with the generation in force here that remembers nothing, counts nothing
// and has no observer: for questions that nobody acts on.
func (e *Engine) Aside() *Engine {
	cfg := e.cfg
	cfg.Cache, cfg.Metrics, cfg.OnRevert, cfg.Unrecorded = -1, nil, nil, true
	out := New(cfg)
	if g := e.gen.Load(); g != nil {
		out.gen.Store(&generation{levels: g.levels, revision: g.revision, views: g.views})
	}
	return out
}

// Trace evaluates every deny and allow rule for the kind of in, to the end, and tells how each
// fared: by level, and then in the order of their files. Unlike Decide it is slow, and its answer
// binds nobody. Errors wrap ErrInput, or are those of an evaluation that failed.
func (e *Engine) Trace(ctx context.Context, in Input) ([]RuleTrace, error) {
	g := e.gen.Load()
	if g == nil {
		return nil, nil
	}
	if in.Policy.Levels == nil {
		in.Policy.Levels = g.state(in.Time.Unix, e.isolated())
	}
	value, err := in.value()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Deadline)
	defer cancel()
	var out []RuleTrace
	var errs []error
	for _, l := range g.levels {
		if l.kinds[in.Kind] == nil {
			continue
		}
		traces, err := l.trace(ctx, in.Kind, value)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.Name, err))
		}
		out = append(out, traces...)
	}
	return out, errors.Join(errs...)
}

func (l *active) trace(ctx context.Context, kind Kind, in ast.Value) (out []RuleTrace, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	t := tracer{queries: map[uint64]*ast.Rule{}, fared: map[*ast.Rule]*fared{}}
	q := l.kinds[kind]
	stop := topdown.NewCancel()
	defer context.AfterFunc(ctx, stop.Cancel)()
	_, err = q.query.run(ctx, in, stop, rego.EvalQueryTracer(&t), rego.EvalRuleIndexing(false), rego.EvalEarlyExit(false))
	facts := factReader{ctx: ctx, level: l, in: in}
	eachRule(l.Name, l.compiler, func(k Kind, r *ast.Rule) {
		name, _ := r.Head.Ref()[0].Value.(ast.Var)
		if k != kind || name != denyRule && name != allowRule || r.Head.Key == nil {
			return
		}
		id, _ := r.Head.Key.Value.(ast.String)
		rule := q.rules[string(id)]
		if rule == nil {
			return
		}
		out = append(out, facts.rule(&t, r, LevelRule{Level: l.Name, Denies: name == denyRule, Rule: rule}))
	})
	slices.SortStableFunc(out, func(a, b RuleTrace) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return out, err
}

// tracer notes how far the body of each rule came.
type tracer struct {
	queries map[uint64]*ast.Rule
	fared   map[*ast.Rule]*fared
}

type fared struct {
	held bool
	at   int // index of the expression that failed last in the body; -1: none did
}

func (t *tracer) Enabled() bool               { return true }
func (t *tracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

func (t *tracer) TraceEvent(e topdown.Event) {
	switch node := e.Node.(type) {
	case *ast.Rule:
		f := t.fared[node]
		if f == nil {
			f = &fared{at: -1}
			t.fared[node] = f
		}
		if e.Op == topdown.EnterOp {
			t.queries[e.QueryID] = node
		} else if e.Op == topdown.ExitOp {
			f.held = true
		}
	case *ast.Expr:
		if r := t.queries[e.QueryID]; r != nil && e.Op == topdown.FailOp && slices.Contains(r.Body, node) {
			f := t.fared[r]
			f.at = max(f.at, node.Index)
		}
	}
}

// factReader turns what the tracer noted into conditions.
type factReader struct {
	ctx   context.Context
	level *active
	in    ast.Value
}

// bodyLine is the expressions that the compiler made of one condition.
type bodyLine struct {
	loc   *ast.Location
	exprs []*ast.Expr
}

// linesOf puts the expressions of a body together again by where they were written.
func linesOf(body ast.Body) (out []bodyLine) {
	for _, e := range body {
		if e.Location == nil || len(e.Location.Text) == 0 {
			continue
		}
		i := slices.IndexFunc(out, func(l bodyLine) bool { return within(e.Location, l.loc) })
		if i < 0 {
			out = append(out, bodyLine{loc: e.Location})
			i = len(out) - 1
		} else if len(e.Location.Text) > len(out[i].loc.Text) {
			out[i].loc = e.Location
		}
		out[i].exprs = append(out[i].exprs, e)
	}
	return out
}

// within reports whether one place is part of the other.
func within(a, b *ast.Location) bool {
	return a.File == b.File && a.Offset < b.Offset+len(b.Text) && b.Offset < a.Offset+len(a.Text)
}

func (f factReader) rule(t *tracer, r *ast.Rule, lr LevelRule) RuleTrace {
	out := RuleTrace{LevelRule: lr, Conditions: []Condition{}}
	how := t.fared[r]
	out.Held = how != nil && how.held
	lines := linesOf(r.Body)
	for i, l := range lines {
		c := f.condition(l)
		c.Holds = out.Held || how != nil && !slices.ContainsFunc(l.exprs, func(e *ast.Expr) bool { return e.Index >= how.at })
		if !c.Holds {
			c.Undefined = slices.ContainsFunc(c.Facts, func(f Fact) bool { return f.Absent })
			c.Within = f.within(t, l)
			out.Conditions, out.Left = append(out.Conditions, c), len(lines)-i-1
			return out
		}
		out.Conditions = append(out.Conditions, c)
	}
	return out
}

// within tells where the rules ended that a condition asks.
func (f factReader) within(t *tracer, l bodyLine) (out []Condition) {
	for _, e := range l.exprs {
		ast.WalkRefs(e, func(ref ast.Ref) bool {
			for _, r := range f.level.compiler.GetRules(ref.ConstantPrefix()) {
				how := t.fared[r]
				if how == nil || how.held || len(out) == maxWithin {
					continue
				}
				for _, l := range linesOf(r.Body) {
					if !slices.ContainsFunc(l.exprs, func(e *ast.Expr) bool { return e.Index >= how.at }) {
						continue
					}
					c := f.condition(l)
					c.Undefined = slices.ContainsFunc(c.Facts, func(f Fact) bool { return f.Absent })
					out = append(out, c)
					break
				}
			}
			return false
		})
	}
	return out
}

func (f factReader) condition(l bodyLine) Condition {
	c := Condition{File: l.loc.File, Line: l.loc.Row, Text: cut(strings.Join(strings.Fields(string(l.loc.Text)), " "))}
	// What its author wrote, not what the compiler made of it.
	body, err := ast.ParseBodyWithOpts(string(l.loc.Text), ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return c
	}
	seen := map[string]bool{}
	visit := ast.NewGenericVisitor(func(x any) bool {
		ref, ok := x.(ast.Ref)
		if !ok || len(ref) < 2 || !ref[0].Equal(ast.InputRootDocument) && !ref[0].Equal(ast.DefaultRootDocument) {
			return false
		}
		if name := ref.String(); !seen[name] && !ownVars(ref) {
			seen[name] = true
			c.Facts = append(c.Facts, f.fact(ref, name))
		}
		return false // what is in brackets may be a fact as well
	})
	visit.Walk(body)
	return c
}

// ownVars reports whether a reference needs a variable of the rule.
func ownVars(ref ast.Ref) bool {
	found := false
	ast.WalkVars(ref[1:], func(v ast.Var) bool {
		if v != ast.InputRootDocument.Value && v != ast.DefaultRootDocument.Value {
			found = true
		}
		return found
	})
	return found
}

func (f factReader) fact(ref ast.Ref, name string) Fact {
	out := Fact{Path: name, Absent: true}
	rs, err := rego.New(rego.Query("v = "+name), rego.Compiler(f.level.compiler), rego.Store(f.level.store), rego.ParsedInput(f.in)).Eval(f.ctx)
	if err != nil || len(rs) != 1 {
		return out
	}
	v, err := ast.InterfaceToValue(rs[0].Bindings["v"])
	if err != nil {
		return out
	}
	out.Value, out.Absent = cut(v.String()), false
	return out
}

func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(string(bytes.TrimSpace([]byte(s[:maxText]))), "") + "..."
}
