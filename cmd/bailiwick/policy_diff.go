package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/policy/shadow"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

func policyDiffCommand(o *options) *cobra.Command {
	var decisions string
	c := &cobra.Command{
		Use:   "diff A B",
		Short: "What changes from one policy to another: rules, data, and answers to recorded questions",
		Long: `Diff compares policy A with its successor B, each a folder or a signed policy file: which
rules came, went or changed (also through their helpers), which data changed, and which
questions get another answer, grouped by the rules that decide. The questions are those
of --decisions, a file or folder of inputs or a log of recorded decisions; without it,
those of B's inputs.

Exit codes: 0 compared, whatever the differences, 1 failed, 2 usage.`,
		Example: `  bailiwick policy diff in-force east-policy
  bailiwick policy diff region.policy east-policy/regional --decisions yesterday.ndjson`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return policyDiff(cmd.Context(), o, args[0], args[1], decisions)
		},
	}
	c.Flags().StringVar(&decisions, "decisions", "", "inputs or recorded decisions to ask both trees")
	return c
}

func policyDiff(ctx context.Context, o *options, from, to, decisions string) error {
	a, err := workbench.Open(from)
	if err != nil {
		return err
	}
	b, err := workbench.Open(to)
	if err != nil {
		return err
	}
	for _, t := range []*workbench.Tree{a, b} {
		if _, err := t.Engine(); err != nil {
			return tellPolicyMistakes(o, t, err)
		}
	}
	var questions iter.Seq2[workbench.Question, error] = b.Inputs()
	if decisions != "" {
		questions = workbench.Read(decisions)
	}
	d, err := workbench.Diff(ctx, a, b, questions)
	if err != nil {
		return err
	}
	for i, g := range d.Groups {
		d.Groups[i].Enforced.File, d.Groups[i].Candidate.File = pathOf(a, g.Enforced.File), pathOf(b, g.Candidate.File)
	}
	item, err := json.Marshal(d)
	if err != nil {
		return err
	}
	doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{item}}
	return output.Write(o.out, o.format, doc, func(w io.Writer) { differenceText(w, d) })
}

func pathOf(t *workbench.Tree, file string) string {
	if file == "" {
		return ""
	}
	return t.Path(file)
}

func differenceText(w io.Writer, d workbench.Difference) {
	var rows [][]string
	for _, c := range d.Rules {
		sort, where := "allow", c.After
		if c.Denies {
			sort = "deny"
		}
		if where == nil {
			where = c.Before
		}
		rows = append(rows, []string{c.How, c.Level, string(c.Kind), sort + " " + c.ID, place(where.File, where.Line), where.Title})
	}
	if len(rows) > 0 {
		output.Columns(w, "CHANGE LEVEL KIND RULE WHERE TITLE", rows)
	}
	if len(rows) > 0 && len(d.Data) > 0 {
		fmt.Fprintln(w)
	}
	for _, c := range d.Data {
		fmt.Fprintf(w, "data of %s: %s %s\n", c.Level, c.Key, c.How)
	}
	if len(d.Rules)+len(d.Data) == 0 {
		fmt.Fprintln(w, "the same rules and data")
	}
	if d.Asked == 0 {
		fmt.Fprintln(w, "no questions were asked: give --decisions")
		return
	}
	fmt.Fprintf(w, "\n%s asked, %d with the same answer by the same rule\n", plural(int(d.Asked), "question"), d.Same)
	rows = nil
	for _, g := range d.Groups {
		who := ""
		if len(g.Examples) > 0 {
			who = g.Examples[0].Source + " -> " + g.Examples[0].Target
		}
		rows = append(rows, []string{becomes[g.Class], fmt.Sprint(g.Count), string(g.Kind), g.Enforced.Rule, g.Candidate.Rule, orDash(place(g.Candidate.File, g.Candidate.Line)), who})
	}
	if len(rows) > 0 {
		fmt.Fprintln(w)
		output.Columns(w, "ANSWER COUNT KIND WAS_BY IS_BY WHERE EXAMPLE", rows)
	}
}

// becomes says in a word or two what a class of differences means for those who ask.
var becomes = map[shadow.Class]string{
	shadow.Allows: "now ALLOWED",
	shadow.Denies: "now DENIED",
	shadow.Fails:  "now FAILS",
	shadow.Values: "other grants",
	shadow.Rule:   "same answer",
}
