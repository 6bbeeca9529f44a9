package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

func policyBenchCommand(o *options) *cobra.Command {
	var inputs string
	var each time.Duration
	c := &cobra.Command{
		Use:   "bench [DIR]",
		Short: "Measure how many decisions a tree makes a second, and what they allocate",
		Long: `Bench asks a tree its own inputs and those of its tests, or those of --inputs, over and
over on one core: with nothing remembered, and with what was answered before. What
else the machine does is in the numbers: repeat, and compare trees side by side.`,
		Example: `  bailiwick policy bench east-policy
  bailiwick policy bench east-policy --inputs yesterday.ndjson --for 10s`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if each < time.Millisecond {
				return &usageError{fmt.Errorf("--for %s: want a millisecond or more", each)}
			}
			return policyBench(cmd.Context(), o, treeDir(args), inputs, each)
		},
	}
	c.Flags().StringVar(&inputs, "inputs", "", "file or folder of inputs, or a log of decisions, to ask instead")
	c.Flags().DurationVar(&each, "for", time.Second, "how long to measure each kind")
	return c
}

// maxBench bounds the questions that are kept in memory to be asked again and again.
const maxBench = 100_000

func policyBench(ctx context.Context, o *options, dir, inputs string, each time.Duration) error {
	tree, err := workbench.Open(dir)
	if err != nil {
		return err
	}
	if _, err := tree.Engine(); err != nil {
		return tellPolicyMistakes(o, tree, err)
	}
	var asked []policy.Input
	if inputs == "" {
		asked, err = tree.Questions(ctx)
	}
	if inputs != "" {
		for q, bad := range workbench.Read(inputs) {
			if err = bad; err != nil || len(asked) >= maxBench {
				break
			}
			asked = append(asked, q.Input)
		}
	}
	if err == nil && len(asked) == 0 {
		err = fmt.Errorf("%w: the tree has neither inputs nor tests that ask anything; give --inputs", workbench.ErrInputs)
	}
	if errors.Is(err, workbench.ErrInputs) {
		return err
	}
	if err != nil {
		return tellPolicyMistakes(o, tree, err)
	}
	found, err := tree.Bench(ctx, asked, each)
	if err != nil {
		return err
	}
	doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{}}
	var rows [][]string
	for _, m := range found {
		b, err := json.Marshal(m)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
		recalled := "-"
		if m.Recalled > 0 {
			recalled = m.Recalled.String()
		}
		rows = append(rows, []string{string(m.Kind), fmt.Sprint(m.Questions), fmt.Sprintf("%.0f", m.PerSecond), m.Each.Round(100 * time.Nanosecond).String(),
			fmt.Sprintf("%.0f", m.Allocations), size(int(m.Bytes)), recalled})
	}
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		output.Columns(w, "KIND QUESTIONS DECISIONS/S EACH ALLOCATIONS MEMORY REMEMBERED", rows)
	})
}
