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

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

func statusCommand(o *options) *cobra.Command {
	var peers bool
	c := &cobra.Command{
		Use:   "status",
		Short: "One line a node: identity, standing, peers, debt, lease, policy, trail",
		Long: `Status asks each node of the dev fleet of this folder, or this machine's node, and
prints one line for each. Every line is that node's own view, and the first line
says how old the answer is, what state is known to be missing, and how long the
node may go on without its authority.

PEERS are links up of nodes known; DEBT is what is known to be missing; LEASE is
the mode and how long the node may go on without its authority; POLICY is the
digest of the levels in force; TRAIL is its size and the head of its root.

Exit code 5 means that some node is not well: unreachable, stale, in degraded
mode, or not in good standing.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return status(o, peers) },
	}
	c.Flags().BoolVar(&peers, "peers", false, "also list the peers each node sees")
	return c
}

func status(o *options, peers bool) error {
	targets, err := o.targets()
	if err != nil {
		return err
	}
	got, errs := answers(targets, func(ctx context.Context, t target) (*controlv1.StatusResponse, error) {
		return t.Status(ctx, &controlv1.StatusRequest{})
	})
	if err := allFailed(errs); err != nil {
		return err
	}
	doc := output.Document{AsOf: time.Now().UTC()}
	for i, s := range got {
		if s == nil {
			b, err := json.Marshal(map[string]any{"name": targets[i].name, "unreachable": true, "error": errs[i].Error()})
			if err != nil {
				return err
			}
			doc.Nodes = append(doc.Nodes, b)
			continue
		}
		if doc.ViewOf == "" {
			doc.ViewOf, doc.AsOf = s.View.ViewOf, s.View.AsOf.AsTime()
		}
		b, err := output.Message(s)
		if err != nil {
			return err
		}
		doc.Nodes = append(doc.Nodes, b)
	}
	err = output.Write(o.out, o.format, doc, func(w io.Writer) { statusTable(w, targets, got, errs, peers) })
	if err == nil && slices.ContainsFunc(got, unwell) {
		return &exitCode{explain.Degraded}
	}
	return err
}

// unwell is what exit code 5 means.
func unwell(s *controlv1.StatusResponse) bool {
	return s == nil || s.Self.Standing != "ok" || s.Self.Identity.Stale || (s.View.Lease.Mode != "connected" && s.View.Lease.Mode != "isolated")
}

func statusTable(w io.Writer, targets []target, got []*controlv1.StatusResponse, errs []error, peers bool) {
	for _, s := range got {
		if s != nil {
			fmt.Fprintln(w, headline(s.View))
			break
		}
	}
	var rows [][]string
	for i, s := range got {
		if s == nil {
			rows = append(rows, []string{targets[i].name, "unreachable"})
			continue
		}
		rows = append(rows, nodeRow(s))
	}
	output.Columns(w, "NODE STANDING IDENTITY EPOCH PEERS DEBT LEASE POLICY TRAIL", rows)
	for i, s := range got {
		if s == nil {
			fmt.Fprintln(w, errs[i])
			continue
		}
		for _, warning := range s.Self.Warnings {
			fmt.Fprintf(w, "%s: %s\n", shortID(s.Self.SpiffeId), warning)
		}
	}
	if peers {
		peerTable(w, got)
	}
}

// headline says whose view an answer is and how old it is, before anything else.
func headline(v *controlv1.View) string {
	return fmt.Sprintf("view of %s as of %s; debt %s; lease %s", v.ViewOf, v.AsOf.AsTime().Format(time.RFC3339), debtText(v.Debt), leaseText(v.Lease))
}

// quietSeconds is the age of a region's newest summary that is worth saying:
// within it, gateways and their own region have had time to carry a newer one.
const quietSeconds = 30

func debtText(d *controlv1.Debt) string {
	var parts []string
	if d.GetRecords() > 0 {
		noun := "records"
		if d.Records == 1 {
			noun = "record"
		}
		parts = append(parts, fmt.Sprintf("%d %s %s old", d.Records, noun, output.Span(seconds(d.OldestSeconds))))
	}
	regions := make([]string, 0, len(d.GetRegions()))
	for label := range d.GetRegions() {
		regions = append(regions, label)
	}
	slices.Sort(regions)
	for _, label := range regions {
		r := d.Regions[label]
		switch {
		case r.HeardSeconds < 0:
			parts = append(parts, label+" never heard")
		case r.HeardSeconds > quietSeconds && r.Summaries == 0:
			parts = append(parts, fmt.Sprintf("%s heard %s ago", label, output.Span(seconds(r.HeardSeconds))))
		case r.Summaries > 0:
			parts = append(parts, fmt.Sprintf("%s %d behind, heard %s ago", label, r.Summaries, output.Span(seconds(r.HeardSeconds))))
		}
	}
	if len(parts) == 0 {
		return "0"
	}
	return strings.Join(parts, ", ")
}

func leaseText(l *controlv1.Lease) string {
	return fmt.Sprintf("%s %s", l.Mode, output.Span(seconds(l.RemainingSeconds)))
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func nodeRow(s *controlv1.StatusResponse) []string {
	n := s.Self
	identity := fmt.Sprintf("%s %s", n.Identity.AttestedBy, output.Span(seconds(n.Identity.SvidRemainingSeconds)))
	if n.Identity.Stale {
		identity += " (stale)"
	}
	debt := debtText(s.View.Debt)
	trail := "-"
	if n.Trail.Size > 0 {
		trail = fmt.Sprintf("%d %.8s", n.Trail.Size, n.Trail.Root)
	}
	return []string{
		shortID(n.SpiffeId), n.Standing, identity, fmt.Sprintf("%d/%d", n.Feed.Epoch, n.Feed.Seq),
		fmt.Sprintf("%d/%d", n.PeersUp, n.PeersKnown), debt, leaseText(s.View.Lease), shortRevision(n.Policy.Revision), trail,
	}
}

// shortRevision is the digest of a policy generation without the levels in it.
func shortRevision(revision string) string {
	if _, digest, ok := strings.Cut(revision, "#"); ok {
		return digest
	}
	return revision
}

func peerTable(w io.Writer, got []*controlv1.StatusResponse) {
	var rows [][]string
	for _, s := range got {
		if s == nil {
			continue
		}
		for _, p := range s.Peers {
			up := "down"
			if p.Connected {
				up = fmt.Sprintf("up %.1fms", p.RttMs)
			}
			age := "-" // of another region: its feed is not kept here
			if p.StateAgeSeconds >= 0 {
				age = output.Span(seconds(p.StateAgeSeconds))
			}
			rows = append(rows, []string{shortID(s.Self.SpiffeId), shortID(p.SpiffeId), p.Standing, up, age, attestedText(p), p.Hint, p.Reason})
		}
	}
	fmt.Fprintln(w)
	output.Columns(w, "SEEN_BY PEER STANDING LINK STATE_AGE ATTESTED HINT REASON", rows)
}

// attestedText is how a peer proved its machine, how long ago, and what refuses it.
func attestedText(p *controlv1.PeerStatus) string {
	a := p.Attestation
	switch {
	case a == nil:
		return orDash(p.AttestedBy)
	case a.Rule != "":
		return "refused: " + a.Rule
	case a.AgeSeconds < 0:
		return p.AttestedBy
	}
	return p.AttestedBy + " " + output.Span(seconds(a.AgeSeconds))
}

// shortID leaves out what a reader of a table knows: spiffe://east.dev.example/node/n1
// becomes east-n1's last path segment with its trust domain only where it is no node.
func shortID(id string) string {
	if i := strings.LastIndex(id, "/node/"); i >= 0 {
		return id[i+len("/node/"):]
	}
	return id
}
