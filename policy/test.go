package policy

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/util"
)

// testTime is how long one test may take.
const testTime = 10 * time.Second

// TestResult is one test_ rule of a *_test.rego file.
type TestResult struct {
	Name       string        `json:"name"` // package and rule
	File       string        `json:"file"`
	Line       int           `json:"line"`
	Pass       bool          `json:"pass"`
	FailedLine int           `json:"failed_line,omitempty"`  // the line that did not hold
	Failed     string        `json:"failed,omitempty"`       // what it says
	Cases      []string      `json:"failed_cases,omitempty"` // of a table, test_name[case]: those that fail
	Difference []string      `json:"difference,omitempty"`   // of the two sides of a comparison that did not hold
	Error      string        `json:"error,omitempty"`        // where the test could not be run, or asked what no node asks
	Output     string        `json:"output,omitempty"`       // of print
	Duration   time.Duration `json:"duration_ns"`
}

// Coverage is what the tests of a level reached of one module.
type Coverage struct {
	File    string        `json:"file"`
	Percent float64       `json:"percent"` // of the lines that can be reached
	Missed  []LineRange   `json:"missed,omitempty"`
	Rules   []CoveredRule `json:"rules"` // deny and allow rules
}

// LineRange is lines From to To, both included.
type LineRange struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// CoveredRule is a rule, and whether it held in a test.
type CoveredRule struct {
	*Rule
	Held bool `json:"held"`
}

// TestReport is what Test found.
type TestReport struct {
	Results []TestResult // in the order of files and lines
	Modules []Coverage   // those that decide, by file; only with TestOptions.Coverage
	// Inputs are those the tests asked with that a node could ask with, each once, at most MaxTestInputs.
	Inputs []Input
}

// TestOptions says what to run.
type TestOptions struct {
	Run      *regexp.Regexp // tests whose name matches; nil: all
	Coverage bool
}

// Test runs the tests of a level, one after another. Unlike decisions they may use print, with, and
// a few functions to vary an input (object.union, object.remove, json.patch). The input that a
// test gives is held to the closed schema all the same: a test that asks with a field that no node
// sends proves nothing, and fails. What it leaves out is its author's business.
func Test(ctx context.Context, l Level, o TestOptions) (rep TestReport, err error) {
	ready, err := compile(&l)
	if err != nil {
		return rep, err
	}
	c, modules, err := withTests(&l)
	if err != nil {
		return rep, err
	}
	data, err := l.check()
	if err != nil {
		return rep, err
	}
	var root map[string]any
	if err := util.UnmarshalJSON(data, &root); err != nil {
		return rep, fmt.Errorf("%w: data of %s: %v", ErrLevel, l.Name, err)
	}
	store := inmem.NewFromObject(root)
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return rep, err
	}
	defer store.Abort(ctx, txn)
	watch := newObserver(o.Coverage)
	run := tester.NewRunner().SetCompiler(c).SetStore(store).SetModules(modules).SetParallel(1).SetCoverageQueryTracer(watch).
		RaiseBuiltinErrors(true).CapturePrintOutput(true).SetTimeout(testTime)
	if o.Run != nil {
		run.Filter(o.Run.String())
	}
	ch, err := run.RunTests(ctx, txn)
	if err != nil {
		return rep, fmt.Errorf("%w: %s: %v", ErrCompile, l.Name, err)
	}
	eval := func(t *ast.Term, with []*ast.With) *ast.Term {
		v := ast.VarTerm("side")
		x := ast.Equality.Expr(v, t)
		x.With = with
		rs, err := rego.New(rego.ParsedQuery(ast.NewBody(x)), rego.Compiler(c), rego.Store(store), rego.Transaction(txn),
			rego.GenerateJSON(func(t *ast.Term, _ *rego.EvalContext) (any, error) { return t, nil })).Eval(ctx)
		if err == nil && len(rs) == 1 {
			if side, ok := rs[0].Bindings["side"].(*ast.Term); ok {
				return side
			}
		}
		return ast.VarTerm("undefined")
	}
	var ran []*tester.Result
	for r := range ch {
		ran = append(ran, r)
	}
	for _, r := range ran { // not before all ran: the next one is observed while a result is here
		rep.Results = append(rep.Results, watch.result(r, l.Modules, eval))
	}
	slices.SortFunc(rep.Results, func(a, b TestResult) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Name, b.Name))
	})
	rep.Inputs = watch.inputs
	if o.Coverage {
		rep.Modules = coverage(watch.cover.Report(c.Modules), ready)
	}
	return rep, ctx.Err()
}

// result is a test's, with what the observer saw of it.
func (w *observer) result(r *tester.Result, modules map[string]string, eval func(*ast.Term, []*ast.With) *ast.Term) TestResult {
	res := TestResult{Name: r.Package + "." + r.Name, Pass: r.Pass(), Output: string(bytes.TrimSpace(r.Output)), Duration: r.Duration}
	if r.Location != nil {
		res.File, res.Line = r.Location.File, r.Location.Row
	}
	r.SubResults.Iter(func(path []string, sub *tester.SubResult) bool {
		if sub.Fail && len(sub.SubResults) == 0 {
			res.Cases = append(res.Cases, strings.Join(path, "/"))
		}
		return true
	})
	switch seen := w.tests[at(r.Location)]; {
	case r.Error != nil:
		res.Error = r.Error.Error()
	case r.Skip:
		res.Error = "it is still to be written, as its name says: one that is not run proves nothing; take todo_ off, or the rule out"
	case seen == nil:
	case seen.foreign != nil:
		res.Pass, res.Error = false, seen.foreign.Error()
	case !res.Pass && seen.failed != nil:
		res.FailedLine, res.Failed = seen.failed.Location.Row, line(modules, seen.failed.Location)
		res.Difference = sides(seen.failed, eval)
	}
	return res
}

// coverage turns OPA's report of ranges into lines and rules.
func coverage(rep cover.Report, ready *compiled) (out []Coverage) {
	rules := map[string][]CoveredRule{}
	for _, q := range ready.kinds {
		for _, r := range q.rules {
			rules[r.File] = append(rules[r.File], CoveredRule{Rule: r, Held: rep.IsCovered(r.File, r.Line)})
		}
	}
	for file, f := range rep.Files {
		if isTest(file) {
			continue
		}
		c := Coverage{File: file, Percent: f.Coverage, Rules: rules[file]}
		if len(f.Covered)+len(f.NotCovered) == 0 {
			c.Percent = 100
		}
		for _, r := range f.NotCovered {
			if last := len(c.Missed) - 1; last >= 0 && r.Start.Row <= c.Missed[last].To+1 {
				c.Missed[last].To = max(c.Missed[last].To, r.End.Row)
				continue
			}
			c.Missed = append(c.Missed, LineRange{From: r.Start.Row, To: r.End.Row})
		}
		slices.SortFunc(c.Rules, func(a, b CoveredRule) int { return cmp.Compare(a.Line, b.Line) })
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Coverage) int { return cmp.Compare(a.File, b.File) })
	return out
}
