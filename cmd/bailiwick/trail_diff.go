package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

func trailDiffCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "diff A B",
		Short: "Where the trails of two nodes tell different things",
		Long: `Diff compares the newest word of two nodes' trails on the same things: the standing of each
identity, evidence, the policy in force, trust records, and the records of others that
both took. Two different records of one number are two stories of their origin. What is on
its way shows until it has arrived. A and B are folders, or names of nodes of the dev fleet.

Exit code 5 means that there is a difference.`,
		Example:           `  bailiwick trail diff east-n1 east-n2`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			var dirs []string
			for _, a := range args {
				named := *o
				var folder []string
				if isDir(a) {
					folder = []string{a}
				} else {
					named.node = a
				}
				got, err := named.trailDirs(folder, "")
				if err != nil {
					return err
				}
				dirs = append(dirs, got...)
			}
			found, err := audit.Diff(cmd.Context(), dirs[0], dirs[1])
			if err != nil {
				return err
			}
			return o.differences(args, found)
		},
	}
}

func (o *options) differences(names []string, found []audit.Difference) error {
	doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{}}
	var rows [][]string
	for _, d := range found {
		b, err := json.Marshal(d)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
		rows = append(rows, []string{d.About, side(d.A), side(d.B)})
	}
	err := output.Write(o.out, o.format, doc, func(w io.Writer) {
		if len(found) == 0 {
			fmt.Fprintf(w, "%s and %s agree\n", names[0], names[1])
			return
		}
		output.Columns(w, "ABOUT "+names[0]+" "+names[1], rows)
	})
	if err == nil && len(found) > 0 {
		return &exitCode{explain.Degraded}
	}
	return err
}

func side(f *fact.Fact) string {
	if f == nil {
		return "nothing"
	}
	return fmt.Sprintf("#%d %s", f.Index, f.Text)
}
