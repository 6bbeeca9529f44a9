package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/decision/export"
)

// exporting is one use of trail export.
type exporting struct {
	what, format, out, to string
	since                 time.Duration
	denied                bool
	asking                asking
}

func trailExportCommand(o *options) *cobra.Command {
	var e exporting
	c := &cobra.Command{
		Use:   "export [DIR...]",
		Short: "Write a case file, or recorded decisions in the formats of other programs",
		Long: `With --case, --subject, or --from and --to, export writes a case file: the leaves that
answer the question, what proves them, the policies, inputs, trust records and evidence
that belong to them, and a report to read and print. It reads the trails in each DIR, a
state folder or the folder trail in it, or of the dev fleet, or of --node. Nodes that run
are asked for policies and evidence; otherwise the case file has none.
bailiwick trail verify FILE.zip --trust trust.json checks it on any machine.

Otherwise export writes the decisions that a node recorded: of DIR, its state folder or the
folder decisions in it, or of the node that --node or --socket chooses, which first
writes what it has. Verify them before with bailiwick trail verify.

  opa   OPA's decision-log events, a line each; policy replay, policy try and why read it
  ocsf  Open Cybersecurity Schema Framework 1.6, class API Activity, a line each
  otlp  OpenTelemetry logs as OTLP/JSON, a request to a line; --to posts them to a
        collector's logs endpoint (https://HOST:4318/v1/logs) instead
  cloudevents
        events of CloudEvents 1.0 in JSON, a line each, with the opa event as their data`,
		Example: `  bailiwick trail export --case 157b041928bf --out case.zip
  bailiwick trail export --subject spiffe://east.example.org/workload/shop --out shop.zip
  bailiwick trail export --from 24h --to 1h --node east-n1 --out day.zip
  bailiwick trail export --node east-n1 --format ocsf --since 24h
  bailiwick trail export /var/lib/bailiwick --out decisions.ndjson
  bailiwick trail export --format otlp --to https://collector.example:4318/v1/logs`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if e.asking.from != "" {
				e.asking.to = e.to
			}
			if e.asking.asked() {
				return e.asking.export(cmd.Context(), o, args, e.out)
			}
			if len(args) > 1 {
				return &usageError{errors.New("decisions are exported of one DIR; several are for a case file: --case, --subject, --from")}
			}
			dir := ""
			if len(args) == 1 {
				dir = args[0]
			}
			return e.run(cmd.Context(), o, dir)
		},
	}
	f := c.Flags()
	f.StringVar(&e.what, "what", "decisions", "what to export: decisions")
	f.StringVar(&e.format, "format", string(export.OPA), "opa, ocsf, otlp or cloudevents")
	f.StringVar(&e.out, "out", "", "file to write (default: standard output)")
	f.StringVar(&e.to, "to", "", "with --format otlp: collector to post to; with --from: until then (default: now)")
	f.DurationVar(&e.since, "since", 0, "only what is not older, such as 24h")
	f.BoolVar(&e.denied, "denied", false, "only denials")
	f.StringVar(&e.asking.id, "case", "", "case file of a quarantine or a decision: first digits of its ID, at least eight")
	f.StringVar(&e.asking.subject, "subject", "", "case file of all that names this ID, service or digest")
	f.StringVar(&e.asking.from, "from", "", "case file of every leaf since: a time, a day, or how long ago (24h)")
	f.StringVar(&e.asking.config, "config", "", "of a case file: configuration of the node, for its trail and trust records")
	complete(c, "what", "decisions")
	complete(c, "format", string(export.OPA), string(export.OCSF), string(export.OTLP), string(export.CloudEvents))
	return c
}

func (e exporting) check() error {
	var errs []error
	if e.what != "decisions" {
		errs = append(errs, fmt.Errorf("--what %q: want decisions", e.what))
	}
	if e.to != "" {
		if u, err := url.Parse(e.to); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			errs = append(errs, fmt.Errorf("--to %q: want https://HOST[:PORT]/v1/logs", e.to))
		}
		if e.format != string(export.OTLP) || e.out != "" {
			errs = append(errs, errors.New("--to goes with --format otlp, and without --out"))
		}
	}
	if e.since < 0 {
		errs = append(errs, fmt.Errorf("--since %s: want a span that is not negative", e.since))
	}
	if err := errors.Join(errs...); err != nil {
		return &usageError{err}
	}
	return nil
}

func (e exporting) run(ctx context.Context, o *options, dir string) error {
	if err := e.check(); err != nil {
		return err
	}
	path, err := o.recorded(ctx, dir)
	if err != nil {
		return err
	}
	count := 0
	lines := export.Lines(e.chosen(decision.Read(path), &count), export.Format(e.format))
	switch {
	case e.to != "":
		err = e.post(ctx, lines)
	case e.out != "":
		err = writeTo(e.out, lines)
	default:
		out := bufio.NewWriter(o.out)
		_, err = export.Write(out, lines)
		err = errors.Join(err, out.Flush())
	}
	if err == nil {
		fmt.Fprintf(o.err, "%d decisions of %s\n", count, path)
	}
	return err
}

// chosen leaves out what nobody asked for, and counts the rest.
func (e exporting) chosen(events iter.Seq2[decision.Event, error], count *int) iter.Seq2[decision.Event, error] {
	from := time.Time{}
	if e.since > 0 {
		from = time.Now().Add(-e.since)
	}
	return func(yield func(decision.Event, error) bool) {
		for ev, err := range events {
			if err == nil && (ev.Timestamp.Before(from) || e.denied && ev.Result.Allow) {
				continue
			}
			if err == nil {
				*count++
			}
			if !yield(ev, err) {
				return
			}
		}
	}
}

func (e exporting) post(ctx context.Context, lines iter.Seq2[[]byte, error]) error {
	client := &http.Client{Timeout: 30 * time.Second}
	for line, err := range lines {
		if err == nil {
			err = export.Send(ctx, client, e.to, line)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeTo makes a file that nobody else may read: decisions name people's workloads.
func writeTo(path string, lines iter.Seq2[[]byte, error]) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(f)
	_, err = export.Write(out, lines)
	return errors.Join(err, out.Flush(), f.Close())
}
