package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
)

func quarantineHistoryCommand(o *options) *cobra.Command {
	var from, to string
	most := usualMost
	c := &cobra.Command{
		Use:   "history [CASE|SPIFFE-ID] [DIR...]",
		Short: "Who was accused, shut out and let back in, from the trails",
		Long: `History reads trails, so it also tells what is over: every finding, change of standing,
release and revocation, of all nodes or of one, as each node recorded it. Trails are those
of the state folders given, of the dev fleet, or of --node. Each line names the leaf that
proves it; what a CASE is, bailiwick quarantine list tells (at least eight digits).`,
		Example: `  bailiwick quarantine history
  bailiwick quarantine history 157b041928bf
  bailiwick quarantine history spiffe://east.example.org/node/edge-7 n1/state n2/state --from 24h`,
		RunE: func(cmd *cobra.Command, args []string) error {
			since, until, err := span(from, to, time.Now())
			if err != nil {
				return err
			}
			about := ""
			if len(args) > 0 && !isDir(args[0]) {
				about, args = args[0], args[1:]
			}
			dirs, err := o.trailDirs(args, "")
			if err != nil {
				return err
			}
			o.sealed(len(args) > 0)
			ask := most
			if ask > 0 {
				ask++ // one more tells that there are more
			}
			found, err := audit.Standings(cmd.Context(), audit.Scan, dirs, about, since, until, ask)
			if err != nil {
				return err
			}
			if most > 0 && len(found) > most {
				found = found[len(found)-most:]
				fmt.Fprintf(o.err, "only the newest %d: there are older ones; --to %s has them, or --limit 0 all\n", most, found[0].At.UTC().Format(time.RFC3339))
			}
			if err := audit.Prove(cmd.Context(), dirs, found); err != nil {
				return err
			}
			return o.answers(found)
		},
	}
	f := c.Flags()
	f.StringVar(&from, "from", "", "only since: a time, a day, or how long ago (24h)")
	f.StringVar(&to, "to", "", "only until")
	f.IntVar(&most, "limit", usualMost, "at most so many lines, the newest; 0: all")
	return c
}
