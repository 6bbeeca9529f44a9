package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

// releasing is one run of quarantine release.
type releasing struct {
	*options
	req       controlv1.ReleaseRequest
	keys      []string // approvers whose keys are at hand
	out, file string   // of a draft
	within    time.Duration
}

func quarantineReleaseCommand(o *options) *cobra.Command {
	r := releasing{options: o}
	c := &cobra.Command{
		Use:   "release {ID --reason TEXT | --file FILE}",
		Short: "Let a node back in, signed by the region's authority (ask the authority's node)",
		Long: `Release lets a node back in that is quarantined. The region's authority signs it: ask the
authority's node. The node goes on in a new epoch, for which its machine is quoted afresh,
and has the limits of class probation for an hour. One that was released before and is
convicted again needs --again. Where ID is that of a record that status shows as parked,
it has the node that is asked try that record again; nobody signs anything.

Where the region's trust record names approvers, a release needs theirs too. With --key it
is approved on the spot, with the keys that are at hand. Otherwise --out writes a draft;
each approver adds a signature, with no network (quarantine sign), and --file hands it in.
A draft lasts --within, and no longer than the node's case is as it was.`,
		Example: `  bailiwick quarantine release 157b041928bf --reason "its disk image ran twice"
  bailiwick quarantine release 157b041928bf --again --reason "the clone is found and gone"
  bailiwick quarantine release --node east-n2 1f0c53a0be77 --reason "policy 12 mends it"

  bailiwick quarantine release 157b041928bf --reason "its disk image ran twice" --out edge-7.release
  bailiwick quarantine sign edge-7.release --key ann/approver.key.pem
  bailiwick quarantine sign edge-7.release --key bob/approver.key.pem
  bailiwick quarantine release --file edge-7.release`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case r.file != "" && (len(args) > 0 || r.req.Reason != "" || r.out != "" || len(r.keys) > 0 || r.req.Again):
				return &usageError{errors.New("--file FILE says everything there is to say: give nothing else")}
			case r.file != "":
				return r.handIn(cmd.Context())
			case len(args) == 0:
				return &usageError{errors.New("give the ID of a case with --reason TEXT, or a draft with --file FILE")}
			case r.req.Reason == "":
				return &usageError{errReason}
			case r.out != "" && len(r.keys) > 0:
				return &usageError{errors.New("--key approves on the spot, --out leaves it to others: give one of them")}
			}
			if r.within < 0 || r.within > mostToApprove {
				return &usageError{fmt.Errorf("--within %s: want at most %s", r.within, mostToApprove)}
			}
			r.req.Id = args[0]
			return r.run(cmd.Context())
		},
	}
	f := c.Flags()
	f.StringVar(&r.req.Reason, "reason", "", "root cause, kept in the signed release (required)")
	f.BoolVar(&r.req.Again, "again", false, "although it was released before; the reason says why it happens")
	f.StringArrayVar(&r.keys, "key", nil, "private key of an approver, to approve on the spot (may be repeated)")
	f.StringVar(&r.out, "out", "", "write a draft for the region's approvers, and decide nothing")
	f.DurationVar(&r.within, "within", 24*time.Hour, "of a draft: how long approvers may take; probation ends an hour after that")
	f.StringVar(&r.file, "file", "", "hand in a draft that the approvers have signed")
	return c
}

const mostToApprove = 7 * 24 * time.Hour // nodes hold themselves to it

// run releases at once, or writes a draft.
func (r *releasing) run(ctx context.Context) error {
	if r.out == "" && len(r.keys) == 0 {
		return r.ask(ctx, r.req.Id)
	}
	r.req.Draft = true
	if r.out != "" {
		r.req.WithinSeconds = int64(r.within / time.Second)
	}
	got, err := r.call(ctx)
	if err != nil {
		return err
	}
	d, err := authority.ParseDraft(got.Draft)
	if err != nil {
		return err
	}
	if r.out != "" {
		return writeDraft(r.options, r.out, d, got.View)
	}
	for _, path := range r.keys {
		key, err := keyfile.OpenExisting(path)
		if err != nil {
			return err
		}
		if d, err = d.Approve(key); err != nil {
			return err
		}
	}
	return r.decide(ctx, d, r.req.Id)
}

// handIn has the authority decide on a draft that approvers have signed.
func (r *releasing) handIn(ctx context.Context) error {
	d, err := readDraft(r.file)
	if err != nil {
		return err
	}
	return r.decide(ctx, d, d.Release.Accused.String())
}

func (r *releasing) decide(ctx context.Context, d authority.Draft, id string) error {
	b, err := d.Encode()
	if err != nil {
		return err
	}
	r.req = controlv1.ReleaseRequest{Approved: b}
	return r.ask(ctx, id)
}

func (r *releasing) call(ctx context.Context) (*controlv1.ReleaseResponse, error) {
	t, err := r.one()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	got, err := t.Release(ctx, &r.req)
	if err != nil {
		return nil, t.reached(err)
	}
	return got, nil
}

// ask has it decided, and tells what became of whom.
func (r *releasing) ask(ctx context.Context, id string) error {
	got, err := r.call(ctx)
	if err != nil {
		return err
	}
	return output.Write(r.options.out, r.format, decided(got.View, id, got.Standing), func(w io.Writer) {
		if got.Standing == "unparked" {
			fmt.Fprintf(w, "record %s is tried again at %s\n", id, shortID(got.View.ViewOf))
			return
		}
		fmt.Fprintf(w, "case %s: standing is now %s, signed by the authority at %s\n", id, got.Standing, shortID(got.View.ViewOf))
	})
}

func quarantineSignCommand(o *options) *cobra.Command {
	var key string
	c := &cobra.Command{
		Use:   "sign FILE --key KEY",
		Short: "Approve the draft of a release, as one of the region's approvers, with no network",
		Long: `Sign adds an approver's signature to a draft that quarantine release --out wrote, and shows
what it says. Read that first: whom it lets back in, and why. A signature is over all of it,
and good for nothing else. Without --key nothing is signed. The key is one that the
region's trust record names (trust approvers); one that has signed already adds nothing.`,
		Example: `  bailiwick quarantine sign edge-7.release                              # read it
  bailiwick quarantine sign edge-7.release --key ann/approver.key.pem`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			d, err := readDraft(args[0])
			if err != nil {
				return err
			}
			if key == "" {
				return tellDraft(o, d, nil, fmt.Sprintf("%s: %d signatures", args[0], d.Approvals()))
			}
			secret, err := keyfile.OpenExisting(key)
			if err != nil {
				return err
			}
			if d, err = d.Approve(secret); err != nil {
				return err
			}
			return writeDraft(o, args[0], d, nil)
		},
	}
	c.Flags().StringVar(&key, "key", "", "the approver's private key; without it the draft is only shown")
	return c
}

func readDraft(path string) (authority.Draft, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return authority.Draft{}, err
	}
	d, err := authority.ParseDraft(b)
	if err != nil {
		return d, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

func writeDraft(o *options, path string, d authority.Draft, v *controlv1.View) error {
	b, err := d.Encode()
	if err != nil {
		return err
	}
	if err := provision.WriteFile(path, b, fileMode); err != nil {
		return err
	}
	return tellDraft(o, d, v, fmt.Sprintf("%s: %d signatures; when there are enough: bailiwick quarantine release --file %s", path, d.Approvals(), path))
}

// tellDraft shows all that an approver signs.
func tellDraft(o *options, d authority.Draft, v *controlv1.View, last string) error {
	r := d.Release
	lines := []string{
		fmt.Sprintf("release of %s", r.Accused),
		fmt.Sprintf("  drafted %s: %q", r.At.Format(time.RFC3339), r.Reason),
		fmt.Sprintf("  from epoch %d, on probation until %s, when the draft is over too", r.Epoch, r.Until.Format(time.RFC3339)),
	}
	if r.Again {
		lines = append(lines, "  it was released before")
	}
	for _, digest := range r.Digests {
		lines = append(lines, fmt.Sprintf("  answers proof %x", digest[:8]))
	}
	if v != nil {
		lines = append([]string{headline(v)}, lines...)
	}
	return o.tell(map[string]any{
		"release": r.Accused.String(), "reason": r.Reason, "epoch": r.Epoch, "until": r.Until, "drafted": r.At, "again": r.Again,
		"proofs": len(r.Digests), "signatures": d.Approvals(),
	}, append(lines, last)...)
}
