package main

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
)

func trailTimelineCommand(o *options) *cobra.Command {
	var svg, from, to string
	c := &cobra.Command{
		Use:   "timeline ID [DIR...]",
		Short: "What all trails tell of one ID, in order, as text or SVG",
		Long: `Timeline shows every leaf that names ID, a SPIFFE ID, a service, a decision or a digest, over
all trails: those in each DIR, of the dev fleet, or of --node. The order is that of the
nodes' own clocks. ! marks refusals, denials, evidence and gaps. Nothing is verified.`,
		Example: `  bailiwick trail timeline spiffe://east.dev.example/node/east-n2
  bailiwick trail timeline 7ad3b4d3597b --svg case.svg`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter := audit.Filter{Subject: args[0]}
			var err error
			if filter.From, filter.To, err = span(from, to, time.Now()); err != nil {
				return err
			}
			dirs, err := o.trailDirs(args[1:], "")
			if err != nil {
				return err
			}
			all, err := audit.Scan(cmd.Context(), dirs, filter)
			if err != nil {
				return err
			}
			if len(all) == 0 {
				return fmt.Errorf("%w: %s", audit.ErrNoLeaf, args[0])
			}
			if svg != "" {
				var b bytes.Buffer
				if err := audit.SVG(&b, args[0], all); err != nil {
					return err
				}
				return durable.Replace(svg, b.Bytes(), 0o600)
			}
			var failed error
			err = o.facts("", all, func(w io.Writer) { failed = audit.Text(w, all) })
			if err == nil {
				err = failed
			}
			return err
		},
	}
	c.Flags().StringVar(&svg, "svg", "", "draw it to this file instead")
	c.Flags().StringVar(&from, "from", "", "only since: a time, a day, or how long ago (24h)")
	c.Flags().StringVar(&to, "to", "", "only until")
	return c
}

// span reads two flags; what is not given does not bound.
func span(from, to string, now time.Time) (a, b time.Time, err error) {
	if from != "" {
		if a, err = moment("--from", from, now); err != nil {
			return a, b, err
		}
	}
	if to != "" {
		b, err = moment("--to", to, now)
	}
	if err == nil && from != "" && to != "" && !a.Before(b) {
		err = &usageError{fmt.Errorf("--from %s is not before --to %s", from, to)}
	}
	return a, b, err
}
