package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	explaining "github.com/bailiwick-mesh/bailiwick/policy/why"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

func whyCommand(o *options) *cobra.Command {
	var file, tree string
	c := &cobra.Command{
		Use:   "why [ID|last]",
		Short: "Explain a recorded decision: rule and line, what did not hold, what would change it",
		Long: `Why prints one recorded decision, what each level said, the rule and line that decided,
the conditions of other rules that did not hold, and the smallest change of the input
that was found to turn the answer round. "last" is the newest denial; in a dev fleet,
the newest of all nodes. An ID may be shortened to no less than four digits.

With --file it works offline, on a node's state folder or on what bailiwick trail
export --format opa wrote. --policy names the working tree to explain it by.`,
		Example: `  bailiwick why last
  bailiwick why 71f76d02 --node east-n1
  bailiwick why 71f76d02 --file decisions.ndjson --policy ./east`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := lastDecision
			if len(args) == 1 {
				id = args[0]
			}
			if _, err := decisionID(id); err != nil {
				return err
			}
			if tree != "" && file == "" {
				return &usageError{errors.New("--policy is for decisions of a file: give --file, or ask a tree about a node's decision with bailiwick policy try --decision")}
			}
			if file != "" {
				return whyOffline(cmd.Context(), o, id, file, tree)
			}
			return why(o, id)
		},
	}
	c.Flags().StringVar(&file, "file", "", "recorded decisions to look in, instead of asking a node")
	c.Flags().StringVar(&tree, "policy", "", "with --file: working tree with the policy to explain it by")
	return c
}

// lastDecision stands for the newest denial.
const lastDecision = "last"

// decisionID is the beginning of an ID, or last.
func decisionID(id string) (string, error) {
	if id == lastDecision {
		return id, nil
	}
	prefix, err := decision.Prefix(id)
	if err != nil {
		return "", fmt.Errorf("%w: %w", explain.ErrRequest, err)
	}
	return prefix, nil
}

func why(o *options, id string) error {
	targets, err := o.targets()
	if err != nil {
		return err
	}
	got, errs := answers(targets, func(ctx context.Context, t target) (*controlv1.WhyResponse, error) {
		r, err := t.Why(ctx, &controlv1.WhyRequest{Id: id})
		if connect.CodeOf(err) == connect.CodeNotFound {
			return &controlv1.WhyResponse{}, nil // this node did not decide it; another may have
		}
		return r, err
	})
	if err := allFailed(errs); err != nil {
		return err
	}
	var newest *controlv1.WhyResponse
	for _, r := range got {
		if r.GetDecision() != nil && (newest == nil || r.Decision.At.AsTime().After(newest.Decision.At.AsTime())) {
			newest = r
		}
	}
	if newest == nil {
		return fmt.Errorf("%w: no recorded decision %q: denials are kept until their bound on disk takes the oldest; the trail has a leaf for each", explain.ErrNotThere, id)
	}
	return tellWhy(o, newest)
}

// whyOffline explains a decision of a file or folder by the policy of a tree.
func whyOffline(ctx context.Context, o *options, id, file, dir string) error {
	e, err := findDecision(id, file)
	if err != nil {
		return err
	}
	r := &controlv1.WhyResponse{
		View:     &controlv1.View{AsOf: timestamppb.New(e.Timestamp), ViewOf: e.Labels["id"]},
		Decision: control.DecisionMessage(e.Decision()), Unexplained: "give --policy DIR to have it explained by a policy",
	}
	if b, err := json.Marshal(e); err == nil {
		r.EventJson = string(b)
	}
	if dir == "" {
		return tellWhy(o, r)
	}
	engine, tree, err := treeEngine(dir)
	if err != nil {
		return err
	}
	x, err := explaining.Explain(ctx, engine, e)
	switch {
	case errors.Is(err, explaining.ErrUnexplained):
		r.Unexplained = err.Error()
	case err != nil:
		return err
	default:
		r.Unexplained = ""
		placeTraces(tree, x.Held, x.Near)
		b, err := json.Marshal(x)
		if err != nil {
			return err
		}
		r.ExplanationJson = string(b)
	}
	return tellWhy(o, r)
}

// placeTraces gives rules and conditions the paths of the tree's files.
func placeTraces(tree *workbench.Tree, lists ...[]policy.RuleTrace) {
	var place func([]policy.Condition)
	place = func(cs []policy.Condition) {
		for i := range cs {
			cs[i].File = tree.Path(cs[i].File)
			place(cs[i].Within)
		}
	}
	for _, list := range lists {
		for i, t := range list {
			here := *t.Rule
			here.File = tree.Path(here.File)
			list[i].Rule = &here
			place(t.Conditions)
		}
	}
}

// findDecision looks for a decision by the beginning of its ID, or for the newest denial.
func findDecision(id, file string) (found decision.Event, err error) {
	matches := 0
	prefix, err := decisionID(id)
	if err != nil {
		return found, err
	}
	if _, err := os.Stat(file); err != nil {
		return found, fmt.Errorf("%w: %w", decision.ErrNothing, err)
	}
	for e, err := range decision.Read(file) {
		if err != nil {
			return found, err
		}
		if id == lastDecision {
			if !e.Result.Allow {
				found, matches = e, 1
			}
		} else if strings.HasPrefix(e.DecisionID, prefix) {
			if found.DecisionID != e.DecisionID {
				matches++
			}
			found = e
		}
	}
	switch {
	case matches > 1:
		return found, fmt.Errorf("%w: %q", decision.ErrAmbiguous, id)
	case matches == 0:
		return found, fmt.Errorf("%w: no decision %q in %s", explain.ErrNotThere, id, file)
	}
	return found, nil
}

// tellWhy prints a decision with its explanation, or why there is none.
func tellWhy(o *options, r *controlv1.WhyResponse) error {
	item, err := output.Message(r.Decision)
	if err != nil {
		return err
	}
	more := map[string]json.RawMessage{}
	if err := json.Unmarshal(item, &more); err != nil {
		return err
	}
	var x *explaining.Explanation
	if r.ExplanationJson != "" {
		if err := json.Unmarshal([]byte(r.ExplanationJson), &x); err != nil {
			return err
		}
		more["explanation"] = json.RawMessage(r.ExplanationJson)
	} else {
		more["unexplained"], _ = json.Marshal(r.Unexplained) // a text
	}
	if r.EventJson != "" {
		more["event"] = json.RawMessage(r.EventJson)
	}
	if item, err = json.Marshal(more); err != nil {
		return err
	}
	doc := document(r.View)
	doc.Items = append(doc.Items, item)
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		decisionText(w, r)
		explanationText(w, r, x)
		inputText(w, r.Decision)
	})
}

func decisionText(w io.Writer, r *controlv1.WhyResponse) {
	d := r.Decision
	if r.View.Lease == nil { // nobody was asked
		fmt.Fprintf(w, "recorded by %s\n", r.View.ViewOf)
	} else {
		fmt.Fprintln(w, headline(r.View))
	}
	verdict := "DENIED"
	if d.Allow {
		verdict = "ALLOWED"
	}
	var in decisionInput
	_ = json.Unmarshal([]byte(d.InputJson), &in) // what is absent stays blank
	fmt.Fprintf(w, "\n%s  %s  %s  at %s\n", verdict, d.Kind, d.Id, d.At.AsTime().Format(time.RFC3339Nano))
	fmt.Fprintf(w, "  who     %s\n", in.who())
	fmt.Fprintf(w, "  what    %s\n", in.what())
	fmt.Fprintf(w, "  level   %s\n", d.Level)
	fmt.Fprintf(w, "  rule    %s  %s\n", d.Rule, d.Title)
	if d.File != "" {
		fmt.Fprintf(w, "  where   %s:%d\n", d.File, d.Line)
	}
	if d.Owner != "" {
		fmt.Fprintf(w, "  owner   %s\n", d.Owner)
	}
	if text := policy.LabelsText(d.Labels); text != "" {
		fmt.Fprintf(w, "  labels  %s\n", text)
	}
	fmt.Fprintf(w, "  reason  %s\n", d.Reason)
	fmt.Fprintf(w, "  policy  %s\n", d.Revision)
	fmt.Fprintf(w, "  levels  %s\n", levelsText(d.Verdicts))
}

func inputText(w io.Writer, d *controlv1.Decision) {
	var pretty any
	if json.Unmarshal([]byte(d.InputJson), &pretty) == nil {
		if b, err := json.MarshalIndent(pretty, "  ", "  "); err == nil {
			fmt.Fprintf(w, "\n  input   %s\n", b)
		}
	}
}

// levelsText says what each level made of it: "global pass, regional deny (rule)".
func levelsText(verdicts []*controlv1.Verdict) string {
	parts := make([]string, 0, len(verdicts))
	for _, v := range verdicts {
		part := v.Level + " " + v.Verdict
		if len(v.Rules) > 0 {
			part += " (" + strings.Join(v.Rules, ", ") + ")"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

// decisionInput is the part of an input that a person asks for first.
type decisionInput struct {
	Kind string `json:"kind"`
	Self struct {
		ID string `json:"spiffe_id"`
	} `json:"self"`
	Destination struct {
		ID string `json:"spiffe_id"`
	} `json:"destination"`
	Roster *struct {
		Attested   int `json:"attested"`
		Unattested int `json:"unattested"`
	} `json:"roster"`
	Source struct {
		ID   string `json:"spiffe_id"`
		Node string `json:"node"`
	} `json:"source"`
	Service struct {
		Name   string `json:"name"`
		Region string `json:"region"`
	} `json:"service"`
	Request struct {
		Method string   `json:"method"`
		Path   []string `json:"path"`
	} `json:"request"`
	Resource struct {
		Classes []string `json:"classes"`
	} `json:"resource"`
	Attest struct {
		Method string `json:"method"`
	} `json:"attest"`
	Update struct {
		Op  string `json:"op"`
		Key string `json:"key"`
	} `json:"update"`
	Call struct {
		Name string `json:"name"`
		Key  string `json:"key"`
		UID  int64  `json:"uid"`
	} `json:"call"`
}

func (in decisionInput) who() string {
	if in.Call.Name != "" {
		return strings.TrimSpace(fmt.Sprintf("user %d %s", in.Call.UID, in.Source.ID))
	}
	switch {
	case in.Roster != nil:
		return in.Self.ID
	case in.Source.Node == "":
		return in.Source.ID
	}
	return in.Source.ID + " on " + in.Source.Node
}

func (in decisionInput) what() string {
	switch {
	case in.Request.Method != "":
		return fmt.Sprintf("%s /%s of %s.%s.mesh", in.Request.Method, strings.Join(in.Request.Path, "/"), in.Service.Name, in.Service.Region)
	case len(in.Resource.Classes) > 0:
		return fmt.Sprintf("state of %s to %s", strings.Join(in.Resource.Classes, ", "), in.Destination.ID)
	case in.Roster != nil:
		return fmt.Sprintf("thresholds of quarantine among %d attested and %d unattested nodes", in.Roster.Attested, in.Roster.Unattested)
	case in.Service.Name != "":
		return fmt.Sprintf("connect to %s.%s.mesh", in.Service.Name, in.Service.Region)
	case in.Update.Key != "":
		return in.Update.Op + " " + in.Update.Key
	case in.Call.Name != "":
		return strings.TrimSpace("call " + in.Call.Name + " " + in.Call.Key)
	case in.Attest.Method != "":
		return "attest by " + in.Attest.Method
	case in.Kind == "state_admit":
		return "write state"
	}
	return in.Kind
}
