package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/replay"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

func policyReplayCommand(o *options) *cobra.Command {
	var from, dir string
	var op replay.Options
	c := &cobra.Command{
		Use:   "replay",
		Short: "Ask a policy again what was decided before, and show what it decides otherwise",
		Long: `Replay takes recorded decisions and asks them again of the policy in a working tree:
what would have been refused, or let through, had it been in force. Differences are
grouped by the rule that decided then and the one that decides now. It changes nothing
and needs no node.

--from is a node's state folder or the folder decisions in it, or a file that bailiwick
trail export --format opa wrote. Without it the node that --node chooses, or this
machine's, is asked for what it has.

What cannot be asked again is counted: masked (a masking rule took a part of the
input), unasked (the node refused by itself), no input.

Exit codes: 0 no answer changes, 1 failed, 2 usage, 5 some answer changes.`,
		Example: `  bailiwick policy replay --from /var/lib/bailiwick --policy ./east
  bailiwick policy replay --node east-n1 --policy ./east -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return policyReplay(cmd.Context(), o, from, dir, op) },
	}
	c.Flags().StringVar(&from, "from", "", "recorded decisions: a state folder, a folder of segments, or an export")
	c.Flags().StringVar(&dir, "policy", ".", "working tree with the policy to ask")
	c.Flags().IntVar(&op.Examples, "examples", 3, "decisions shown of each group")
	c.Flags().IntVar(&op.Workers, "workers", 0, "decisions asked at once (default: one for each core)")
	return c
}

// replayGC lets garbage grow to four times what is in use before it is collected: a fifth more
// decisions in a second, for some 40 MB.
const replayGC = 400

func policyReplay(ctx context.Context, o *options, from, dir string, op replay.Options) error {
	switch {
	case op.Examples < 1:
		return &usageError{fmt.Errorf("--examples %d: want 1 or more", op.Examples)}
	case op.Workers < 0:
		return &usageError{fmt.Errorf("--workers %d: want 1 or more, or 0 for one for each core", op.Workers)}
	}
	engine, tree, err := treeEngine(dir)
	if err != nil {
		return err
	}
	path, err := o.recorded(ctx, from)
	if err != nil {
		return err
	}
	defer debug.SetGCPercent(debug.SetGCPercent(replayGC))
	say, began := progress(o.err), time.Now()
	op.Progress = func(done int64) {
		if since := time.Since(began); since > time.Second {
			say(fmt.Sprintf("%d decisions, %.0f/s", done, float64(done)/since.Seconds()))
		}
	}
	r, err := replay.Run(ctx, decision.Lines(path), engine, op)
	say("")
	if errors.Is(err, decision.ErrEvent) {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err != nil {
		return err
	}
	for i := range r.Groups {
		r.Groups[i].Now.File = placed(tree, r.Groups[i].Now.File)
	}
	shipped := shippedLevels(tree)
	item, err := json.Marshal(struct {
		replay.Report
		Shipped []string `json:"shipped_levels"` // that stood in for those the tree does not have
	}{r, shipped})
	if err != nil {
		return err
	}
	doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{item}}
	if err := output.Write(o.out, o.format, doc, func(w io.Writer) {
		standIns(w, dir, shipped)
		replayText(w, path, r)
	}); err != nil {
		return err
	}
	if r.Changed > 0 {
		return &exitCode{explain.Degraded}
	}
	return nil
}

// treeEngine asks the policy of a tree and remembers nothing.
func treeEngine(dir string) (*policy.Engine, *workbench.Tree, error) {
	tree, err := workbench.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	levels := make([]policy.Level, len(tree.Levels))
	for i, l := range tree.Levels {
		levels[i] = l.Level
	}
	engine := policy.New(policy.Config{Cache: -1, Unrecorded: true})
	return engine, tree, mistaken(tree, engine.Activate(levels...))
}

// shippedLevels are those that a tree does not have, and that the ones of this binary stand in for.
func shippedLevels(t *workbench.Tree) []string {
	out := []string{}
	for _, l := range t.Levels {
		if l.Shipped() {
			out = append(out, l.Name)
		}
	}
	return out
}

// standIns says that answers may not be those of the fleet.
func standIns(w io.Writer, dir string, shipped []string) {
	for _, name := range shipped {
		fmt.Fprintf(w, "%s has no %s level: the one that ships with bailiwick stood in, not that of your fleet (put yours beside as %s)\n\n", dir, name, name)
	}
}

// placed is the file of a rule where it is one of the tree's.
func placed(t *workbench.Tree, file string) string {
	if file == "" {
		return ""
	}
	return t.Path(file)
}

func replayText(w io.Writer, path string, r replay.Report) {
	fmt.Fprintf(w, "%d decisions of %s, %d asked again in %s (%.0f/s)\n", r.Read, path, r.Replayed, output.Span(time.Duration(r.Seconds*float64(time.Second))), r.Rate)
	if len(r.Skipped) > 0 {
		var parts []string
		for why, n := range r.Skipped {
			parts = append(parts, fmt.Sprintf("%d %s", n, why))
		}
		slices.Sort(parts)
		fmt.Fprintf(w, "not asked again: %s\n", strings.Join(parts, ", "))
	}
	if r.Changed == 0 {
		fmt.Fprintln(w, "\nno answer changes")
	} else {
		fmt.Fprintf(w, "\n%d answers change: %d that were denied are allowed, %d that were allowed are denied", r.Changed, r.Opened, r.Closed)
		if grants := r.Changed - r.Opened - r.Closed; grants > 0 {
			fmt.Fprintf(w, ", %d grants of state are others", grants)
		}
		fmt.Fprintln(w)
	}
	told := true
	for _, g := range r.Groups {
		if !g.Changed && told {
			fmt.Fprintf(w, "\n%d have the same answer by another rule\n", r.ByOthers)
			told = false
		}
		replayGroup(w, g)
	}
}

func replayGroup(w io.Writer, g replay.Group) {
	fmt.Fprintf(w, "\n%6d  %s  %s -> %s", g.Count, g.Kind, answerText(g.Was), answerText(g.Now))
	if g.Now.File != "" {
		fmt.Fprintf(w, "  (%s:%d)", g.Now.File, g.Now.Line)
	}
	fmt.Fprintln(w)
	for _, e := range g.Examples {
		fmt.Fprintf(w, "        %.12s  %s  %s", e.ID, e.At.UTC().Format(time.RFC3339), cmp.Or(e.Source, "-"))
		if e.Target != "" {
			fmt.Fprintf(w, " -> %s", e.Target)
		}
		fmt.Fprintln(w)
	}
}

func answerText(a replay.Answer) string {
	word := "deny"
	if a.Allow {
		word = "allow"
	}
	if a.Level == "" {
		return fmt.Sprintf("%s (%s)", word, a.Rule)
	}
	return fmt.Sprintf("%s (%s %s)", word, a.Level, a.Rule)
}
