package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/attest/durable"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/app"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/casefile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/dev"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// asking is the question of a case file, as flags have it.
type asking struct {
	id, subject, from, to string
	config                string
}

func (a asking) asked() bool { return a.id != "" || a.subject != "" || a.from != "" }

// question reads the flags. Times are RFC 3339, or spans before now, such as 24h.
func (a asking) question(now time.Time) (q casefile.Question, err error) {
	ways := 0
	for _, s := range []string{a.id, a.subject, a.from} {
		if s != "" {
			ways++
		}
	}
	if ways != 1 {
		return q, &usageError{errors.New("give one of --case, --subject, and --from with --to")}
	}
	q.Case, q.Subject = a.id, a.subject
	if a.from == "" {
		return q, nil
	}
	from, err := moment("--from", a.from, now)
	if err != nil {
		return q, err
	}
	to := now
	if a.to != "" {
		if to, err = moment("--to", a.to, now); err != nil {
			return q, err
		}
	}
	if !from.Before(to) {
		return q, &usageError{fmt.Errorf("--from %s is not before --to %s", from.Format(time.RFC3339), to.Format(time.RFC3339))}
	}
	q.From, q.To = from.UTC().Truncate(time.Millisecond), to.UTC().Truncate(time.Millisecond)
	return q, nil
}

// moment is a time as people give it: RFC 3339, a day, or how long ago.
func moment(flag, s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, &usageError{fmt.Errorf("%s %q: want a time such as 2026-11-21T12:00:00Z or 2026-11-21, or how long ago: 24h", flag, s)}
}

// export makes a case file of what was asked.
func (a asking) export(ctx context.Context, o *options, args []string, out string) error {
	q, err := a.question(time.Now())
	if err != nil {
		return err
	}
	if out == "" || filepath.Ext(out) != ".zip" {
		return &usageError{fmt.Errorf("--out %q: a case file is written to a file: --out FILE.zip", out)}
	}
	dirs, err := o.trailDirs(args, a.config)
	if err != nil {
		return err
	}
	o.sealed(len(args) > 0)
	c, err := audit.Collect(ctx, dirs, q)
	if err != nil {
		return err
	}
	if err := a.complete(ctx, o, &c, len(args) > 0); err != nil {
		return err
	}
	c.Manifest.MadeAt, c.Manifest.MadeBy = time.Now().UTC().Truncate(time.Second), versionString()
	b, err := casefile.Write(c)
	if err != nil {
		return err
	}
	if err := durable.Replace(out, b, 0o600); err != nil {
		return err
	}
	leaves := 0
	for _, l := range c.Leaves {
		leaves += len(l)
	}
	return o.tell(map[string]any{
		"file": out, "bytes": len(b), "question": q, "leaves": leaves, "trails": len(c.Leaves), "decisions": len(c.Decisions),
		"policies": len(c.Policies), "trust_records": len(c.Trust), "evidence": len(c.Evidence),
	},
		fmt.Sprintf("%s: %s", out, q),
		fmt.Sprintf("  %d leaves of %d trails, %d decisions, %d policies, %d trust records, %d proofs; %d bytes",
			leaves, len(c.Leaves), len(c.Decisions), len(c.Policies), len(c.Trust), len(c.Evidence), len(b)),
		"  check it anywhere: bailiwick trail verify "+out+" --trust trust.json")
}

// sealed asks the nodes that run to write what decisions they have. Those that do not
// answer wrote theirs before.
func (o *options) sealed(files bool) {
	targets, err := o.targets()
	if files || err != nil {
		return
	}
	answers(targets, func(ctx context.Context, t target) (*controlv1.SealDecisionsResponse, error) {
		return t.SealDecisions(ctx, &controlv1.SealDecisionsRequest{})
	})
}

// complete adds what is not in trails: trust records of the configurations, and trust
// records, policies and proofs of the nodes that answer. With folders given, no node is
// asked: they may be of anywhere.
func (a asking) complete(ctx context.Context, o *options, c *casefile.Case, files bool) error {
	for _, path := range o.configs(a.config, files) {
		_, _, records, err := app.Trusted(path)
		if err != nil {
			return err
		}
		if err := audit.AddTrust(c, records); err != nil {
			return err
		}
	}
	targets, err := o.targets()
	if files || err != nil {
		return nil
	}
	proofs, err := audit.Proofs(*c)
	if err != nil {
		return err
	}
	for _, t := range targets {
		if err := t.complete(ctx, c, proofs); err != nil {
			return err
		}
	}
	return nil
}

func (t target) complete(ctx context.Context, c *casefile.Case, proofs []string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	trusted, err := t.ExportTrust(ctx, &controlv1.ExportTrustRequest{All: true})
	if err != nil {
		return nil // it does not run: its trail is read all the same
	}
	records, err := trust.Cut(trusted.File)
	if err != nil {
		return err
	}
	if err := audit.AddTrust(c, records); err != nil {
		return err
	}
	held, err := t.ListPolicies(ctx, &controlv1.ListPoliciesRequest{Files: true})
	if err != nil {
		return t.reached(err)
	}
	var policies [][]byte
	for _, p := range held.Items {
		if len(p.File) > 0 {
			policies = append(policies, p.File)
		}
	}
	if err := audit.AddPolicies(c, policies); err != nil {
		return err
	}
	for _, digest := range proofs {
		if r, err := t.ShowCase(ctx, &controlv1.ShowCaseRequest{Id: digest}); err == nil && r.Verified {
			audit.AddProof(c, r.Evidence)
		}
	}
	return nil
}

// configs are the configurations to learn from whom to believe: the one given, or those of
// the dev fleet's nodes.
func (o *options) configs(given string, files bool) (out []string) {
	if given != "" {
		return []string{given}
	}
	fleet, err := dev.Find(".")
	if err != nil || files {
		return nil
	}
	for _, n := range fleet.Nodes {
		if o.node == "" || o.node == n.Name {
			out = append(out, n.Config)
		}
	}
	return out
}

// readTrust reads a trust file; an empty path trusts nobody.
func readTrust(path string) (casefile.Trust, error) {
	if path == "" {
		return casefile.Trust{}, nil
	}
	b, err := bounded.ReadFile(path, casefile.MaxTrust)
	if err != nil {
		return casefile.Trust{}, err
	}
	t, err := casefile.ParseTrust(b)
	if err != nil {
		return t, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// saveTrust keeps what was verified for the next time.
func saveTrust(path string, t casefile.Trust) error {
	b, err := t.Encode()
	if err != nil {
		return err
	}
	return durable.Replace(path, b, fileMode)
}

// caseDocument is the answer about a case file for programs.
func caseDocument(r casefile.Report) (output.Document, error) {
	b, err := json.Marshal(r)
	return output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{b}}, err
}
