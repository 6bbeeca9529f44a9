package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

// testRun is one way to run the tests of a tree.
type testRun struct {
	*options
	run      string
	coverage bool
	least    float64
	watch    bool
}

func policyTestCommand(o *options) *cobra.Command {
	t := testRun{options: o}
	c := &cobra.Command{
		Use:   "test [DIR]",
		Short: "Run the tests of a tree, in the sandbox that nodes use",
		Long: `Test runs the test_ rules of the *_test.rego files of a tree. A test that asks with a
field that no node sends fails: it would prove nothing. --coverage shows which lines
and which rules no test reaches.

Exit codes: 0 all passed, 1 a test failed, the coverage is too low or the tree does not
compile, 2 usage.`,
		Example: `  bailiwick policy test east-policy
  bailiwick policy test east-policy --run intruder
  bailiwick policy test east-policy --coverage --least 90`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var run *regexp.Regexp
			var err error
			if t.run != "" {
				if run, err = regexp.Compile(t.run); err != nil {
					return &usageError{fmt.Errorf("--run: %w", err)}
				}
			}
			if t.least < 0 || t.least > 100 {
				return &usageError{fmt.Errorf("--least %g: want a percentage from 0 to 100", t.least)}
			}
			what := policy.TestOptions{Run: run, Coverage: t.coverage || t.least > 0}
			if t.watch {
				return t.again(cmd.Context(), treeDir(args), what)
			}
			return t.once(cmd.Context(), treeDir(args), what)
		},
	}
	c.Flags().StringVar(&t.run, "run", "", "only tests whose package and name match this regular expression")
	c.Flags().BoolVar(&t.coverage, "coverage", false, "show which lines and rules no test reaches")
	c.Flags().Float64Var(&t.least, "least", 0, "coverage of lines, in percent, below which the command fails; implies --coverage")
	c.Flags().BoolVar(&t.watch, "watch", false, "run again whenever a file changes, until interrupted")
	return c
}

func (t testRun) once(ctx context.Context, dir string, what policy.TestOptions) error {
	tree, err := workbench.Open(dir)
	if err != nil {
		return err
	}
	levels, broken := tree.Test(ctx, what)
	if broken != nil && (len(levels) == 0 || t.format != output.Table) {
		return tellPolicyMistakes(t.options, tree, broken)
	}
	if err := t.show(tree, levels); err != nil {
		return err
	}
	if broken != nil {
		return tellPolicyMistakes(t.options, tree, broken)
	}
	return t.verdict(levels)
}

// verdict is the exit code of a run that could be made.
func (t testRun) verdict(levels []workbench.Tested) error {
	ran, failed, low := 0, 0, 0
	for _, l := range levels {
		for _, r := range l.Results {
			ran++
			if !r.Pass {
				failed++
			}
		}
		for _, m := range l.Modules {
			if m.Percent < t.least {
				low++
			}
		}
	}
	switch {
	case ran == 0 && t.run != "":
		return fmt.Errorf("no test matches --run %s", t.run)
	case ran == 0:
		return errors.New("the tree has no tests: write rules named test_... in files named *_test.rego")
	case failed > 0, low > 0:
		return &exitCode{explain.Failed}
	}
	return nil
}

// testItem is a level's tests as programs read them.
type testItem struct {
	Level   string              `json:"level"`
	Passed  int                 `json:"passed"`
	Failed  int                 `json:"failed"`
	Tests   []policy.TestResult `json:"tests"`
	Modules []policy.Coverage   `json:"coverage,omitempty"`
}

func (t testRun) show(tree *workbench.Tree, levels []workbench.Tested) error {
	doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{}}
	var items []testItem
	for _, l := range levels {
		item := testItem{Level: l.Level, Tests: []policy.TestResult{}}
		for _, r := range l.Results {
			r.File = tree.Path(r.File)
			item.Tests = append(item.Tests, r)
			if r.Pass {
				item.Passed++
			} else {
				item.Failed++
			}
		}
		for _, m := range l.Modules {
			m.File = tree.Path(m.File)
			item.Modules = append(item.Modules, m)
		}
		items = append(items, item)
		b, err := json.Marshal(item)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
	}
	return output.Write(t.out, t.format, doc, func(w io.Writer) {
		for _, item := range items {
			testTable(w, item)
		}
		for _, item := range items {
			coverageTable(w, item, t.least)
		}
		for _, item := range items {
			fmt.Fprintf(w, "%s: %s, %d passed, %d failed\n", item.Level, plural(len(item.Tests), "test"), item.Passed, item.Failed)
		}
	})
}

// testTable lists the tests, and below it what is known of those that failed.
func testTable(w io.Writer, item testItem) {
	var rows [][]string
	for _, r := range item.Tests {
		result := "ok"
		if !r.Pass {
			result = "FAIL"
		}
		rows = append(rows, []string{result, shortTest(r.Name), fmt.Sprintf("%s:%d", r.File, r.Line), r.Duration.Round(10 * time.Microsecond).String()})
	}
	output.Columns(w, "RESULT TEST WHERE TIME", rows)
	fmt.Fprintln(w)
	for _, r := range item.Tests {
		if r.Pass && r.Output == "" {
			continue
		}
		if !r.Pass {
			fmt.Fprintf(w, "FAIL %s\n", shortTest(r.Name))
		} else {
			fmt.Fprintf(w, "ok   %s\n", shortTest(r.Name))
		}
		if r.Failed != "" {
			fmt.Fprintf(w, "  %s:%d: this does not hold: %s\n", r.File, r.FailedLine, r.Failed)
		}
		if len(r.Cases) > 0 {
			fmt.Fprintf(w, "    cases that fail: %s\n", strings.Join(r.Cases, ", "))
		}
		for _, line := range r.Difference {
			fmt.Fprintf(w, "    %s\n", line)
		}
		if r.Error != "" {
			fmt.Fprintf(w, "  %s:%d: %s\n", r.File, r.Line, r.Error)
		}
		for line := range strings.Lines(r.Output) {
			fmt.Fprintf(w, "  print: %s\n", strings.TrimRight(line, "\n"))
		}
		fmt.Fprintln(w)
	}
}

// shortTest is a test's name without what its file says already: "connect: intruder".
func shortTest(name string) string {
	dot := strings.LastIndex(name, ".")
	pkg := strings.TrimSuffix(name[:max(0, dot)], "_test")
	return pkg[strings.LastIndex(pkg, ".")+1:] + ": " + strings.TrimPrefix(name[dot+1:], "test_")
}

func coverageTable(w io.Writer, item testItem, least float64) {
	if len(item.Modules) == 0 {
		return
	}
	var rows [][]string
	for _, m := range item.Modules {
		held := 0
		var never []string
		for _, r := range m.Rules {
			if r.Held {
				held++
			} else {
				never = append(never, r.ID)
			}
		}
		covered := fmt.Sprintf("%.0f%%", m.Percent)
		if m.Percent < least {
			covered += " LOW"
		}
		rows = append(rows, []string{m.File, covered, fmt.Sprintf("%d/%d", held, len(m.Rules)), orDash(strings.Join(never, ",")), orDash(lineRanges(m.Missed))})
	}
	output.Columns(w, "MODULE LINES RULES NEVER_HELD MISSED_LINES", rows)
	fmt.Fprintln(w)
}

func lineRanges(all []policy.LineRange) string {
	parts := make([]string, len(all))
	for i, r := range all {
		parts[i] = fmt.Sprint(r.From)
		if r.To > r.From {
			parts[i] += fmt.Sprintf("-%d", r.To)
		}
	}
	return strings.Join(parts, ",")
}

// lookEvery is how often --watch looks at the files of a tree.
const lookEvery = 300 * time.Millisecond

// again runs the tests whenever the tree changed, until ctx ends.
func (t testRun) again(ctx context.Context, dir string, what policy.TestOptions) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	before := ""
	for {
		now, err := workbench.Stamp(dir)
		if err == nil && now != before {
			before = now
			if err = t.once(ctx, dir, what); err == nil {
				fmt.Fprintf(t.err, "all passed at %s; waiting for a change in %s\n", time.Now().Format(time.TimeOnly), filepath.Clean(dir))
			}
			var quiet *exitCode
			if err != nil && !errors.As(err, &quiet) {
				explain.Print(t.err, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
