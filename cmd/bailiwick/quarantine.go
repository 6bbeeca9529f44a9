package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

func quarantineCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "quarantine", Short: "Peers that are shut out, and the evidence"}
	c.AddCommand(quarantineListCommand(o), quarantineShowCommand(o), quarantineVerifyCommand(o), quarantineAppealCommand(o), quarantineReleaseCommand(o), quarantineSignCommand(o), quarantineRevokeCommand(o), quarantineRollbackCommand(o), quarantineSegmentCommand(o), quarantineHistoryCommand(o))
	return c
}

func quarantineListCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Who is not in good standing, as each node sees it",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return quarantineList(o) },
	}
}

func quarantineList(o *options) error {
	targets, err := o.targets()
	if err != nil {
		return err
	}
	got, errs := answers(targets, func(ctx context.Context, t target) (*controlv1.ListCasesResponse, error) {
		return t.ListCases(ctx, &controlv1.ListCasesRequest{})
	})
	if err := allFailed(errs); err != nil {
		return err
	}
	doc := output.Document{AsOf: time.Now().UTC()}
	var head *controlv1.View
	var rows [][]string
	for i, r := range got {
		if r == nil {
			rows = append(rows, []string{targets[i].name, "unreachable"})
			continue
		}
		if head == nil {
			head, doc = r.View, output.Document{AsOf: r.View.AsOf.AsTime(), ViewOf: r.View.ViewOf, Nodes: doc.Nodes}
		}
		b, err := output.Message(r)
		if err != nil {
			return err
		}
		doc.Nodes = append(doc.Nodes, b)
		if len(r.Cases) == 0 {
			rows = append(rows, []string{shortID(r.View.ViewOf), "-", "nobody"})
		}
		for _, c := range r.Cases {
			rows = append(rows, []string{shortID(r.View.ViewOf), c.Id, shortID(c.Accused), c.Standing, c.Class, c.Since.AsTime().Format(time.RFC3339), fmt.Sprintf("%d bytes", c.EvidenceBytes), sessionsOf(c), appealOf(c)})
		}
	}
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		fmt.Fprintln(w, headline(head))
		output.Columns(w, "SEEN_BY CASE ACCUSED STANDING CLASS SINCE PROOF SESSIONS APPEAL", rows)
	})
}

// sessionsOf says what became of sessions with an accused.
func sessionsOf(c *controlv1.Case) string {
	switch {
	case c.Capped:
		return "kept (cap)"
	case c.Standing == quarantine.Held.String() && c.Class != "":
		return "kept" // by a doubt; a relay at fault has no case
	case c.Standing == quarantine.Held.String() || c.Standing == quarantine.Quarantined.String() || c.Standing == quarantine.Revoked.String():
		return "cut"
	}
	return "-"
}

// appealOf says since when an accused waits for the authority's decision, where it is asked.
func appealOf(c *controlv1.Case) string {
	if c.Appealed == nil {
		return "-"
	}
	since := c.Appealed.AsTime().Format(time.RFC3339)
	if c.AppealUnattested {
		return since + " unattested"
	}
	return since
}

// happened is what all nodes saw and did in a case, the oldest first.
func happened(got []*controlv1.ShowCaseResponse) [][]string {
	type event struct {
		at         time.Time
		node, what string
	}
	var all []event
	for _, r := range got {
		for _, e := range r.GetEvents() {
			all = append(all, event{e.At.AsTime(), shortID(r.View.ViewOf), e.What})
		}
	}
	slices.SortStableFunc(all, func(a, b event) int { return a.at.Compare(b.at) })
	rows := make([][]string, len(all))
	for i, e := range all {
		rows[i] = []string{e.at.Format("2006-01-02T15:04:05.000000Z07:00"), e.node, e.what}
	}
	return rows
}

func quarantineShowCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "One case: what was signed, which rule that broke, who saw it when, what was cut",
		Args:  cobra.ExactArgs(1),
		RunE:  func(_ *cobra.Command, args []string) error { return quarantineShow(o, args[0]) },
	}
}

func quarantineShow(o *options, id string) error {
	targets, err := o.targets()
	if err != nil {
		return err
	}
	got, errs := answers(targets, func(ctx context.Context, t target) (*controlv1.ShowCaseResponse, error) {
		r, err := t.ShowCase(ctx, &controlv1.ShowCaseRequest{Id: id})
		if connect.CodeOf(err) == connect.CodeNotFound {
			return &controlv1.ShowCaseResponse{}, nil
		}
		return r, err
	})
	if err := allFailed(errs); err != nil {
		return err
	}
	var shown *controlv1.ShowCaseResponse
	for _, r := range got {
		if r.GetCase() != nil {
			shown = r
			break
		}
	}
	if shown == nil {
		return fmt.Errorf("%w: no node here has a case %q (give at least four digits)", explain.ErrNotThere, id)
	}
	doc := document(shown.View)
	for _, r := range got {
		if r.GetCase() == nil {
			continue
		}
		b, err := output.Message(r)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
	}
	err = output.Write(o.out, o.format, doc, func(w io.Writer) {
		fmt.Fprintf(w, "%s\n\ncase %s: %s is %s\n", headline(shown.View), shown.Case.Id, shown.Case.Accused, shown.Case.Standing)
		for _, line := range shown.Story {
			fmt.Fprintf(w, "  %s\n", line)
		}
		fmt.Fprintf(w, "verified again just now: %s\n\n", shown.Verdict)
		output.Columns(w, "AT NODE WHAT", happened(got))
	})
	if err == nil && slices.ContainsFunc(got, func(r *controlv1.ShowCaseResponse) bool { return r.GetCase() != nil && !r.Verified }) {
		return &exitCode{explain.Failed}
	}
	return err
}
