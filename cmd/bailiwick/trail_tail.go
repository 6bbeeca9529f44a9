package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

// tailing is one use of trail tail.
type tailing struct {
	count  int
	follow bool
	filter audit.Filter
}

func trailTailCommand(o *options) *cobra.Command {
	var t tailing
	c := &cobra.Command{
		Use:   "tail [DIR]",
		Short: "Print the newest leaves of a trail, and those that come",
		Long: `Tail prints the newest leaves, and with --follow those that come, as soon as they are under
a signed head. The filters go together; of the newest leaves, those that pass are printed.
With -o json and --follow each leaf is a line. Nothing is verified; that is for trail verify.`,
		Example: `  bailiwick trail tail --node east-n1 -n 20
  bailiwick trail tail --node east-n1 --follow --kind peer --kind decision.deny
  bailiwick trail tail --node east-n1 -n 1000 --subject spiffe://east.dev.example/workload/shop`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if t.count < 1 {
				return &usageError{fmt.Errorf("--count %d: want 1 or more", t.count)}
			}
			src, err := trailOf(o, args, "", "spiffe://any.example/any")
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return t.run(ctx, o, src.dir)
		},
	}
	f := c.Flags()
	f.IntVarP(&t.count, "count", "n", 10, "how many leaves")
	f.BoolVarP(&t.follow, "follow", "f", false, "go on with the leaves that come")
	f.StringSliceVar(&t.filter.Kinds, "kind", nil, "only leaves of this kind, or of all kinds that begin so (peer)")
	f.StringVar(&t.filter.Subject, "subject", "", "only leaves that name this ID, service or digest")
	f.StringVar(&t.filter.Text, "text", "", "only leaves in whose words this stands")
	_ = c.RegisterFlagCompletionFunc("kind", completeKinds)
	return c
}

func completeKinds(*cobra.Command, []string, string) (out []string, _ cobra.ShellCompDirective) {
	for _, k := range trail.Kinds() {
		out = append(out, k.Name()+"\t"+k.About())
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (t tailing) run(ctx context.Context, o *options, dir string) error {
	from, err := audit.Follow(dir, uint64(t.count))
	if err != nil {
		return err
	}
	all, err := t.more(ctx, from)
	if err != nil {
		return err
	}
	if !t.follow {
		return t.document(o, dir, all)
	}
	tick := time.NewTicker(tableEvery)
	defer tick.Stop()
	for {
		for _, f := range all {
			err := output.Line(o.out, o.format, f, func(w io.Writer) { fmt.Fprintln(w, strings.Join(factRow(f), "  ")) })
			if err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if all, err = t.more(ctx, from); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// more is what has come since, and passes.
func (t tailing) more(ctx context.Context, from *audit.Follower) (out []fact.Fact, err error) {
	all, err := from.More(ctx)
	for _, f := range all {
		if t.filter.Passes(f) {
			out = append(out, f)
		}
	}
	return out, err
}

func (t tailing) document(o *options, dir string, all []fact.Fact) error {
	epochs, err := trail.Epochs(dir)
	if err != nil {
		return err
	}
	genesis, err := trail.ReadGenesis(trail.EpochDir(dir, epochs[len(epochs)-1]))
	if err != nil {
		return err
	}
	return o.facts(genesis.Node, all, func(w io.Writer) {
		var rows [][]string
		for _, f := range all {
			rows = append(rows, factRow(f))
		}
		output.Columns(w, "LEAF AT KIND WHAT", rows)
	})
}

func factRow(f fact.Fact) []string {
	body, err := json.Marshal(f.Body)
	if err != nil {
		body = []byte(err.Error())
	}
	body = content.ReplaceAll(body, []byte("$1..."))
	return []string{fmt.Sprint(f.Index), f.At.UTC().Format(time.RFC3339), f.Kind, string(body)}
}

// content is what is no digest but a certificate or the like: people see its beginning.
var content = regexp.MustCompile(`([0-9a-f]{32})[0-9a-f]{97,}`)

// facts prints facts: text for people, and each as an item of a document for programs.
func (o *options) facts(viewOf string, all []fact.Fact, table func(io.Writer)) error {
	doc := output.Document{AsOf: time.Now().UTC(), ViewOf: viewOf, Items: []json.RawMessage{}}
	for _, f := range all {
		b, err := json.Marshal(f)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
	}
	return output.Write(o.out, o.format, doc, table)
}
