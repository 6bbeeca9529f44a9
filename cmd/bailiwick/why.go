package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

func whyCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "why [ID|last]",
		Short: "Explain a recorded decision: who, what, level, rule, file and line, input",
		Long: `Why prints one recorded decision and everything it was made from. "last" is the
newest denial; in a dev fleet, the newest of all nodes. Older IDs are in the
trail: bailiwick trail tail. An ID may be shortened to no less than four digits.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			id := "last"
			if len(args) == 1 {
				id = args[0]
			}
			return why(o, id)
		},
	}
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
		return fmt.Errorf("%w: no recorded decision %q: the newest 1,000 denials are kept; the trail has the rest", explain.ErrNotThere, id)
	}
	item, err := output.Message(newest.Decision)
	if err != nil {
		return err
	}
	doc := document(newest.View)
	doc.Items = append(doc.Items, item)
	return output.Write(o.out, o.format, doc, func(w io.Writer) { decisionText(w, newest) })
}

func decisionText(w io.Writer, r *controlv1.WhyResponse) {
	d := r.Decision
	fmt.Fprintln(w, headline(r.View))
	verdict := "DENIED"
	if d.Allow {
		verdict = "ALLOWED"
	}
	var in decisionInput
	_ = json.Unmarshal([]byte(d.InputJson), &in) // what is absent stays blank
	fmt.Fprintf(w, "\n%s  %s  %s  at %s\n", verdict, d.Kind, d.Id, d.At.AsTime().Format(time.RFC3339Nano))
	fmt.Fprintf(w, "  who     %s on %s\n", in.Source.ID, in.Source.Node)
	fmt.Fprintf(w, "  what    %s\n", in.what())
	fmt.Fprintf(w, "  level   %s\n", d.Level)
	fmt.Fprintf(w, "  rule    %s  %s\n", d.Rule, d.Title)
	if d.File != "" {
		fmt.Fprintf(w, "  where   %s:%d\n", d.File, d.Line)
	}
	fmt.Fprintf(w, "  reason  %s\n", d.Reason)
	fmt.Fprintf(w, "  policy  %s\n", d.Revision)
	fmt.Fprintf(w, "  levels  %s\n", levelsText(d.Verdicts))
	var pretty any
	if json.Unmarshal([]byte(d.InputJson), &pretty) == nil {
		if b, err := json.MarshalIndent(pretty, "  ", "  "); err == nil {
			fmt.Fprintf(w, "  input   %s\n", b)
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
	Source struct {
		ID   string `json:"spiffe_id"`
		Node string `json:"node"`
	} `json:"source"`
	Service struct {
		Name   string `json:"name"`
		Region string `json:"region"`
	} `json:"service"`
	Update struct {
		Op  string `json:"op"`
		Key string `json:"key"`
	} `json:"update"`
}

func (in decisionInput) what() string {
	switch {
	case in.Service.Name != "":
		return fmt.Sprintf("connect to %s.%s.mesh", in.Service.Name, in.Service.Region)
	case in.Update.Key != "":
		return in.Update.Op + " " + in.Update.Key
	}
	return "attest"
}
