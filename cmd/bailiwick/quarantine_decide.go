package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

// errReason is for every decision of an authority: its why is signed with it.
var errReason = errors.New("--reason TEXT is required: it is signed with the decision, at most 256 bytes")

// decide asks the one node that was named for a decision of its authority, which needs a reason.
func decide[Q, R any](ctx context.Context, o *options, reason string, req *Q, call func(target, context.Context, *Q) (*R, error)) (*R, error) {
	if reason == "" {
		return nil, &usageError{errReason}
	}
	t, err := o.one()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := call(t, ctx, req)
	if err != nil {
		return nil, t.reached(err)
	}
	return r, nil
}

func quarantineRevokeCommand(o *options) *cobra.Command {
	var req controlv1.RevokeRequest
	c := &cobra.Command{
		Use:   "revoke CASE|SPIFFE-ID --reason TEXT",
		Short: "End a node's identity for good, signed by the region's authority (ask its node)",
		Long: `Revoke is the authority's last word on a node, with or without a case against it: a stolen
machine, say. Its sessions are cut everywhere in the region, beyond any cap, it gets no
credentials, and no release ever ends that. The machine can be enrolled under another name.`,
		Example: `  bailiwick quarantine revoke 157b041928bf --reason "its key is for sale"
  bailiwick quarantine revoke spiffe://east.example.org/node/edge-7 --reason "stolen with the truck"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Id = args[0]
			r, err := decide(cmd.Context(), o, req.Reason, &req, target.Revoke)
			if err != nil {
				return err
			}
			return output.Write(o.out, o.format, decided(r.View, args[0], r.Standing), func(w io.Writer) {
				fmt.Fprintf(w, "%s: standing is now %s, signed by the authority at %s\n", r.Id, r.Standing, shortID(r.View.ViewOf))
			})
		},
	}
	c.Flags().StringVar(&req.Reason, "reason", "", "why, kept in the signed revocation (required)")
	return c
}

// decided is what an authority's decision made of a standing.
func decided(v *controlv1.View, id, standing string) output.Document {
	doc := document(v)
	item, _ := json.Marshal(map[string]string{"case": id, "standing": standing}) // of strings: cannot fail
	doc.Items = append(doc.Items, item)
	return doc
}
