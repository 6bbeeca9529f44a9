package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

func attestCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "attest",
		Short: "What the machines of a region prove about themselves, and who believes it",
		Long: `Every node quotes its TPM once each attest.interval, bound to the newest beacon of
the region's authority, and writes the evidence into its own feed. Every other node
of the region judges it: by checks in code, then by its own region's policy.`,
	}
	c.AddCommand(attestShowCommand(o), attestExplainCommand(o), attestLearnCommand(o), attestDiffCommand(o))
	return c
}

func attestShowCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "show [NODE]",
		Short: "Evidence and verdict of each node, as each node sees it",
		Args:  cobra.MaximumNArgs(1), ValidArgsFunction: completeNode,
		RunE: func(_ *cobra.Command, args []string) error { return attestShow(o, strings.Join(args, "")) },
	}
}

func attestShow(o *options, node string) error {
	targets, err := o.targets()
	if err != nil {
		return err
	}
	got, errs := answers(targets, func(ctx context.Context, t target) (*controlv1.ListAttestationsResponse, error) {
		r, err := t.ListAttestations(ctx, &controlv1.ListAttestationsRequest{Node: node})
		if connect.CodeOf(err) == connect.CodeNotFound {
			return &controlv1.ListAttestationsResponse{}, nil // a node of another region
		}
		return r, err
	})
	if err := allFailed(errs); err != nil {
		return err
	}
	var doc output.Document
	var rows [][]string
	var head *controlv1.View
	for i, r := range got {
		if r == nil {
			rows = append(rows, []string{targets[i].name, "unreachable"})
			continue
		}
		if r.View == nil {
			continue
		}
		if head == nil {
			head, doc.AsOf, doc.ViewOf = r.View, r.View.AsOf.AsTime(), r.View.ViewOf
		}
		b, err := output.Message(r)
		if err != nil {
			return err
		}
		doc.Nodes = append(doc.Nodes, b)
		for _, item := range r.Items {
			rows = append(rows, append([]string{shortID(r.View.ViewOf), shortID(item.SpiffeId)}, attestationRow(item)...))
		}
	}
	if head == nil {
		return fmt.Errorf("%w: %q", errNoSuchNode, node)
	}
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		fmt.Fprintln(w, headline(head))
		output.Columns(w, "SEEN_BY NODE VERDICT EVIDENCE BEACON RESETS SECURE_BOOT COMMAND_LINE", rows)
	})
}

var errNoSuchNode = errors.New("no node that answers knows such a node in its region")

func attestationRow(n *controlv1.NodeAttestation) []string {
	if n.AttestedBy != "tpm" {
		return []string{"unattested"}
	}
	a := n.Attestation
	if a == nil {
		return []string{"not looked at (attest.interval is 0)"}
	}
	evidence, beacon := "none yet", "-"
	if a.AgeSeconds >= 0 {
		evidence = output.Span(seconds(a.AgeSeconds)) + " ago"
	}
	if a.BeaconAgeSeconds >= 0 {
		beacon = fmt.Sprintf("%d, %s old", a.Beacon, output.Span(seconds(a.BeaconAgeSeconds)))
	}
	row := []string{verdictText(a), evidence, beacon}
	if n.EkSha256 == "" {
		return append(row, "-", "not proven", "-")
	}
	secure := "not proven"
	switch {
	case n.SecureBoot:
		secure = "on"
	case n.SecureBootOff:
		secure = "off"
	}
	line := "not proven"
	if len(n.CommandLines) > 0 {
		line = strings.Join(n.CommandLines, "; ")
	}
	return append(row, fmt.Sprint(n.ResetCount), secure, line)
}

// verdictText is what a node makes of another's evidence, in a word or a rule.
func verdictText(a *controlv1.Attestation) string {
	switch {
	case a.Rule != "":
		return "refused: " + a.Rule
	case a.AgeSeconds < 0:
		return "waiting"
	}
	return "ok"
}

func attestExplainCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "explain NODE",
		Short: "Every check and rule a node's evidence was held against, and what came of it",
		Args:  cobra.ExactArgs(1), ValidArgsFunction: completeNode,
		RunE: func(_ *cobra.Command, args []string) error {
			head, n, err := o.attestation(args[0])
			if err != nil {
				return err
			}
			item, err := output.Message(n)
			if err != nil {
				return err
			}
			doc := document(head)
			doc.Items = []json.RawMessage{item}
			return output.Write(o.out, o.format, doc, func(w io.Writer) { explainAttestation(w, head, n) })
		},
	}
}

// attestation asks the nodes in turn for the first that knows this one. In a fleet
// a peer is asked before the node itself.
func (o *options) attestation(node string) (*controlv1.View, *controlv1.NodeAttestation, error) {
	targets, err := o.targets()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	var own *controlv1.ListAttestationsResponse
	var failed error
	for _, t := range targets {
		r, err := t.ListAttestations(ctx, &controlv1.ListAttestationsRequest{Node: node})
		switch {
		case connect.CodeOf(err) == connect.CodeNotFound:
		case err != nil:
			failed = errors.Join(failed, t.reached(err))
		case r.Items[0].SpiffeId == r.View.ViewOf:
			own = r
		default:
			return r.View, r.Items[0], nil
		}
	}
	if own != nil {
		return own.View, own.Items[0], nil
	}
	if failed != nil {
		return nil, nil, failed
	}
	return nil, nil, fmt.Errorf("%w: %q", errNoSuchNode, node)
}

func explainAttestation(w io.Writer, head *controlv1.View, n *controlv1.NodeAttestation) {
	fmt.Fprintln(w, headline(head))
	fmt.Fprintf(w, "\n%s: %s\n", shortID(n.SpiffeId), attestationRow(n)[0])
	if n.EkSha256 != "" {
		fmt.Fprintf(w, "  TPM %s, maker %s, firmware %s, boot %d.%d\n", n.EkSha256[:16], orDash(n.EkMaker), n.Firmware, n.ResetCount, n.RestartCount)
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, c := range n.Checks {
		text := c.Reason
		if text == "" {
			text = c.Title
		}
		if c.Outcome == "failed" && c.File != "" {
			where := fmt.Sprintf("%s:%d", c.File, c.Line)
			if c.Owner != "" {
				where += ", owner " + c.Owner
			}
			text += " (" + where + ")"
		}
		rows = append(rows, []string{c.Outcome, c.Rule, c.By, text})
	}
	output.Columns(w, "OUTCOME RULE BY WHAT", rows)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
