package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/app"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

const (
	aYear    = 365 * 24 * time.Hour
	fileMode = 0o644 // of what is signed: it holds no secret

	folderMode = 0o755 // of what it is written into
)

func trustCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "trust",
		Short: "What each region is verified with: make it, sign it, move it",
		Long: `A trust record names a region's roots and keys. The global authority signs it, with
k of its n offline keys; nodes believe nothing else, and nobody on first use.

init and sign work on files alone, on a machine without a network. list reads files
too; without a file it asks a node, as export and import do.`,
		Example: `  bailiwick trust init --global global
  bailiwick trust init --region east --trust-domain east.example.org east
  bailiwick trust sign east/east.draft --key global/global.key.pem
  bailiwick trust list east/east.trust`,
	}
	c.AddCommand(trustInitCommand(o), trustSignCommand(o), trustListCommand(o), trustExportCommand(o), trustImportCommand(o), trustApproversCommand(o))
	return c
}

func trustListCommand(o *options) *cobra.Command {
	var keys []string
	var threshold int
	c := &cobra.Command{
		Use:   "list [FILE]",
		Short: "Regions, versions and roots: of a node, or of a file",
		Long: `List tells the newest record of each region that the node knows. At an issuer it
also tells how far the region's own roots are: prepared, active or old, tainted,
and whether the record in force names them yet. ID is what spire-server localauthority
takes as -authorityID.

With FILE it reads drafts and records from there: what nobody has verified is
"unverified". With --global-key it also verifies who signed them: exit code 4 if one
is not signed by enough of them, 1 if one is outside its validity.`,
		Example: `  bailiwick trust list
  bailiwick trust list east.trust --global-key a/global.pem --global-key b/global.pem --threshold 2`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return trustListFile(o, args[0], keys, threshold)
			}
			if len(keys) > 0 {
				return &usageError{errors.New("--global-key is for a FILE; a node has its own")}
			}
			t, err := o.one()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
			defer cancel()
			r, err := t.ListTrust(ctx, &controlv1.ListTrustRequest{})
			if err != nil {
				return t.reached(err)
			}
			return writeItems(o, r.View, r.Items, func(w io.Writer) { trustTable(w, r.Items) })
		},
	}
	c.Flags().StringArrayVar(&keys, "global-key", nil, "verify the signatures with these public keys (PEM; may be repeated)")
	c.Flags().IntVar(&threshold, "threshold", 1, "how many of them must have signed")
	return c
}

func trustListFile(o *options, path string, keys []string, threshold int) error {
	records, err := readRecords(path)
	if err != nil {
		return err
	}
	var items []*controlv1.TrustRecord
	var refused []error
	for _, raw := range records {
		r, n, err := trust.Read(raw)
		if err != nil {
			return err
		}
		m := unverified(r, n)
		items = append(items, m)
		if len(keys) == 0 {
			continue
		}
		global, err := config.PublicKeys("--global-key", keys...)
		if err != nil {
			return err
		}
		now := time.Now()
		if _, err := trust.Verify(raw, global, threshold, now); err != nil {
			refused = append(refused, err)
			continue
		}
		m.State = app.TrustMessage(r, n, now).State
	}
	if err := writeItems(o, nil, items, func(w io.Writer) { trustTable(w, items) }); err != nil {
		return err
	}
	return errors.Join(refused...)
}

// unverified tells what a record says whose signatures nobody has held against a
// global key: it is not to be called valid.
func unverified(r trust.Record, signatures int) *controlv1.TrustRecord {
	m := app.TrustMessage(r, signatures, time.Now())
	if m.State == app.TrustValid {
		m.State = "unverified"
	}
	return m
}

func readRecords(path string) ([][]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	records, err := trust.Cut(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return records, nil
}

// trustTable prints one line a root, and the record's own facts on the first.
func trustTable(w io.Writer, items []*controlv1.TrustRecord) {
	var rows [][]string
	for _, r := range items {
		head := []string{r.Region, r.TrustDomain, fmt.Sprint(r.Version), r.State, fmt.Sprint(r.Signatures), date(r.NotAfter.AsTime())}
		for _, root := range r.Roots {
			id := "-"
			if root.Kind == "svid" {
				id = root.Id
			}
			rows = append(rows, append(head, root.Kind, root.Fingerprint, date(root.NotAfter.AsTime()), rootState(root), id))
			head = []string{"", "", "", "", "", ""}
		}
		rows = append(rows,
			append(head, "authority", r.AuthorityKey, "-", "-", "-"),
			append(head, "policy", r.PolicyKey, "-", "-", "-"))
		for _, key := range r.Approvers {
			rows = append(rows, append(head, fmt.Sprintf("approver, %d of %d", r.Approvals, len(r.Approvers)), key, "-", "-", "-"))
		}
	}
	output.Columns(w, "REGION TRUST_DOMAIN VERSION STATE SIGNATURES UNTIL KEY SHA256 EXPIRES ROTATION ID", rows)
}

func rootState(r *controlv1.TrustRoot) string {
	var words []string
	if r.State != "" {
		words = append(words, r.State)
	}
	if r.Tainted {
		words = append(words, "tainted")
	}
	if r.Unpublished {
		words = append(words, "not in the record")
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, ", ")
}

func date(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func trustExportCommand(o *options) *cobra.Command {
	req := &controlv1.ExportTrustRequest{}
	var valid time.Duration
	c := &cobra.Command{
		Use:   "export FILE",
		Short: "Write trust records of a node to a file, to be imported elsewhere",
		Long: `Export writes the record of the node's own region, or of another or of all, as they
were signed. They need no more protection on their way: importing verifies them.

With --draft an issuer writes the next record of its region, with the roots it has
now, those that are prepared, active and old, beside those of the region's other
issuers. Have it signed with bailiwick trust sign, then import it; only then may a
prepared root be activated.`,
		Example: `  bailiwick trust export regions.trust --all
  bailiwick trust export east.draft --draft`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.All && req.Region != "" || req.Draft && (req.All || req.Region != "") {
				return &usageError{errors.New("--draft, --all and --region exclude each other")}
			}
			req.ValidSeconds = valid.Seconds()
			t, err := o.one()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
			defer cancel()
			r, err := t.ExportTrust(ctx, req)
			if err != nil {
				return t.reached(err)
			}
			if err := os.MkdirAll(filepath.Dir(args[0]), folderMode); err != nil {
				return err
			}
			if err := provision.WriteFile(args[0], r.File, fileMode); err != nil {
				return err
			}
			return writeItems(o, r.View, r.Items, func(w io.Writer) { trustTable(w, r.Items) })
		},
	}
	c.Flags().BoolVar(&req.All, "all", false, "records of all regions the node knows")
	c.Flags().StringVar(&req.Region, "region", "", "record of another region, by its label")
	c.Flags().BoolVar(&req.Draft, "draft", false, "the next record of the issuer's region, to be signed")
	c.Flags().DurationVar(&valid, "valid", aYear, "how long the draft is to be valid")
	_ = c.RegisterFlagCompletionFunc("region", o.completeTrusted)
	return c
}

func trustImportCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "Bring signed trust records to a node: in force at once, and kept",
		Long: `Import verifies every record against the node's global keys and takes in all or
none. A record that is older than the one in force, or contradicts it, is refused.
Links and local workloads have the new roots when the command returns.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			records, err := readRecords(args[0]) // what is no file of records is told without a node
			if err != nil {
				return err
			}
			var file []byte
			for _, r := range records {
				file = append(file, r...)
			}
			t, err := o.one()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
			defer cancel()
			r, err := t.ImportTrust(ctx, &controlv1.ImportTrustRequest{File: file})
			if kind := app.TrustRefusal(err); kind != nil {
				return fmt.Errorf("%s: %w", t.name, refusal{kind, err})
			}
			if err != nil {
				return t.reached(err)
			}
			return writeItems(o, r.View, r.Items, func(w io.Writer) {
				for _, i := range r.Items {
					if i.Changed {
						fmt.Fprintf(w, "region %s (%s): version %d is in force\n", i.Record.Region, i.Record.TrustDomain, i.Record.Version)
					} else {
						fmt.Fprintf(w, "region %s (%s): version %d was in force already\n", i.Record.Region, i.Record.TrustDomain, i.Record.Version)
					}
				}
			})
		},
	}
}

// refusal is what a node said of a record, with the kind that gives it its code.
type refusal struct{ kind, err error }

func (r refusal) Unwrap() error { return r.kind }

func (r refusal) Error() string {
	var wire *connect.Error
	if errors.As(r.err, &wire) {
		return wire.Message()
	}
	return r.err.Error()
}

// completeTrusted completes the labels of the regions that the node knows.
func (o *options) completeTrusted(cmd *cobra.Command, _ []string, _ string) (out []string, _ cobra.ShellCompDirective) {
	if t, err := o.one(); err == nil {
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
		defer cancel()
		if r, err := t.ListTrust(ctx, &controlv1.ListTrustRequest{}); err == nil {
			for _, item := range r.Items {
				out = append(out, item.Region)
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
