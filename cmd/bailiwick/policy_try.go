package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

// trying is one use of policy try.
type trying struct {
	*options
	ask      workbench.Asking
	kind     string
	from     string
	decision string
	show     bool
}

func policyTryCommand(o *options) *cobra.Command {
	t := trying{options: o}
	c := &cobra.Command{
		Use:   "try [DIR]",
		Short: "Ask a tree one question and see what each level says, with rule and line",
		Long: `Try decides an input with the policy of a tree: of a file or a folder (--from), of a
decision that a running node has recorded (--decision), or made of flags. What flags
leave out is taken for good: an attested source of good standing. --set changes any
field; a field that is misspelt is refused. With --input it prints the question too.

Exit codes: 0 allowed, 1 failed, 2 usage, 4 denied. Of several inputs: 0.`,
		Example: `  bailiwick policy try east-policy --source spiffe://east.example.org/workload/shop --target web.east
  bailiwick policy try east-policy --from east-policy/inputs
  bailiwick policy try east-policy --decision 71f76d02
  bailiwick policy try east-policy --source spiffe://east.example.org/workload/shop --target web --set source.standing=quarantined
  bailiwick policy try clinic --kind replicate --source spiffe://east.example.org/zone/de-1/node/n1 \
    --target spiffe://east.example.org/zone/us-1/node/n7 --set 'resource.classes=["health"]'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t.ask.Kind = policy.Kind(t.kind)
			return t.try(cmd.Context(), treeDir(args))
		},
	}
	f := c.Flags()
	f.StringVar(&t.from, "from", "", "file or folder of inputs, or a log of decisions, to ask instead")
	f.StringVar(&t.decision, "decision", "", "ask again what a running node decided: an ID, or last")
	f.StringVar(&t.kind, "kind", string(policy.Connect), "what is to be decided")
	f.StringVar(&t.ask.Source, "source", "", "SPIFFE ID of who asks")
	f.StringVar(&t.ask.Target, "target", "", "service NAME.REGION; of other kinds a node, a method or a way to attest")
	f.StringVar(&t.ask.Action, "action", "", "of a connect: dial, accept or link")
	f.StringArrayVar(&t.ask.Set, "set", nil, "PATH=VALUE: change a field of the input, also of --from and --decision; null takes it out")
	f.BoolVar(&t.show, "input", false, "print the input too")
	complete(c, "kind", kindNames()...)
	complete(c, "action", policy.Dial, policy.Accept, policy.Link)
	return c
}

func kindNames() (out []string) {
	for _, k := range policy.Kinds {
		out = append(out, string(k))
	}
	return out
}

func (t trying) try(ctx context.Context, dir string) error {
	tree, err := workbench.Open(dir)
	if err != nil {
		return err
	}
	engine, err := tree.Engine()
	if err != nil {
		return tellPolicyMistakes(t.options, tree, err)
	}
	var all []tried
	for q, err := range t.questions(ctx, tree) {
		if err != nil {
			return err
		}
		all = append(all, tried{From: q.From, Decision: located(tree, engine.Decide(ctx, q.Input))})
	}
	if len(all) == 0 {
		return fmt.Errorf("%w: %s", workbench.ErrInputs, t.from)
	}
	if err := t.tell(all); err != nil {
		return err
	}
	if len(all) == 1 && !all[0].Allow {
		return &exitCode{explain.Denied}
	}
	return nil
}

// tried is a decision, and which question it answers.
type tried struct {
	From string `json:"from,omitempty"`
	policy.Decision
}

func (t trying) questions(ctx context.Context, tree *workbench.Tree) iter.Seq2[workbench.Question, error] {
	one := func(q workbench.Question, err error) iter.Seq2[workbench.Question, error] {
		return func(yield func(workbench.Question, error) bool) { yield(q, err) }
	}
	switch {
	case t.from != "" && t.decision != "":
		return one(workbench.Question{}, &usageError{errors.New("give --from or --decision, not both")})
	case t.from != "":
		return t.changed(workbench.Read(t.from))
	case t.decision != "":
		return t.changed(one(t.recorded(ctx)))
	}
	in, err := tree.Ask(t.ask, time.Now())
	if err != nil && t.ask.Source == "" {
		err = &usageError{errors.Join(errors.New("give --source, --from or --decision"), err)}
	}
	return one(workbench.Question{Input: in}, err)
}

// changed lays --set over questions.
func (t trying) changed(all iter.Seq2[workbench.Question, error]) iter.Seq2[workbench.Question, error] {
	return func(yield func(workbench.Question, error) bool) {
		for q, err := range all {
			if err == nil {
				q.Input, err = workbench.Set(q.Input, t.ask.Set)
			}
			if !yield(q, err) {
				return
			}
		}
	}
}

// recorded asks the node for the input of a decision.
func (t trying) recorded(ctx context.Context) (q workbench.Question, err error) {
	if _, err := decisionID(t.decision); err != nil {
		return q, err
	}
	node, err := t.one()
	if err != nil {
		return q, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := node.Why(ctx, &controlv1.WhyRequest{Id: t.decision})
	if err != nil {
		return q, node.reached(err)
	}
	q.From = r.Decision.GetId()
	if q.Input, err = policy.ParseInput([]byte(r.Decision.GetInputJson())); err != nil {
		err = fmt.Errorf("%w: decision %s was made before policy was asked: %v", workbench.ErrInputs, q.From, err)
	}
	return q, err
}

// located gives the rules of a decision the paths of their files.
func located(tree *workbench.Tree, d policy.Decision) policy.Decision {
	if d.File != "" {
		d.File = tree.Path(d.File)
	}
	for i, v := range d.Verdicts {
		rules := make([]*policy.Rule, len(v.Rules))
		for j, r := range v.Rules {
			here := *r
			here.File = tree.Path(r.File)
			rules[j] = &here
		}
		d.Verdicts[i].Rules = rules
	}
	return d
}

func (t trying) tell(all []tried) error {
	doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{}}
	for _, one := range all {
		b, err := json.Marshal(one)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
	}
	return output.Write(t.out, t.format, doc, func(w io.Writer) {
		if len(all) > 1 {
			triedTable(w, all)
			return
		}
		decidedText(w, all[0].Decision, t.show)
	})
}

func triedTable(w io.Writer, all []tried) {
	var rows [][]string
	for _, d := range all {
		rows = append(rows, []string{d.From, answer(d.Allow), orDash(d.Level), d.Rule, orDash(place(d.File, d.Line)), d.Reason})
	}
	output.Columns(w, "INPUT ANSWER LEVEL RULE WHERE WHY", rows)
}

func answer(allow bool) string {
	if allow {
		return "ALLOWED"
	}
	return "DENIED"
}

func place(file string, line int) string {
	if file == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", file, line)
}

// decidedText shows one decision: the answer, the rule that made it, and each level's verdict.
func decidedText(w io.Writer, d policy.Decision, show bool) {
	fmt.Fprintf(w, "%s  %s", answer(d.Allow), d.Kind)
	if d.Source != "" {
		fmt.Fprintf(w, "  %s", d.Source)
	}
	if d.Target != "" {
		fmt.Fprintf(w, " -> %s", d.Target)
	}
	fmt.Fprintf(w, "\n  rule    %s  %s\n", d.Rule, d.Reason)
	if d.File != "" {
		fmt.Fprintf(w, "  where   %s:%d\n  owner   %s\n", d.File, d.Line, d.Owner)
	}
	if text := policy.LabelsText(d.Labels()); text != "" {
		fmt.Fprintf(w, "  labels  %s\n", text)
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, v := range d.Verdicts {
		if len(v.Rules) == 0 {
			rows = append(rows, []string{v.Level, string(v.Outcome), "-", "-", orDash(v.Reason)})
		}
		for _, r := range v.Rules {
			title := r.Title
			if v.Reason != "" {
				title += "; " + v.Reason
			}
			rows = append(rows, []string{v.Level, string(v.Outcome), r.ID, place(r.File, r.Line), title})
		}
	}
	output.Columns(w, "LEVEL VERDICT RULE WHERE TITLE", rows)
	for _, g := range d.Grants {
		fmt.Fprintf(w, "\ngrant %s: %s %v, scope %s, %d bytes, %g a second\n", g.ID, g.Prefix, g.Kinds, g.Scope, g.Bytes, g.Rate)
	}
	var pretty any
	if show && json.Unmarshal(d.Input, &pretty) == nil {
		if b, err := json.MarshalIndent(pretty, "", "  "); err == nil {
			fmt.Fprintf(w, "\n%s\n", b)
		}
	}
}
