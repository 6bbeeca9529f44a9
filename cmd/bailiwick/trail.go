package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/app"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/dev"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

func trailCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "trail", Short: "The node's tamper-evident record, read offline"}
	c.AddCommand(trailVerifyCommand(o), trailTailCommand(o))
	return c
}

// trailSource is where a trail is and whose it must be.
type trailSource struct {
	dir    string
	node   spiffeid.ID
	config string // of the node, for its trust records; empty: unknown
}

func trailVerifyCommand(o *options) *cobra.Command {
	var configPath, node string
	c := &cobra.Command{
		Use:   "verify [DIR]",
		Short: "Walk a trail offline: signatures, chain, checkpoint, two verdicts",
		Long: `Verify reads a trail's files and nothing else: no node need run, no network is
used. Integrity: these are the leaves that the node's trail key signed.
Completeness: none is missing between them. With --node it takes the trail of a
node of the dev fleet; otherwise DIR is a node's <state>/trail, and --id or
--config says whose it must be. With a configuration, the trail key is also
checked against the issuer's endorsement under the region's trust record.

Exit code 1 means that a verdict is not good.`,
		Example: `  bailiwick trail verify --node east-n1
  bailiwick trail verify /var/lib/bailiwick/trail --config /etc/bailiwick/bailiwick.yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := trailOf(o, args, configPath, node)
			if err != nil {
				return err
			}
			return trailVerify(cmd.Context(), o, src)
		},
	}
	c.Flags().StringVar(&configPath, "config", "", "configuration of the node, for its trust records")
	c.Flags().StringVar(&node, "id", "", "SPIFFE ID of the node whose trail it must be")
	return c
}

func trailOf(o *options, args []string, configPath, id string) (trailSource, error) {
	var src trailSource
	if len(args) == 1 {
		src.dir = args[0]
	}
	if o.node != "" {
		f, err := dev.Find(".")
		if err != nil {
			return src, err
		}
		n, err := f.Node(o.node)
		if err != nil {
			return src, err
		}
		configPath, src.dir = n.Config, filepath.Join(n.StateDir(), "trail")
	}
	if configPath != "" {
		c, err := config.Load(configPath)
		if err != nil {
			return src, err
		}
		src.config, src.node = configPath, c.Node
		if src.dir == "" {
			src.dir = filepath.Join(string(c.State), "trail")
		}
	}
	if id != "" {
		parsed, err := spiffeid.FromString(id)
		if err != nil {
			return src, &usageError{fmt.Errorf("--id: %w", err)}
		}
		src.node = parsed
	}
	if src.dir == "" || src.node.IsZero() {
		return src, &usageError{errors.New("say whose trail: --node NAME, or DIR with --id or --config")}
	}
	return src, nil
}

// verified is one epoch's report, with what its endorsement adds.
type verified struct {
	trail.Report
	Endorsed string `json:"endorsed"` // by whom the trail key is endorsed, or why not
}

func trailVerify(ctx context.Context, o *options, src trailSource) error {
	epochs, err := trail.Epochs(src.dir)
	if err != nil {
		return err
	}
	if len(epochs) == 0 {
		return fmt.Errorf("%w: %s", trail.ErrNoTrail, src.dir)
	}
	doc := output.Document{AsOf: time.Now().UTC(), ViewOf: src.node.String()}
	var reports []verified
	good := true
	say := progress(o.err)
	for _, e := range epochs {
		dir := trail.EpochDir(src.dir, e)
		began := time.Now()
		r, err := trail.Verify(ctx, dir, trail.Options{Node: src.node, Progress: func(done, total uint64) {
			if since := time.Since(began); since > time.Second {
				say(fmt.Sprintf("epoch %d: %d of %d leaves, %.0f/s", e, done, total, float64(done)/since.Seconds()))
			}
		}})
		say("")
		if err != nil {
			return err
		}
		v := verified{Report: r, Endorsed: app.TrailEndorsement(src.config, dir)}
		good = good && r.Good()
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		reports, doc.Items = append(reports, v), append(doc.Items, b)
	}
	if err := output.Write(o.out, o.format, doc, func(w io.Writer) { trailText(w, reports) }); err != nil {
		return err
	}
	if !good {
		return &exitCode{explain.Failed}
	}
	return nil
}

func trailText(w io.Writer, reports []verified) {
	for _, r := range reports {
		fmt.Fprintf(w, "trail %s\n", r.Origin)
		fmt.Fprintf(w, "  integrity     %s\n", r.Integrity)
		fmt.Fprintf(w, "  completeness  %s\n", r.Completeness)
		fmt.Fprintf(w, "  checkpoint    %d leaves, root %.16s..., %s to %s\n", r.Size, r.Root, r.First.Format(time.RFC3339), r.Last.Format(time.RFC3339))
		fmt.Fprintf(w, "  trail key     kept in %s; %s\n", r.Protection, r.Endorsed)
		if r.Unwitnessed {
			fmt.Fprintln(w, "  witnesses     none: the head binds the node, but another head could have been shown elsewhere")
		}
		if r.Lost > 0 {
			fmt.Fprintf(w, "  lost          %d events, admitted by gap leaves\n", r.Lost)
		}
	}
}

func trailTailCommand(o *options) *cobra.Command {
	var count int
	c := &cobra.Command{
		Use:     "tail [DIR]",
		Short:   "Print the newest leaves of a trail",
		Example: `  bailiwick trail tail --node east-n1 -n 20`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 1 {
				return &usageError{fmt.Errorf("--count %d: want 1 or more", count)}
			}
			src, err := trailOf(o, args, "", "spiffe://any.example/any")
			if err != nil {
				return err
			}
			return trailTail(cmd.Context(), o, src.dir, count)
		},
	}
	c.Flags().IntVarP(&count, "count", "n", 10, "how many leaves")
	return c
}

// bodyText is the body of a leaf in a document, on one line.
func bodyText(leaf json.RawMessage) string {
	var l struct {
		Body json.RawMessage `json:"body"`
	}
	_ = json.Unmarshal(leaf, &l) // we wrote it ourselves
	return string(l.Body)
}

func trailTail(ctx context.Context, o *options, dir string, count int) error {
	epochs, err := trail.Epochs(dir)
	if err != nil {
		return err
	}
	if len(epochs) == 0 {
		return fmt.Errorf("%w: %s", trail.ErrNoTrail, dir)
	}
	dir = trail.EpochDir(dir, epochs[len(epochs)-1])
	leaves, err := trail.Tail(ctx, dir, count)
	if err != nil {
		return err
	}
	genesis, err := trail.ReadGenesis(dir)
	if err != nil {
		return err
	}
	doc := output.Document{AsOf: time.Now().UTC(), ViewOf: genesis.Node}
	for _, l := range leaves {
		b, err := json.Marshal(l)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
	}
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		var rows [][]string
		for i, l := range leaves {
			rows = append(rows, []string{fmt.Sprint(l.Index), l.At.UTC().Format(time.RFC3339), l.Kind, bodyText(doc.Items[i])})
		}
		output.Columns(w, "LEAF AT KIND WHAT", rows)
	})
}
