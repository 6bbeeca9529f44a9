package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

func policyCheckCommand(o *options) *cobra.Command {
	var schema, functions string
	c := &cobra.Command{
		Use:   "check [DIR|FILE]",
		Short: "Report every mistake that a node would refuse a tree for, and what the tree uses",
		Long: `Check compiles each level as a node does, against the closed inputs, and reports all
mistakes at once, with the line and the likely fix. Of a tree without mistakes it tells
what its levels consist of, how many steps they take at most, which built-in functions
they call, and which of their allows lie outside what tree.json delegates to them:
those never count. FILE is a signed policy; its delegation stands in for tree.json, and
its signature is not verified (publish --verify does that).

Exit codes: 0 no mistakes, 1 mistakes, or rules of a kind that is not delegated, 2 usage.`,
		Example: `  bailiwick policy check east-policy
  bailiwick policy check region.policy
  bailiwick policy check --schema connect
  bailiwick policy check --functions local`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case schema != "":
				return printSchema(o, policy.Kind(schema))
			case functions != "":
				return printFunctions(o, functions)
			}
			return policyCheck(cmd.Context(), o, treeDir(args))
		},
	}
	c.Flags().StringVar(&schema, "schema", "", "print the JSON Schema of the input of a kind, and check nothing")
	c.Flags().StringVar(&functions, "functions", "", "print the functions that policies of a level may call, and check nothing")
	complete(c, "schema", kindNames()...)
	complete(c, "functions", workbench.LevelNames...)
	return c
}

func printSchema(o *options, kind policy.Kind) error {
	b, err := policy.KindSchema(kind)
	if err != nil {
		return &usageError{fmt.Errorf("--schema %s: want one of %s", kind, strings.Join(kindNames(), ", "))}
	}
	_, err = o.out.Write(b)
	return err
}

func printFunctions(o *options, level string) error {
	if !slices.Contains(workbench.LevelNames, level) {
		return &usageError{fmt.Errorf("--functions %s: want one of %s", level, strings.Join(workbench.LevelNames, ", "))}
	}
	names := policy.Builtins(level)
	slices.Sort(names)
	return o.tell(map[string]any{"level": level, "functions": names}, names...)
}

func policyCheck(ctx context.Context, o *options, dir string) error {
	tree, err := workbench.Open(dir)
	if err != nil {
		return err
	}
	found, err := tree.Check(ctx)
	if err != nil {
		return tellPolicyMistakes(o, tree, err)
	}
	if err := tellChecked(o, tree, found); err != nil {
		return err
	}
	if slices.ContainsFunc(found.Excess, func(e workbench.Excess) bool { return e.Never }) {
		return &exitCode{explain.Failed}
	}
	return nil
}

// checkedItem is a level without mistakes, as programs read it.
type checkedItem struct {
	policy.Profile
	Costs       []policy.Cost      `json:"costs"`
	Excess      []workbench.Excess `json:"outside_delegation"`
	Unformatted []string           `json:"unformatted"`
}

func tellChecked(o *options, tree *workbench.Tree, found workbench.Checked) error {
	doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{}}
	for _, p := range found.Levels {
		for i := range p.Functions {
			p.Functions[i].First = placeIn(tree, p.Functions[i].First)
		}
		for i := range p.Absent {
			p.Absent[i].First = placeIn(tree, p.Absent[i].First)
		}
		item := checkedItem{Profile: p, Costs: found.Costs[p.Level], Excess: []workbench.Excess{}, Unformatted: []string{}}
		for _, e := range found.Excess {
			if e.Level == p.Level {
				item.Excess = append(item.Excess, e)
			}
		}
		for _, l := range found.Layouts {
			if strings.HasPrefix(l.File, tree.Path(p.Level+"/")) {
				item.Unformatted = append(item.Unformatted, l.File)
			}
		}
		b, err := json.Marshal(item)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
	}
	return output.Write(o.out, o.format, doc, func(w io.Writer) { checkedText(w, tree, found) })
}

// placeIn is a place file:line with the path of the file.
func placeIn(tree *workbench.Tree, place string) string {
	file, line, _ := strings.Cut(place, ":")
	return tree.Path(file) + ":" + line
}

func checkedText(w io.Writer, tree *workbench.Tree, found workbench.Checked) {
	var rows, calls, costs [][]string
	for _, p := range found.Levels {
		var kinds []string
		for _, k := range p.Kinds {
			kinds = append(kinds, fmt.Sprintf("%s:%d/%d", k.Kind, k.Denies, k.Allows))
		}
		rows = append(rows, []string{p.Level, fmt.Sprintf("%d/%d", p.Modules, policy.MaxModules), fmt.Sprint(p.Tests), fmt.Sprintf("%d/%d", p.Rules, policy.MaxRules),
			size(p.Source), size(p.Data), orDash(strings.Join(kinds, " "))})
		for _, c := range dearest(found.Costs[p.Level]) {
			costs = append(costs, []string{p.Level, string(c.Kind), fmt.Sprintf("%d/%d", c.Steps, policy.MaxSteps), c.Input})
		}
		for _, f := range p.Functions {
			calls = append(calls, []string{p.Level, f.Name, fmt.Sprint(f.Uses), f.First})
		}
	}
	output.Columns(w, "LEVEL MODULES TESTS RULES SOURCE DATA KIND:DENIES/ALLOWS", rows)
	if len(costs) > 0 {
		fmt.Fprintln(w)
		output.Columns(w, "LEVEL KIND STEPS DEAREST_INPUT", costs)
	}
	if len(calls) > 0 {
		fmt.Fprintln(w)
		output.Columns(w, "LEVEL FUNCTION USES FIRST", calls)
	}
	fmt.Fprintln(w)
	for _, e := range found.Excess {
		where := fmt.Sprintf("%s:%d", tree.Path(e.File), e.Line)
		if e.Never {
			fmt.Fprintf(w, "%s: allow %q never counts: kind %s is not delegated to the %s level\n", where, e.ID, e.Kind, e.Level)
			continue
		}
		fmt.Fprintf(w, "%s: note: allow %q also holds outside the delegation of the %s level, where it does not count: %s\n", where, e.ID, e.Level, outside(e.Example))
	}
	for _, p := range found.Levels {
		for _, a := range p.Absent {
			fmt.Fprintf(w, "%s: note: there is no data.%s at the %s level, so what asks for it never holds; if that is not meant, mend the name or put it into data.json\n", a.First, a.Name, p.Level)
		}
	}
	for _, l := range found.Layouts {
		fmt.Fprintf(w, "%s: note: not laid out; bailiwick policy fmt does it\n", l.File)
	}
	fmt.Fprintln(w, "no mistakes")
}

// dearest is the input of each kind that takes the most steps.
func dearest(all []policy.Cost) (out []policy.Cost) {
	for _, kind := range policy.Kinds {
		most := policy.Cost{Steps: -1}
		for _, c := range all {
			if c.Kind == kind && c.Steps > most.Steps {
				most = c
			}
		}
		if most.Steps >= 0 {
			out = append(out, most)
		}
	}
	return out
}

// outside names what an input is about that a level may not allow.
func outside(in *policy.Input) string {
	switch {
	case in.Service != nil:
		return "service " + in.Service.Name + "." + in.Service.Region
	case in.Self != nil:
		return "on nodes of region " + in.Self.Region
	}
	return "an input of kind " + string(in.Kind)
}

// size prints bytes shortly.
func size(n int) string {
	if n < 1<<10 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.1fKiB", float64(n)/(1<<10))
}
