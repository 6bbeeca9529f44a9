package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/index"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

func trailAskCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "ask",
		Short: "Answer an auditor's question, with the leaves that prove it",
		Long: `Ask reads trails and the recorded decisions beside them: those in each DIR, a state folder,
of the dev fleet, or of --node. Each line of an answer names the leaves that prove it,
and each of these was proven under its trail's head just then; whose key signed the head,
trail verify tells. Nodes that run are asked to write their decisions first.`,
	}
	c.AddCommand(
		o.question("who-could SERVICE [DIR...]", "Who reached a service under the policy in force at a time, and who was refused",
			"The first allow of each caller and rule is kept whole under each generation of policy, and every\ndenial is. A caller that never asked is not in the answer: bailiwick policy reach computes what\npolicy would say of it.",
			"  bailiwick trail ask who-could web.east --at 1h", true,
			func(ctx context.Context, find audit.Finder, dirs []string, about string, _, to time.Time) ([]audit.Answer, error) {
				return audit.WhoCould(ctx, find, dirs, about, to)
			}),
		o.question("decided DECISION [DIR...]", "Which rule of which policy made a decision", "DECISION is the first digits of its ID, at least eight.",
			"  bailiwick trail ask decided 4c2ae0b1", false,
			func(ctx context.Context, find audit.Finder, dirs []string, about string, _, _ time.Time) ([]audit.Answer, error) {
				return audit.Decided(ctx, find, dirs, about)
			}),
		o.questionOfMost("claims NODE [DIR...]", "What a node said of itself, and who took or refused it", "NODE is a SPIFFE ID.",
			"  bailiwick trail ask claims spiffe://east.dev.example/node/east-n2 --from 1h", false, usualMost, audit.Claims),
		o.question("held CLASS [DIR...]", "To whom state of a data class went, or was refused", "From decisions of the kind replicate whose input is kept.",
			"  bailiwick trail ask held customer --from 24h", false, audit.Held),
		o.questionOfMost("changed REGION [DIR...]", "What changed in a region: authority, policy, standing, trust, administrators", "REGION is a label or a trust domain.",
			"  bailiwick trail ask changed east --from 24h", false, usualMost, audit.Changed),
	)
	return c
}

// question is one verb of ask. With at, it is about one time; otherwise about a span.
func (o *options) question(use, short, long, example string, at bool,
	answer func(ctx context.Context, find audit.Finder, dirs []string, about string, from, to time.Time) ([]audit.Answer, error)) *cobra.Command {
	return o.questionOfMost(use, short, long, example, at, 0, func(ctx context.Context, find audit.Finder, dirs []string, about string, from, to time.Time, _ int) ([]audit.Answer, error) {
		return answer(ctx, find, dirs, about, from, to)
	})
}

// usualMost is how many lines an answer has that may have any number.
const usualMost = 200

// questionOfMost is question, where an answer has at most so many lines, the newest; 0: all.
func (o *options) questionOfMost(use, short, long, example string, at bool, most int,
	answer func(ctx context.Context, find audit.Finder, dirs []string, about string, from, to time.Time, most int) ([]audit.Answer, error)) *cobra.Command {
	var from, to, path string
	bounded := most > 0
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			since, until, err := span(from, to, time.Now())
			if err != nil {
				return err
			}
			if until.IsZero() {
				until = time.Now().Add(time.Second)
			}
			dirs, err := o.trailDirs(args[1:], "")
			if err != nil {
				return err
			}
			o.sealed(len(args) > 1)
			find, done, err := finder(cmd.Context(), path, dirs)
			if err != nil {
				return err
			}
			defer done()
			ask := most
			if ask > 0 {
				ask++ // one more tells that there are more
			}
			found, err := answer(cmd.Context(), find, dirs, args[0], since, until, ask)
			if most > 0 && len(found) > most {
				found = found[1:]
				fmt.Fprintf(o.err, "only the newest %d: there are older ones; --to %s has them, or --limit 0 all\n", most, found[0].At.UTC().Format(time.RFC3339))
			}
			if err == nil {
				err = audit.Prove(cmd.Context(), dirs, found)
			}
			if err != nil {
				return err
			}
			return o.answers(found)
		},
	}
	c.Flags().StringVar(&path, "index", "", "keep an index of the trails in this file, for large ones (default: read them whole)")
	if bounded {
		c.Flags().IntVar(&most, "limit", most, "at most so many lines, the newest; 0: all")
	}
	if at {
		c.Flags().StringVar(&to, "at", "", "when: a time, or how long ago (default: now)")
		return c
	}
	c.Flags().StringVar(&from, "from", "", "only since: a time, a day, or how long ago (24h)")
	c.Flags().StringVar(&to, "to", "", "only until")
	return c
}

// finder reads trails whole, or by an index that it brings up to date first.
func finder(ctx context.Context, path string, dirs []string) (find audit.Finder, done func(), err error) {
	if path == "" {
		return audit.Scan, func() {}, nil
	}
	x, err := index.Open(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	if err := x.Update(ctx, dirs); err != nil {
		return nil, nil, errors.Join(err, x.Close())
	}
	return x.Find, func() { _ = x.Close() }, nil // what was answered was read from the trails
}

func (o *options) answers(found []audit.Answer) error {
	doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{}}
	var rows [][]string
	for _, a := range found {
		b, err := json.Marshal(a)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
		var leaves []string
		for _, p := range a.Leaves {
			leaves = append(leaves, fmt.Sprintf("%s#%d", fact.Node(p.Origin), p.Index))
		}
		rows = append(rows, []string{a.At.UTC().Format(time.RFC3339), strings.Join(leaves, ","), a.Text})
	}
	return output.Write(o.out, o.format, doc, func(w io.Writer) { output.Columns(w, "AT PROVEN_BY ANSWER", rows) })
}
