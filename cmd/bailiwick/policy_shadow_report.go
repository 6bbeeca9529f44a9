package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/policy/shadow"
)

func policyShadowReportCommand(o *options) *cobra.Command {
	var examples bool
	c := &cobra.Command{
		Use:   "report",
		Short: "Every difference so far, by rule, with counts and examples",
		Long: `Report tells, for each pair of rules, how often the candidate gave another answer:

  allows  it allows what the policy in force denied
  denies  it denies what the policy in force allowed
  fails   it could not be evaluated, and denies for that
  values  both allow, with other grants or thresholds
  rule    the answer is the same, by another rule

In a dev fleet the differences of all nodes are put together. With --examples each has up
to three questions in full; -o json always has them, ready for bailiwick policy try.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return shadowReport(o, examples) },
	}
	c.Flags().BoolVar(&examples, "examples", false, "show the questions behind the differences")
	return c
}

func shadowReport(o *options, examples bool) error {
	targets, err := o.targets()
	if err != nil {
		return err
	}
	got, errs := answers(targets, func(ctx context.Context, t target) (*controlv1.ShadowResponse, error) {
		return t.GetShadow(ctx, &controlv1.GetShadowRequest{})
	})
	if err := allFailed(errs); err != nil {
		return err
	}
	var rows [][]string
	var reports []shadow.Report
	for _, r := range got {
		if r == nil {
			continue
		}
		var report shadow.Report
		if err := json.Unmarshal([]byte(r.ReportJson), &report); err != nil {
			return fmt.Errorf("%s: the report: %w", r.View.ViewOf, err)
		}
		reports = append(reports, report)
		s := r.Shadow
		rows = append(rows, []string{shortID(r.View.ViewOf), fmt.Sprint(s.Compared), fmt.Sprint(s.Different), fmt.Sprint(s.Dropped),
			output.Span(time.Since(s.Since.AsTime())), s.Candidate, shortRevision(s.Against), s.Ended})
	}
	return tellShadow(o, targets, got, func(w io.Writer) {
		output.Columns(w, "NODE COMPARED DIFFERENT DROPPED FOR CANDIDATE IN_FORCE ENDED", rows)
		groupsTable(w, mergeGroups(reports), examples)
	})
}

// mergeGroups puts the differences of several nodes together.
func mergeGroups(reports []shadow.Report) (out []shadow.Group) {
	for _, r := range reports {
		for _, g := range r.Groups {
			i := slices.IndexFunc(out, func(have shadow.Group) bool {
				return have.Class == g.Class && have.Kind == g.Kind && have.Enforced == g.Enforced && have.Candidate == g.Candidate
			})
			if i < 0 {
				out = append(out, g)
				continue
			}
			out[i].Count += g.Count
			out[i].Examples = append(out[i].Examples, g.Examples...)
		}
	}
	slices.SortStableFunc(out, func(a, b shadow.Group) int {
		return cmp.Or(cmp.Compare(slices.Index(shadow.Classes, a.Class), slices.Index(shadow.Classes, b.Class)), cmp.Compare(b.Count, a.Count))
	})
	return out
}

func groupsTable(w io.Writer, groups []shadow.Group, examples bool) {
	fmt.Fprintln(w)
	if len(groups) == 0 {
		fmt.Fprintln(w, "no differences")
		return
	}
	var rows [][]string
	for _, g := range groups {
		e := shadow.Example{}
		if len(g.Examples) > 0 {
			e = g.Examples[0]
		}
		rows = append(rows, []string{string(g.Class), string(g.Kind), fmt.Sprint(g.Count), ruleText(g.Enforced), ruleText(g.Candidate), reachCaller(e.Source) + " -> " + e.Target})
	}
	output.Columns(w, "CLASS KIND COUNT IN_FORCE CANDIDATE FIRST_EXAMPLE", rows)
	if !examples {
		return
	}
	for _, g := range groups {
		fmt.Fprintf(w, "\n%s: %s by %s, candidate %s\n", g.Class, g.Kind, ruleText(g.Enforced), ruleText(g.Candidate))
		for _, e := range g.Examples {
			fmt.Fprintf(w, "  %s  %s -> %s at %s: %s\n    %s\n", e.Decision, e.Source, e.Target, e.At.Format(time.RFC3339), e.Reason, e.Input)
		}
	}
}

// ruleText is a rule and where it stands.
func ruleText(b shadow.By) string {
	if b.File == "" {
		return b.Rule
	}
	return fmt.Sprintf("%s (%s:%d)", b.Rule, b.File, b.Line)
}

// shadowDocument is the answers of nodes, and whose view comes first.
func shadowDocument(targets []target, got []*controlv1.ShadowResponse) (doc output.Document, head *controlv1.View, err error) {
	doc.Nodes = []json.RawMessage{}
	for i, r := range got {
		if r == nil {
			continue
		}
		if head == nil {
			head = r.View
			doc.AsOf, doc.ViewOf = r.View.AsOf.AsTime(), r.View.ViewOf
		}
		status, err := output.Message(r.Shadow)
		if err != nil {
			return doc, nil, err
		}
		b, err := json.Marshal(map[string]any{"name": targets[i].name, "view_of": r.View.ViewOf, "shadow": status, "report": json.RawMessage(r.ReportJson)})
		if err != nil {
			return doc, nil, err
		}
		doc.Nodes = append(doc.Nodes, b)
	}
	return doc, head, nil
}
