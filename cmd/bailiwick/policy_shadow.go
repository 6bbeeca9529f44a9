package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/governing"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

func policyShadowCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "shadow",
		Short: "Hold a candidate policy against the one in force, on live traffic",
		Long: `Shadow has nodes put every question that their policy answers to a candidate too, and
counts where the answers differ. The candidate decides nothing: it is asked after the
answer was given, in a quarter of one processor's time at most, and what does not fit
into its queue is counted as dropped.

A node keeps its candidate through restarts and through other policy that is put in
force; what it counted begins anew then, and the report says since when it counts.`,
		Example: `  bailiwick policy shadow start ./east
  bailiwick policy shadow report
  bailiwick policy shadow promote --key east/policy.key.pem --change "orders may call stock"
  bailiwick policy shadow stop`,
	}
	c.AddCommand(policyShadowStartCommand(o), policyShadowReportCommand(o), policyShadowPromoteCommand(o), policyShadowStopCommand(o))
	return c
}

func policyShadowStartCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "start DIR|FILE",
		Short: "Begin to compare with a working tree, the folder of a level, or a signed policy",
		Long: `Start gives a candidate to this machine's node; in a dev fleet to all nodes of the
region that the tree is for, or to that of --node. A candidate of before is replaced.
The levels that are not in the tree are those in force. Nobody has to have signed it;
a level of a tree may allow what the level in force may.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return shadowStart(o, args[0]) },
	}
}

func shadowStart(o *options, path string) error {
	targets, err := o.targets()
	if err != nil {
		return err
	}
	req, err := shadowRequest(path)
	if err != nil {
		return err
	}
	if len(targets) > 1 && len(req.Levels) > 0 && req.TrustDomain == "" && req.Levels[0].Level != policy.Global {
		return &usageError{fmt.Errorf("%s does not say which region it is for: --node NAME is required, or a tree.json beside it", path)}
	}
	got, errs := answers(targets, func(ctx context.Context, t target) (*controlv1.ShadowResponse, error) { return t.StartShadow(ctx, req) })
	if err := allFailed(errs); err != nil {
		return err
	}
	for i, err := range errs {
		if err != nil && !errors.Is(err, governing.ErrShadow) {
			fmt.Fprintln(o.err, targets[i].name+": not started:", err)
		}
	}
	return tellShadow(o, targets, got, func(w io.Writer) {
		for _, r := range got {
			if r != nil {
				fmt.Fprintf(w, "%s compares %s with %s\n", shortID(r.View.ViewOf), r.Shadow.Candidate, r.Shadow.Against)
			}
		}
	})
}

// shadowRequest reads a candidate: what an author wrote, or what was signed.
func shadowRequest(path string) (*controlv1.StartShadowRequest, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no %s", workbench.ErrTree, path)
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		file, err := bundle.Load(path)
		return &controlv1.StartShadowRequest{File: file.Bytes}, err
	}
	tree, err := workbench.Open(path)
	if err != nil {
		return nil, err
	}
	req := &controlv1.StartShadowRequest{TrustDomain: tree.Plan.TrustDomain}
	for _, l := range tree.Written() {
		content, err := compiled(l.Dir, l.Name)
		if err != nil {
			return nil, err
		}
		req.Levels = append(req.Levels, &controlv1.ShadowLevel{Level: l.Name, Content: content})
	}
	return req, nil
}

func policyShadowStopCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "stop",
		Short: "Forget the candidate and what was counted",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			targets, err := o.targets()
			if err != nil {
				return err
			}
			got, errs := answers(targets, func(ctx context.Context, t target) (*controlv1.ShadowResponse, error) {
				return t.StopShadow(ctx, &controlv1.StopShadowRequest{})
			})
			if err := allFailed(errs); err != nil {
				return err
			}
			return tellShadow(o, targets, got, func(w io.Writer) {
				for _, r := range got {
					if r != nil {
						fmt.Fprintf(w, "%s compares no more: %s\n", shortID(r.View.ViewOf), shadowText(r.Shadow))
					}
				}
			})
		},
	}
}

// shadowText is a run in a few words.
func shadowText(s *controlv1.ShadowStatus) string {
	text := fmt.Sprintf("%d compared since %s, %d different", s.Compared, s.Since.AsTime().Format(time.RFC3339), s.Different)
	if s.Dropped > 0 {
		text += fmt.Sprintf(", %d dropped", s.Dropped)
	}
	if s.Ended != "" {
		text += "; ended: " + s.Ended
	}
	return text
}

func tellShadow(o *options, targets []target, got []*controlv1.ShadowResponse, text func(io.Writer)) error {
	doc, head, err := shadowDocument(targets, got)
	if err != nil {
		return err
	}
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		fmt.Fprintln(w, headline(head))
		text(w)
	})
}
