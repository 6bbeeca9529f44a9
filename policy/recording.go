package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"github.com/bailiwick-mesh/bailiwick/policy/spelling"
)

// Recording is what the levels say about writing a decision down.
type Recording struct {
	Masks []Mask
	// SampleEvery is how many allows of one sort stand for one that is kept whole: the smallest
	// number a level names, 0 where none does.
	SampleEvery int
}

// Mask hides a part of an input in what is written, as an element of mask in OPA's
// data.system.log: a path alone, or {"op", "path", "value"}.
type Mask struct {
	Op    string // MaskRemove or MaskUpsert
	Path  string // /input or below it, a JSON pointer (RFC 6901)
	Value any    // instead of it, with MaskUpsert
}

// What a mask does.
const (
	MaskRemove = "remove"
	MaskUpsert = "upsert"
)

// MaxSampleEvery is the largest sample.
const MaxSampleEvery = 1_000_000

const (
	logPackage = "log"
	maskRule   = "mask"
	sampleRule = "sample"
)

// ErrRecording means that the rules which mask a decision failed. Nothing of the input may be
// written down then.
var ErrRecording = errors.New("the policy does not say what to mask")

func isLog(level, pkg string) bool { return pkg == "bailiwick."+level+"."+logPackage }

// Recording asks every level how the decision d is to be written down. Where none has rules for
// that, it says nothing. Of a decision without an input no rule can be asked: where a level has
// masks, all of it is masked. Errors wrap ErrRecording.
func (e *Engine) Recording(ctx context.Context, d Decision) (r Recording, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: panic: %v", ErrRecording, p)
		}
	}()
	g := e.gen.Load()
	if g == nil || !slices.ContainsFunc(g.levels, func(l *active) bool { return l.recording != nil }) {
		return r, nil
	}
	if len(d.Input) == 0 {
		if slices.ContainsFunc(g.levels, func(l *active) bool { return l.masks }) {
			r.Masks = []Mask{{Op: MaskRemove, Path: "/input"}}
		}
		return r, nil
	}
	in, err := ast.ValueFromReader(strings.NewReader(string(d.Input)))
	if err != nil {
		return r, fmt.Errorf("%w: %v", ErrRecording, err)
	}
	m := newMeter(ctx, e.cfg.Deadline)
	for _, l := range g.levels {
		if l.recording == nil {
			continue
		}
		m.again()
		if err := r.ask(ctx, l.recording, in, m); err != nil {
			return Recording{}, fmt.Errorf("%w: %s: %v", ErrRecording, l.Name, err)
		}
	}
	return r, nil
}

func (r *Recording) ask(ctx context.Context, query *query, in ast.Value, m *meter) error {
	t, err := query.ask(ctx, in, m)
	if err != nil {
		return err
	}
	list, ok := t.Value.(*ast.Array)
	if !ok || list.Len() != 2 {
		return fmt.Errorf("the query gave %v", t)
	}
	masks, _ := list.Elem(0).Value.(ast.Set)
	samples, _ := list.Elem(1).Value.(ast.Set)
	if masks == nil || samples == nil {
		return fmt.Errorf("the query gave %v", t)
	}
	for _, m := range masks.Slice() {
		mask, err := readMask(m)
		if err != nil {
			return err
		}
		r.Masks = append(r.Masks, mask)
	}
	for _, s := range samples.Slice() {
		n, _ := s.Value.(ast.Number) // else it is empty, which is no number either
		every, whole := n.Int()
		if !whole || every < 1 || every > MaxSampleEvery {
			return fmt.Errorf("sample is %v, want a whole number from 1 to %d", s, MaxSampleEvery)
		}
		if r.SampleEvery == 0 || every < r.SampleEvery {
			r.SampleEvery = every
		}
	}
	return nil
}

// readMask takes an element of mask: a path, or an object with op, path and value.
func readMask(t *ast.Term) (m Mask, err error) {
	switch v := t.Value.(type) {
	case ast.String:
		m = Mask{Op: MaskRemove, Path: string(v)}
	case ast.Object:
		if m.Op, err = text(v, "op"); err == nil {
			m.Path, err = text(v, "path")
		}
		if value := v.Get(ast.StringTerm("value")); err == nil && value != nil {
			m.Value, err = ast.JSON(value.Value)
		}
	default:
		err = fmt.Errorf("it is a %s", ast.ValueName(v))
	}
	switch {
	case err != nil:
		return m, fmt.Errorf("mask %v: %v: want a path, or an object with op, path and value", t, err)
	case m.Op != MaskRemove && m.Op != MaskUpsert:
		return m, fmt.Errorf("mask %v: op %q is neither %q nor %q", t, m.Op, MaskRemove, MaskUpsert)
	case m.Path != "/input" && !strings.HasPrefix(m.Path, "/input/"):
		return m, fmt.Errorf("mask %v: path %q is not below /input", t, m.Path)
	}
	return m, nil
}

// eachLogRule calls fn for the rules in a level's package log, in the order of their places.
func eachLogRule(level string, c *ast.Compiler, fn func(name string, r *ast.Rule)) {
	var rules []*ast.Rule
	for _, m := range c.Modules {
		if isLog(level, strings.TrimPrefix(m.Package.Path.String(), "data.")) {
			rules = append(rules, m.Rules...)
		}
	}
	slices.SortFunc(rules, func(a, b *ast.Rule) int {
		return cmp.Or(cmp.Compare(a.Location.File, b.Location.File), cmp.Compare(a.Location.Row, b.Location.Row))
	})
	for _, r := range rules {
		name, _ := r.Head.Ref()[0].Value.(ast.Var)
		fn(string(name), r)
	}
}

// checkRecording refuses what is wrong in a level's package log. Everything in it must serve mask
// or sample: a misspelt mask would write down what it is meant to hide.
func checkRecording(level string, c *ast.Compiler) error {
	used := map[*ast.Rule]bool{}
	var errs []error
	eachLogRule(level, c, func(name string, r *ast.Rule) {
		if name != maskRule && name != sampleRule {
			return
		}
		reach(c, used, r, func(*ast.Rule) {})
		plain := len(r.Head.Ref()) == 1 && len(r.Head.Args) == 0 && !r.Default
		if !plain || (r.Head.Key != nil) != (name == maskRule) {
			errs = append(errs, wrong(ErrRule, r.Head.Location, "want mask contains \"/input/...\" if {...}, or sample := 10 if {...}", "%s has another form", name))
			return
		}
		if s, ok := constant(r.Head.Key); ok {
			if _, err := readMask(ast.StringTerm(s)); err != nil {
				errs = append(errs, wrong(ErrRule, r.Head.Location, "begin the path with /input/", "mask %q is not below /input", s))
			}
		}
	})
	eachLogRule(level, c, func(name string, r *ast.Rule) {
		if !used[r] {
			fix := "use it or take it out"
			if near := spelling.Nearest(name, []string{maskRule, sampleRule}); near != "" {
				fix = "did you mean " + near + "?"
			}
			errs = append(errs, wrong(ErrRule, r.Head.Location, fix, "rule %s is used by no mask or sample", name))
		}
	})
	return errors.Join(errs...)
}

func constant(t *ast.Term) (string, bool) {
	if t == nil {
		return "", false
	}
	s, ok := t.Value.(ast.String)
	return string(s), ok
}

// prepareRecording returns the question that a level's package log answers, nil where it has none,
// and whether there are masks in it.
func prepareRecording(level string, c *ast.Compiler, store storage.Store) (*query, bool, error) {
	defined := map[string]bool{}
	eachLogRule(level, c, func(name string, _ *ast.Rule) { defined[name] = true })
	if len(defined) == 0 {
		return nil, false, nil
	}
	part := func(name, query string) string {
		if !defined[name] {
			return "set()"
		}
		return strings.ReplaceAll(query, "$", "data.bailiwick."+level+"."+logPackage+"."+name)
	}
	asked, err := newQuery("["+part(maskRule, "$")+", "+part(sampleRule, "{n | n := $}")+"]", c, store)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %s: %v", ErrCompile, level, err)
	}
	return asked, defined[maskRule], nil
}
