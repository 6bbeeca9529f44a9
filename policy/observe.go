package policy

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/bailiwick-mesh/bailiwick/policy/jsonfile"
)

// MaxTestInputs bounds what Test keeps of the inputs that tests asked with.
const MaxTestInputs = 1000

// observer watches the tests of a level, which run one after another: what they ask with, which
// line of a test does not hold, and what of the rules they reach.
type observer struct {
	cover   *cover.Cover // nil where nobody asks for it
	tests   map[string]*observed
	current *observed
	last    *ast.Term       // input of the event before
	seen    map[string]bool // inputs, as JSON
	inputs  []Input
}

// observed is one test.
type observed struct {
	rule    *ast.Rule
	failed  *ast.Expr // the last line in it that did not hold, with the values of that moment
	foreign error     // the input has what no node sends
}

func newObserver(coverage bool) *observer {
	w := &observer{tests: map[string]*observed{}, seen: map[string]bool{}}
	if coverage {
		w.cover = cover.New()
	}
	return w
}

// Enabled, Config and TraceEvent make it a topdown.QueryTracer.
func (w *observer) Enabled() bool { return true }

func (w *observer) Config() topdown.TraceConfig { return topdown.TraceConfig{PlugLocalVars: true} }

func (w *observer) TraceEvent(e topdown.Event) {
	if w.cover != nil {
		w.cover.TraceEvent(e)
	}
	if in := e.Input(); in != w.last {
		w.last = in
		w.asked(in)
	}
	switch n := e.Node.(type) {
	case *ast.Rule:
		if e.Op != topdown.EnterOp || n.Location == nil {
			return
		}
		if name, _ := n.Head.Ref()[0].Value.(ast.Var); isTest(n.Location.File) && strings.HasPrefix(string(name), "test_") {
			w.current = &observed{rule: n}
			w.tests[at(n.Location)] = w.current
		}
	case *ast.Expr:
		t := w.current
		if e.Op == topdown.FailOp && t != nil && n.Location != nil && n.Location.File == t.rule.Location.File && n.Location.Row >= t.rule.Location.Row {
			t.failed = plugged(n, e)
		}
	}
}

// asked keeps an input, or what is wrong with it.
func (w *observer) asked(t *ast.Term) {
	if t == nil || w.current == nil {
		return
	}
	v, err := ast.JSON(t.Value)
	if err != nil {
		return // an input with a set in it, which rules see and no node sends
	}
	b, err := json.Marshal(v)
	if err != nil || w.seen[string(b)] {
		return
	}
	if len(w.seen) < MaxTestInputs {
		w.seen[string(b)] = true
	}
	var in Input
	if err := jsonfile.Decode(b, &in); err != nil {
		w.current.foreign = fmt.Errorf("it asks with an input that no node sends: %w", err)
		return
	}
	if _, err := in.value(); err == nil && len(w.inputs) < MaxTestInputs {
		w.inputs = append(w.inputs, in)
	}
}

// plugged is an expression with the values that its names have.
func plugged(x *ast.Expr, e topdown.Event) *ast.Expr {
	out := x.Copy()
	if terms, ok := out.Terms.([]*ast.Term); ok {
		for i := 1; i < len(terms); i++ {
			terms[i] = e.Plug(terms[i])
		}
	}
	for _, w := range out.With {
		w.Value = e.Plug(w.Value)
	}
	return out
}

// sides says how the two sides of a comparison differ. eval finds the value of one.
func sides(x *ast.Expr, eval func(*ast.Term, []*ast.With) *ast.Term) []string {
	args := x.Operands()
	if !x.IsCall() || len(args) != 2 || !(ast.Equality.Ref().Equal(x.Operator()) || ast.Equal.Ref().Equal(x.Operator())) {
		return nil
	}
	left, right := eval(args[0], x.With), eval(args[1], x.With)
	a, okA := left.Value.(ast.Set)
	b, okB := right.Value.(ast.Set)
	if !okA || !okB {
		return []string{"left:  " + left.String(), "right: " + right.String()}
	}
	var out []string
	if more := a.Diff(b); more.Len() > 0 {
		out = append(out, "only on the left:  "+more.String())
	}
	if more := b.Diff(a); more.Len() > 0 {
		out = append(out, "only on the right: "+more.String())
	}
	return out
}

// line is the source of a place.
func line(modules map[string]string, loc *ast.Location) string {
	_, name, _ := strings.Cut(loc.File, "/")
	lines := strings.Split(modules[name], "\n")
	if loc.Row < 1 || loc.Row > len(lines) {
		return ""
	}
	return strings.TrimSpace(lines[loc.Row-1])
}
