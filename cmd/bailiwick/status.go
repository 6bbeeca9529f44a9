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
the mode (connected; isolated: the authority is not heard at present, and nothing
else changes yet; else what the node may still do) and how long the node may go on
without its authority; POLICY is the digest of the levels in force, the second line how
many nodes of the region do not enforce the newest policy known for them (drift); TRAIL
is its size, the head of its root, w with the size that peers have witnessed, and c with how many of
its custodians have a whole copy. Below the table: candidates that are compared (policy shadow), how far
staged policy is on each node (policy publish --rollout), and what to look after.

With --peers: LINK is the round trip, and the mode and budget of a thin link;
STATE_AGE is since when the peer's own state is known here; MISSING is what it
showed that is not here, and OWED what is here that it does not have, each as
records/bytes/age of the oldest (? where only headers are known); ATTESTED is how it proved its machine, and how
long ago; POLICY is where it does not enforce what it should; HINT is what serf makes of it, which decides nothing.
Then who keeps whose trail: LEAVES in the custodian's copy, BEHIND is how many it lacks, HEARD when it last
told; and what each node keeps for others.

Exit code 5 means that some node is not well: unreachable, without a peer, stale,
refused by its peers' checks, in degraded mode, or in another standing than ok:
also a released one, until its probation of an hour is over.`,
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
	if s == nil {
		return true
	}
	is, att := s.Self.Identity, s.Self.Identity.Attestation
	return s.Self.Standing != "ok" || is.Stale || is.SvidRemainingSeconds <= 0 || (att != nil && att.Rule != "" && !att.Ok) ||
		(s.Self.PeersKnown > 0 && s.Self.PeersUp == 0) || (s.View.Lease.Mode != "connected" && s.View.Lease.Mode != "isolated")
}

func statusTable(w io.Writer, targets []target, got []*controlv1.StatusResponse, errs []error, peers bool) {
	for _, s := range got {
		if s != nil {
			fmt.Fprintln(w, headline(s.View))
			fmt.Fprintln(w, policyLine(s.Self.Policy, s.Regions))
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
		if run := s.Self.Policy.GetShadow(); run != nil {
			fmt.Fprintf(w, "%s: shadow of %s: %s\n", shortID(s.Self.SpiffeId), run.Candidate, shadowText(run))
		}
		for _, r := range s.Self.Policy.GetRollouts() {
			fmt.Fprintf(w, "%s: %s\n", shortID(s.Self.SpiffeId), rolloutText(r))
		}
		for _, warning := range s.Self.Warnings {
			fmt.Fprintf(w, "%s: %s\n", shortID(s.Self.SpiffeId), strings.ReplaceAll(warning, "\n", "\n  "))
		}
	}
	if peers {
		peerTable(w, got)
		custodyTable(w, got)
	}
}

// policyLine says how far the region enforces what it should, and the others by their gateways.
func policyLine(p *controlv1.Policy, others []*controlv1.RegionSummary) string {
	d := p.GetDrift()
	text := fmt.Sprintf("policy %s; drift %d of %d nodes", p.GetRevision(), d.GetBehind(), d.GetNodes())
	for _, r := range others {
		if r.Drift != nil {
			text += fmt.Sprintf(", %s %d of %d", r.Region, r.Drift.Behind, r.Drift.Nodes)
		}
	}
	for _, l := range p.GetLevels() {
		switch {
		case l.StaleInSeconds < 0 || l.StaleMode == "":
		case l.StaleInSeconds == 0:
			text += fmt.Sprintf("; %s stale: %s", l.Level, l.StaleMode)
		default:
			text += fmt.Sprintf("; %s stale in %s: %s", l.Level, output.Span(seconds(l.StaleInSeconds)), l.StaleMode)
		}
	}
	return text
}

// rolloutText is how far a node is with a staged policy.
func rolloutText(r *controlv1.Rollout) string {
	text := fmt.Sprintf("rollout of %s policy of %s, version %d, ring %s: %s since %s", r.Level, r.Scope, r.Version, r.Ring, r.Phase, r.Since.AsTime().Format(time.RFC3339))
	if r.Waits != "" {
		text += "; waits: " + r.Waits
	}
	if r.Compared > 0 {
		text += fmt.Sprintf("; %d compared, %d denied, %d failed", r.Compared, r.Denied, r.Failed)
	}
	return text
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
		if n.Trail.WitnessedSize > 0 {
			trail += fmt.Sprintf(" w%d", n.Trail.WitnessedSize)
		}
		if c := n.Trail.Custody; len(c.GetCustodians()) > 0 {
			trail += fmt.Sprintf(" c%d/%d", c.Whole, c.Wanted)
		}
	}
	return []string{
		shortID(n.SpiffeId), n.Standing, identity, fmt.Sprintf("%d/%d", n.Feed.Epoch, n.Feed.Seq),
		fmt.Sprintf("%d/%d", n.PeersUp, n.PeersKnown), debt, leaseText(s.View.Lease), policyText(n.Policy), trail,
	}
}

// policyText is the digest of a node's policy, and what it makes of its region's.
func policyText(p *controlv1.Policy) string {
	text := shortRevision(p.Revision)
	if behind := p.GetDrift().GetBehind(); behind > 0 {
		text += fmt.Sprintf(" drift %d", behind)
	}
	return text
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
				up = fmt.Sprintf("up %.1fms%s", p.RttMs, thinText(p))
			}
			age := "-" // of another region: its feed is not kept here
			if p.StateAgeSeconds >= 0 {
				age = output.Span(seconds(p.StateAgeSeconds))
			}
			rows = append(rows, []string{
				shortID(s.Self.SpiffeId), shortID(p.SpiffeId), p.Standing, up, age, backlogText(p.MissingRecords, p.MissingBytes, p.MissingSeconds),
				backlogText(p.OwedRecords, p.OwedBytes, p.OwedSeconds), attestedText(p), gapsText(p.Policy), p.Hint, p.Reason,
			})
		}
	}
	fmt.Fprintln(w)
	output.Columns(w, "SEEN_BY PEER STANDING LINK STATE_AGE MISSING OWED ATTESTED POLICY HINT REASON", rows)
}

// gapsText is where a node does not enforce the policy it should.
func gapsText(n *controlv1.NodePolicy) string {
	switch {
	case n == nil:
		return "-" // of another region
	case n.Revision == "":
		return "not said"
	case len(n.Gaps) == 0:
		return "ok"
	}
	return strings.Join(n.Gaps, ", ")
}

// thinText is what makes the gossip with a peer thinner than it might be, and what waits
// for that.
func thinText(p *controlv1.PeerStatus) (text string) {
	if p.Mode != "" && p.Mode != "full" {
		text = " " + p.Mode
	}
	if p.Budget > 0 {
		text += fmt.Sprintf(" %dB/s", p.Budget)
	}
	if text != "" && p.WaitingBytes > 0 {
		text += fmt.Sprintf(" %dB wait", p.WaitingBytes)
	}
	return text
}

// backlogText is a sync debt in one word: records, bytes, and the age of the oldest.
// How large records are is not known where only their headers are.
func backlogText(records, bytes uint64, oldest float64) string {
	switch {
	case records == 0:
		return "0"
	case bytes == 0:
		return fmt.Sprintf("%d/?/%s", records, output.Span(seconds(oldest)))
	}
	return fmt.Sprintf("%d/%dB/%s", records, bytes, output.Span(seconds(oldest)))
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
