package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

func policyFormatCommand(o *options) *cobra.Command {
	var check, show bool
	c := &cobra.Command{
		Use:   "fmt [DIR]",
		Short: "Lay out the modules of a tree in the one layout of Rego",
		Long: `Fmt rewrites the modules that are not in the one layout, and names them. With
--check it writes nothing and ends with 1 where a module would change; with --diff it
writes nothing and shows what would change. A file that does not parse is reported,
and the others are laid out all the same.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			tree, err := workbench.Open(treeDir(args))
			if err != nil {
				return err
			}
			if tree.Signed && !check && !show {
				return &usageError{fmt.Errorf("%s is signed: lay out the folder that it was made of", tree.Dir)}
			}
			layouts, err := tree.Format()
			if !check && !show {
				for _, l := range layouts {
					err = errors.Join(err, rewrite(l))
				}
			}
			if err == nil || o.format == output.Table { // programs get one document
				if told := tellLayouts(o, layouts, show); told != nil {
					return told
				}
			}
			if err == nil && check && len(layouts) > 0 {
				return &exitCode{explain.Failed}
			}
			return tellPolicyMistakes(o, tree, err)
		},
	}
	c.Flags().BoolVar(&check, "check", false, "only name the modules that would change, and end with 1 if there are any")
	c.Flags().BoolVar(&show, "diff", false, "only show what would change")
	return c
}

// rewrite replaces a module and keeps its mode.
func rewrite(l workbench.Layout) error {
	info, err := os.Stat(l.File)
	if err != nil {
		return err
	}
	return provision.WriteFile(l.File, []byte(l.After), info.Mode().Perm())
}

func tellLayouts(o *options, layouts []workbench.Layout, show bool) error {
	doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{}}
	for _, l := range layouts {
		item := map[string]any{"file": l.File}
		if show {
			item["diff"] = l.Diff()
		}
		b, err := json.Marshal(item)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
	}
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		for _, l := range layouts {
			if show {
				fmt.Fprint(w, l.Diff())
			} else {
				fmt.Fprintln(w, l.File)
			}
		}
	})
}
