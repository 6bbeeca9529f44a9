package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

func quarantineSegmentCommand(o *options) *cobra.Command {
	var req controlv1.SegmentRequest
	c := &cobra.Command{
		Use:   "segment CASE|SPIFFE-ID PREFIX --reason TEXT",
		Short: "Keep out a part of a node's state, signed by the region's authority (ask its node)",
		Long: `Segment has every node of the region take in nothing more of what a node writes below a
prefix of its keys, of operators' kinds: x-route for all of that kind, x-route/north for one
key, x-route/no* for all that begin so. What was there before stays readable, as suspect; the node itself is told when it
writes there. All else of the node goes on. With --lift the part is let back in: what the
node has written last counts then, if schemas and policy let it.

It is for state that breaks what its readers rely on, at a node that is no liar. A schema
alone quarantines nobody, as a bad one would everybody: it keeps out value by value, and
this is an operator's word.`,
		Example: `  bailiwick quarantine segment spiffe://east.example.org/node/edge-7 x-route --reason "routes that no schema of ours allows"
  bailiwick quarantine segment spiffe://east.example.org/node/edge-7 x-route --lift --reason "version 12 writes good ones"`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Origin, req.Prefix = args[0], args[1]
			r, err := decide(cmd.Context(), o, req.Reason, &req, target.Segment)
			if err != nil {
				return err
			}
			doc := document(r.View)
			item, _ := json.Marshal(map[string]any{"origin": r.Origin, "kept_out": append([]string{}, r.Prefixes...)}) // of strings: cannot fail
			doc.Items = append(doc.Items, item)
			return output.Write(o.out, o.format, doc, func(w io.Writer) {
				what := "nothing of it is"
				if len(r.Prefixes) > 0 {
					what = strings.Join(r.Prefixes, ", ") + " of it is"
				}
				fmt.Fprintf(w, "%s: %s kept out, signed by the authority at %s\n", r.Origin, what, shortID(r.View.ViewOf))
			})
		},
	}
	c.Flags().StringVar(&req.Reason, "reason", "", "why, kept in the signed statement (required)")
	c.Flags().BoolVar(&req.Lift, "lift", false, "let the part back in")
	return c
}
