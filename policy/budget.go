package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// ErrBudget means that a level takes more than MaxSteps for an input. The message names the rule
// that takes most of them, and the input. Put what decides first into the rule, look things up by
// key instead of searching, or keep less in data.
var ErrBudget = errors.New("policy takes too many steps")

// Cost is what a level takes for one input.
type Cost struct {
	Kind  Kind   `json:"kind"`
	Input string `json:"input"` // "file: rule" of a test's input, or "largest"
	Steps int    `json:"steps"` // of MaxSteps
}

// Costs measures a level on the inputs that its tests name and on one as large as an input of each
// kind may be: what Activate holds against MaxSteps. An input of a test is the value of a rule in a
// test package that has no arguments and is a whole input, such as good := {"v": 1, ...}.
func Costs(l Level) ([]Cost, error) {
	l.Measured = false
	c, err := compile(&l)
	if err != nil {
		return nil, err
	}
	return c.costs, nil
}

// sample is an input to measure with.
type sample struct {
	kind  Kind
	name  string
	value ast.Value
}

// measure runs every sample of a level, and refuses the level where one takes too much.
func (c *compiled) measure(l *Level, compiler *ast.Compiler, store storage.Store) error {
	samples := goldens(l, store)
	for _, kind := range Kinds {
		if c.kinds[kind] != nil {
			samples = append(samples, sample{kind, "the largest input", largest(kind, guardsOf(l.Name, compiler, kind))})
		}
	}
	var errs []error
	for _, s := range samples {
		q := c.kinds[s.kind]
		if q == nil {
			continue
		}
		m := newMeter(context.Background(), time.Minute)
		// What else goes wrong shows when it is decided, as an error of the level.
		_, _ = q.query.ask(context.Background(), s.value, m)
		c.costs = append(c.costs, Cost{s.kind, s.name, m.steps})
		if m.why == "" {
			continue
		}
		rule := q.dearest(s.value)
		e := wrong(ErrBudget, nil, "put what decides first, and look up by key instead of searching", "%s of kind %s: %s", s.name, s.kind, m.why)
		if rule != nil {
			e = wrong(ErrBudget, rule.Location, e.Fix, "rule %s: %s of kind %s: %s", rule.Head.Ref(), s.name, s.kind, m.why)
		}
		errs = append(errs, e)
	}
	return l.tell(errs...)
}

// dearest is the rule that takes most of the steps, nil where none takes part.
func (q *question) dearest(input ast.Value) *ast.Rule {
	t := &ruleCounter{rules: map[uint64]*ast.Rule{}, steps: map[*ast.Rule]int{}}
	_, _ = q.query.run(context.Background(), input, newMeter(context.Background(), time.Minute), rego.EvalQueryTracer(t))
	var most *ast.Rule
	for r, n := range t.steps {
		if most == nil || cmp.Or(cmp.Compare(n, t.steps[most]), -cmp.Compare(r.Location.String(), most.Location.String())) > 0 {
			most = r
		}
	}
	return most
}

// ruleCounter counts the expressions of each rule.
type ruleCounter struct {
	rules map[uint64]*ast.Rule // by query
	steps map[*ast.Rule]int
}

func (*ruleCounter) Enabled() bool               { return true }
func (*ruleCounter) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent counts one event. A query that is no rule's own belongs to that of its parent.
func (t *ruleCounter) TraceEvent(e topdown.Event) {
	r, known := t.rules[e.QueryID]
	if own, ok := e.Node.(*ast.Rule); ok && e.Op == topdown.EnterOp {
		r, t.rules[e.QueryID] = own, own
	} else if !known {
		r = t.rules[e.ParentID]
		t.rules[e.QueryID] = r
	}
	if r != nil && e.Op == topdown.EvalOp {
		t.steps[r]++
	}
}

// goldens are the inputs that the tests of a level name. Tests that do not compile have none:
// Check says what is wrong with them.
func goldens(l *Level, store storage.Store) (out []sample) {
	if !slices.ContainsFunc(slices.Collect(maps.Keys(l.Modules)), isTest) {
		return nil
	}
	c, modules, err := withTests(l)
	if err != nil {
		return nil
	}
	if c.Compile(modules); c.Failed() {
		return nil
	}
	m := newMeter(context.Background(), 10*time.Second)
	m.limit = 100 * MaxSteps
	for _, file := range slices.Sorted(maps.Keys(modules)) {
		if !isTest(file) {
			continue
		}
		for _, r := range modules[file].Rules {
			ref := r.Head.Ref()
			if len(ref) != 1 || len(r.Head.Args) > 0 || r.Head.Key != nil || strings.HasPrefix(ref.String(), "test_") {
				continue
			}
			asked, err := newQuery(r.Ref().GroundPrefix().String(), c, store)
			if err != nil {
				continue
			}
			t, err := asked.ask(context.Background(), ast.NewObject(), m)
			if err != nil {
				continue
			}
			facts, _ := t.Value.(ast.Object)
			if facts == nil {
				continue
			}
			kind := facts.Get(ast.InternedTerm("kind"))
			if kind == nil {
				continue
			}
			if s, ok := kind.Value.(ast.String); ok && slices.Contains(Kinds, Kind(s)) {
				out = append(out, sample{Kind(s), fmt.Sprintf("%s of %s", ref, file), t.Value})
			}
		}
	}
	return out
}

// guards are the constants that rules compare parts of the input with, by path.
type guards map[string]ast.Value

// guardsOf collects them, so that the largest input gets past a rule's first lines.
func guardsOf(level string, c *ast.Compiler, kind Kind) guards {
	out := guards{}
	seen := map[*ast.Rule]bool{}
	eachRule(level, c, func(k Kind, r *ast.Rule) {
		if k != kind || !isContract(k, r) {
			return
		}
		reach(c, seen, r, func(r *ast.Rule) {
			ast.WalkExprs(r, func(x *ast.Expr) bool {
				if terms := x.Operands(); x.IsCall() && len(terms) == 2 && (x.IsEquality() || x.Operator().Equal(ast.Equal.Ref())) {
					out.compared(terms[0], terms[1])
					out.compared(terms[1], terms[0])
				}
				return false
			})
		})
	})
	return out
}

func (g guards) compared(a, b *ast.Term) {
	ref, ok := a.Value.(ast.Ref)
	if !ok || !ast.InputRootDocument.Equal(ref[0]) || !ast.IsScalar(b.Value) {
		return
	}
	p := strings.Join(constantPart(ref[1:]), ".")
	if g[p] == nil {
		g[p] = b.Value
	}
}

// largest is an input of a kind that has as much of everything as the limits let it have.
func largest(kind Kind, g guards) ast.Value {
	for entries := MaxList; ; entries = entries * 3 / 4 {
		in := Input{}
		w := worst{entries: entries, guards: g, shape: shapes[kind]}
		w.fill(reflect.ValueOf(&in).Elem(), "")
		in.V, in.Kind, in.Time.Until = InputVersion, kind, 0
		in.Time.Unix = max(in.Time.Unix, 1)
		if value, err := in.value(); err == nil {
			return value
		}
	}
}

// nestedEntries is how long lists in a map are: as many as fit beside the map's own entries.
const nestedEntries = 8

// worst makes the largest input.
type worst struct {
	entries int
	next    int // so that no two strings are alike
	guards  guards
	shape   shape
}

func (w *worst) fill(v reflect.Value, at string) {
	guard := w.guards[at]
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			name, _ := jsonName(v.Type().Field(i))
			if at == "" && !slices.Contains(w.shape.fields(), name) {
				continue
			}
			w.fill(v.Field(i), strings.TrimPrefix(at+"."+name, "."))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		w.fill(v.Elem(), at)
	case reflect.String:
		w.next++
		v.SetString(fmt.Sprintf("worst-%d", w.next))
		if s, ok := guard.(ast.String); ok {
			v.SetString(string(s))
		}
	case reflect.Bool:
		b, known := guard.(ast.Boolean)
		v.SetBool(bool(b) || !known)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
		if n, ok := guard.(ast.Number); ok {
			if i, ok := n.Int64(); ok {
				v.SetInt(i)
			}
		}
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Slice:
		entries := w.entries
		if strings.Contains(at, "key-") { // of a list in a map
			entries = nestedEntries
		}
		for range entries {
			e := reflect.New(v.Type().Elem()).Elem()
			w.fill(e, at+".")
			v.Set(reflect.Append(v, e))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		entries := w.entries
		if v.Type().Elem().Kind() == reflect.Struct { // the levels
			entries = len(levelOrder)
		}
		for i := range entries {
			e := reflect.New(v.Type().Elem()).Elem()
			key := fmt.Sprint("key-", i)
			if v.Type().Elem().Kind() == reflect.Struct {
				key = levelOrder[i]
			}
			w.fill(e, at+"."+key)
			v.SetMapIndex(reflect.ValueOf(key), e)
		}
	case reflect.Interface:
		w.next++
		v.Set(reflect.ValueOf(fmt.Sprintf("worst-%d", w.next)))
	}
}
