package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

func quarantineRollbackCommand(o *options) *cobra.Command {
	var req controlv1.RollbackRequest
	c := &cobra.Command{
		Use:   "rollback CASE|SPIFFE-ID --to SEQ --reason TEXT",
		Short: "Show a node's state as it was, signed by the region's authority (ask the authority's node)",
		Long: `Rollback has every node of the region show a node's state as it was with record SEQ: what the
node wrote after it is not shown, until the node writes in a new epoch, which it gets at
once and begins with what it then sees. The records stay where they are, as evidence, and
nobody is quarantined by this. describe tells in which record of which epoch a key was
written. There is no way forward again but that the node writes anew.`,
		Example: `  bailiwick describe /node/edge-7/x-route/default       # ... record 41 of epoch 3
  bailiwick quarantine rollback spiffe://east.example.org/node/edge-7 --to 40 --reason "a bad push"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.Reason != "" && !cmd.Flags().Changed("to") { // decide tells of a reason that is missing
				return &usageError{errors.New("--to SEQ is required: the last record that is to count, 0 for none of the epoch")}
			}
			req.Origin = args[0]
			r, err := decide(cmd.Context(), o, req.Reason, &req, target.Rollback)
			if err != nil {
				return err
			}
			doc := document(r.View)
			item, _ := json.Marshal(map[string]any{"origin": r.Origin, "epoch": r.Epoch, "to": req.To}) // of plain values: cannot fail
			doc.Items = append(doc.Items, item)
			return output.Write(o.out, o.format, doc, func(w io.Writer) {
				fmt.Fprintf(w, "%s: its state is shown as of record %d of epoch %d, signed by the authority at %s\n", r.Origin, req.To, r.Epoch, shortID(r.View.ViewOf))
			})
		},
	}
	f := c.Flags()
	f.Uint64Var(&req.To, "to", 0, "the last record that counts; 0: none of the epoch (required)")
	f.Uint64Var(&req.Epoch, "epoch", 0, "of that record; 0: the newest that has records")
	f.StringVar(&req.Reason, "reason", "", "why, kept in the signed rollback (required)")
	return c
}
