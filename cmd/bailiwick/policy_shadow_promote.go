package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
)

func policyShadowPromoteCommand(o *options) *cobra.Command {
	p := publication{options: o}
	c := &cobra.Command{
		Use:   "promote",
		Short: "Publish the candidate: sign it as the next version, and bring it to the fleet",
		Long: `Promote takes the candidate from the node and publishes exactly that, as policy publish
does: a candidate that was signed as it is, another as the next version of its level,
for which --key is required. Then the nodes compare no more.

A candidate that was compared with nothing yet, or that did not answer in time, is not
promoted without --force.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return shadowPromote(cmd.Context(), p) },
	}
	p.flags(c)
	c.Flags().StringArrayVar(&p.delegations, "delegation", nil, "what lets the key sign for its level, outermost first (may be repeated)")
	c.Flags().BoolVar(&p.force, "force", false, "promote it whatever the report says")
	return c
}

func shadowPromote(ctx context.Context, p publication) error {
	targets, err := p.targets()
	if err != nil {
		return err
	}
	got, errs := answers(targets, func(ctx context.Context, t target) (*controlv1.ShadowResponse, error) {
		return t.GetShadow(ctx, &controlv1.GetShadowRequest{Candidate: true})
	})
	if err := allFailed(errs); err != nil {
		return err
	}
	var found *controlv1.ShadowResponse
	var with []target
	var compared uint64
	for i, r := range got {
		if r == nil {
			continue
		}
		if found == nil {
			found = r
			p.socket = targets[i].socket // what is asked and told from here on
		}
		if r.Shadow.Candidate != found.Shadow.Candidate {
			return fmt.Errorf("%w: nodes compare different candidates: choose one with --node", explain.ErrNotNow)
		}
		with, compared = append(with, targets[i]), compared+r.Shadow.Compared
		if r.Shadow.Ended != "" && !p.force {
			return fmt.Errorf("%w: %s: %s (--force promotes it all the same)", explain.ErrNotNow, targets[i].name, r.Shadow.Ended)
		}
	}
	if compared == 0 && !p.force {
		return fmt.Errorf("%w: the candidate was compared with nothing yet (--force promotes it all the same)", explain.ErrNotNow)
	}
	switch {
	case len(found.File) > 0 && p.key != "":
		return &usageError{errors.New("the candidate is signed already: leave --key out")}
	case len(found.File) > 0:
		err = p.hand(ctx, found.File)
	case len(found.Levels) != 1:
		return fmt.Errorf("%w: the candidate has %d levels, each with a key of its own: publish them one after the other", explain.ErrNotNow, len(found.Levels))
	default:
		err = p.candidate(ctx, found.Levels[0])
	}
	if err != nil {
		return err
	}
	_, errs = answers(with, func(ctx context.Context, t target) (*controlv1.ShadowResponse, error) {
		return t.StopShadow(ctx, &controlv1.StopShadowRequest{})
	})
	return errors.Join(errs...)
}

// candidate signs what a node has compared with.
func (p *publication) candidate(ctx context.Context, l *controlv1.ShadowLevel) error {
	key, next, before, err := p.next(ctx)
	if err != nil {
		return err
	}
	if next.Level != l.Level {
		return &usageError{fmt.Errorf("the key signs %s policy and the candidate is %s: give the key of that level", next.Level, l.Level)}
	}
	next.Content = l.Content
	p.warn(next, before)
	return p.sign(ctx, key, next)
}
