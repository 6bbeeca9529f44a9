package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

// appealTimeout has room for an attestation at one issuer after the other.
const appealTimeout = 35 * time.Second

func quarantineAppealCommand(o *options) *cobra.Command {
	var req controlv1.AppealRequest
	c := &cobra.Command{
		Use:   "appeal --reason TEXT",
		Short: "Ask to be let back in, on the node that is quarantined",
		Long: `Appeal has this node prove its machine anew, by a fresh quote of its TPM, and take its
operator's word to the region's authority: what happened, and why it does not happen again.
An issuer of the region carries it; a node that is shut out reaches nobody else. At the
authority, quarantine list and show have it. Nothing changes before release, after which
this node goes on by itself, in a new epoch. A new word is heard a minute after the last.

Without a TPM it signs with the key of its feed, or shows the certificate it enrolled by, and
its appeal is marked unattested: nothing is known of the machine.`,
		Example: `  bailiwick quarantine appeal --reason "the virtual machine was cloned; the clone is deleted"`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.Note == "" {
				return &usageError{errors.New("--reason TEXT is required: the root cause, for who decides")}
			}
			t, err := o.one()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), appealTimeout)
			defer cancel()
			r, err := t.Appeal(ctx, &req)
			if err != nil {
				return t.reached(err)
			}
			doc := document(r.View)
			item, _ := json.Marshal(map[string]string{"appeal": req.Note}) // of strings: cannot fail
			doc.Items = append(doc.Items, item)
			return output.Write(o.out, o.format, doc, func(w io.Writer) {
				fmt.Fprintf(w, "%s appeals: the region's authority has it\n", shortID(r.View.ViewOf))
			})
		},
	}
	c.Flags().StringVar(&req.Note, "reason", "", "root cause, at most 1 KiB (required)")
	return c
}
