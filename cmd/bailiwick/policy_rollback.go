package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/governing"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

func policyRollbackCommand(o *options) *cobra.Command {
	p := publication{options: o}
	var to uint64
	c := &cobra.Command{
		Use:   "rollback [FILE] --key KEY",
		Short: "Publish an older policy again, as a new version",
		Long: `Rollback signs the content of the policy that was in force before as the next version,
and hands it to a node as publish does. Versions only grow, so that nobody can bring back
an old policy by playing it again. Where the newest version is staged or stopped, what is
in force comes back to all, and the rollout is over.

It takes what the node that it asks enforced itself, never a version whose rollout was
stopped there or that only waited. A node holds the two newest versions of a scope, the
one in force and the one before that; --to names any of them. One that was never in force
or was stopped needs --force.

With FILE it takes the content from that policy file. With --out it asks no node, and
--after names the newest version.`,
		Example: `  bailiwick policy rollback --key east/policy.key.pem --change "orders broke"
  bailiwick policy rollback region-7.policy --key east/policy.key.pem --after region-8.policy --out region.policy`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if p.out != "" && (len(args) == 0 || p.after == "") {
				return &usageError{errors.New("--out needs FILE, whose content to take, and --after FILE, the newest version")}
			}
			return p.rollback(cmd.Context(), args, to)
		},
	}
	p.flags(c)
	c.Flags().Uint64Var(&to, "to", 0, "the version whose content to take (default: the last that was in force before)")
	c.Flags().BoolVar(&p.force, "force", false, "take also one that the node stopped, or that was never in force there")
	return c
}

// rollback asks what is held, has it decided, and signs.
func (p *publication) rollback(ctx context.Context, args []string, to uint64) error {
	key, next, held, err := p.next(ctx)
	if err != nil {
		return err
	}
	var given *bundle.Loaded
	if len(args) == 1 {
		file, err := bundle.Load(args[0])
		if err != nil {
			return err
		}
		given = &file
	}
	if next, p.about, err = fallBack(next, held, given, to, p.force); err != nil {
		return err
	}
	return p.sign(ctx, key, next)
}

// fallBack decides what a rollback publishes: next, with the content of an older version, which is that
// of a file that was given, or of what is held, newest first. about says it in words.
func fallBack(next provision.Policy, held []*controlv1.SignedPolicy, given *bundle.Loaded, to uint64, force bool) (_ provision.Policy, about string, err error) {
	if len(held) == 0 {
		return next, "", fmt.Errorf("%w: the node holds no policy that this key signed", explain.ErrNotThere)
	}
	newest, err := bundle.Take(held[0].File)
	if err != nil {
		return next, "", err
	}
	if given == nil {
		chosen, err := goBack(held, to)
		if err != nil {
			return next, "", err
		}
		older, err := bundle.Take(chosen.File)
		if err != nil {
			return next, "", err
		}
		given = &older
	}
	r := given.Record
	if to != 0 && r.Version != to {
		return next, "", &usageError{fmt.Errorf("the file is version %d, and --to names %d", r.Version, to)}
	}
	if r.Level != next.Level || r.Scope != next.Scope {
		return next, "", &usageError{fmt.Errorf("it is %s policy of %s, and the key signs %s policy of %s", r.Level, r.Scope, next.Level, next.Scope)}
	}
	if err := untried(held, fmt.Sprintf("%x", r.Digest)); err != nil && !force {
		return next, "", &usageError{err}
	}
	next.Content = given.Content
	if next.Change == "" {
		next.Change = fmt.Sprintf("rollback to version %d", r.Version)
	}
	return next, fmt.Sprintf("version %d: content of version %d, in place of %d", next.Version, r.Version, newest.Record.Version), nil
}

// goBack chooses of what a node holds, newest first: a version by its number or, for 0, what is in
// force where the newest is not, and else the last of another content that was.
func goBack(held []*controlv1.SignedPolicy, to uint64) (*controlv1.SignedPolicy, error) {
	var current *controlv1.SignedPolicy
	for _, m := range held {
		switch {
		case to != 0:
			if m.Version == to {
				return m, nil
			}
		case m.State == governing.StateInForce:
			if current = m; m != held[0] {
				return m, nil
			}
		case m.State == governing.StateWasBefore && current != nil && m.Digest != current.Digest:
			return m, nil
		}
	}
	if to != 0 {
		return nil, fmt.Errorf("%w: the node does not hold version %d: give its file", explain.ErrNotThere, to)
	}
	return nil, fmt.Errorf("%w: the node holds no version of another content that was in force there before: name one with --to, or give its file", explain.ErrNotThere)
}

// untried reports why a content should not be brought back: the node knows it only from versions
// that were stopped, or never in force.
func untried(held []*controlv1.SignedPolicy, digest string) (err error) {
	for _, m := range held {
		switch {
		case m.Digest != digest:
		case m.State == governing.StateStopped:
			err = fmt.Errorf("version %d was stopped on the node: %s (--force brings it back all the same)", m.Version, m.Reason)
		case m.State == governing.StateStaged:
			err = fmt.Errorf("version %d was never in force on the node (--force takes it all the same)", m.Version)
		default:
			return nil
		}
	}
	return err
}
