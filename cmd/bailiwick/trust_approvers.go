package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// initApprover makes the key of somebody whose approval releases need.
func initApprover(o *options, dir string) error {
	key, err := provision.KeyPair(dir, provision.ApproverKey, provision.ApproverPublic)
	if err != nil {
		return err
	}
	fingerprint, public := provision.KeyFingerprint(&key.PublicKey), filepath.Join(dir, provision.ApproverPublic)
	return o.tell(map[string]any{"key": filepath.Join(dir, provision.ApproverKey), "public_key": public, "sha256": fingerprint},
		fmt.Sprintf("approver's key %s in %s: its holder keeps it, away from every node", fingerprint, filepath.Join(dir, provision.ApproverKey)),
		fmt.Sprintf("name it in the region's next trust record: bailiwick trust approvers DRAFT --approver %s", public))
}

func trustApproversCommand(o *options) *cobra.Command {
	var keys []string
	var threshold int
	var none bool
	c := &cobra.Command{
		Use:   "approvers DRAFT {--approver PUBLIC_KEY ... --threshold K | --none}",
		Short: "Say in a region's next trust record whose approval releases from quarantine need",
		Long: `Approvers writes into the draft of a trust record, which nobody has signed yet, that
a release from quarantine needs the approval of K of these keys, beside the signature of
the region's authority. Once the global keys have signed the record and it is imported,
every node of the region refuses a release with fewer, so that whoever steals the
authority's key lets nobody back in. Only a newer record can change it. With --none the
authority decides alone again.

A release that came before it is no release for a node that reads it anew then: release
again who is to stay in.`,
		Example: `  bailiwick trust init --approver ann
  bailiwick trust export east.draft --draft
  bailiwick trust approvers east.draft --approver ann/approver.pem --approver bob/approver.pem --threshold 2
  bailiwick trust sign east.draft --key global/global.key.pem
  bailiwick trust import east.trust`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if none == (len(keys) > 0) || none && cmd.Flags().Changed("threshold") {
				return &usageError{errors.New("give --approver PUBLIC_KEY (may be repeated) with --threshold K, or --none")}
			}
			records, err := readRecords(args[0])
			if err != nil {
				return err
			}
			if len(records) != 1 {
				return fmt.Errorf("%w: %s holds %d records, want one draft", trust.ErrMalformed, args[0], len(records))
			}
			r, signatures, err := trust.Read(records[0])
			if err != nil {
				return err
			}
			if signatures > 0 {
				return &usageError{fmt.Errorf("%s is signed already, and what it says cannot be changed: start from a draft (bailiwick trust export FILE --draft)", args[0])}
			}
			r.Approvers = trust.Approvers{}
			if !none {
				r.Approvers.Threshold = threshold
				if r.Approvers.Keys, err = config.PublicKeys("--approver", keys...); err != nil {
					return err
				}
			}
			b, err := trust.Draft(r)
			if err != nil {
				return err
			}
			if err := provision.WriteFile(args[0], b, fileMode); err != nil {
				return err
			}
			items := []*controlv1.TrustRecord{unverified(r, 0)}
			return writeItems(o, nil, items, func(w io.Writer) { trustTable(w, items) })
		},
	}
	f := c.Flags()
	f.StringArrayVar(&keys, "approver", nil, "public key of an approver (PEM; may be repeated)")
	f.IntVar(&threshold, "threshold", 1, "how many of them have to approve a release")
	f.BoolVar(&none, "none", false, "the authority decides alone")
	return c
}
