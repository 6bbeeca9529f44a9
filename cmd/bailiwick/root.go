package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

// options are the flags every verb has.
type options struct {
	format output.Format
	socket string
	node   string
	out    io.Writer
	err    io.Writer
}

// execute runs one command line and returns the exit code: 0 ok, 1 failed,
// 2 usage, 3 unreachable, 4 denied, 5 degraded.
func execute(args []string, out, errOut io.Writer) int {
	o := &options{format: output.Table, out: out, err: errOut}
	root := newRoot(o)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	ran, err := root.ExecuteC()
	if err == nil {
		return explain.OK
	}
	var usage *usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") {
		fmt.Fprintf(errOut, "bailiwick: %s%s\nSee: %s --help\n", strings.TrimSpace(err.Error()), meant(ran, err.Error()), ran.CommandPath())
		return explain.Usage
	}
	if wrong := (*treeMistakes)(nil); errors.As(err, &wrong) {
		err = tellPolicyMistakes(o, wrong.tree, wrong.error)
	}
	var quiet *exitCode
	if errors.As(err, &quiet) {
		return quiet.code
	}
	explain.Print(errOut, err)
	return explain.Exit(err)
}

// meant is what a wrong command line most likely should have been, or nothing.
func meant(ran *cobra.Command, said string) string {
	if typed, ok := strings.CutPrefix(said, "unknown command "); ok && !strings.Contains(said, "Did you mean") {
		typed, _, _ = strings.Cut(strings.TrimPrefix(typed, `"`), `"`)
		ran.SuggestionsMinimumDistance = 2
		if near := ran.SuggestionsFor(typed); len(near) > 0 {
			return "; did you mean " + strings.Join(near, " or ") + "?"
		}
	}
	if strings.Contains(said, " arg(s), ") { // cobra counts them and does not name them
		return ": " + ran.UseLine()
	}
	return ""
}

// usageError is a wrong command line.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// exitCode ends the command with a code whose reason was printed already.
type exitCode struct{ code int }

func (e *exitCode) Error() string { return fmt.Sprintf("exit %d", e.code) }

func newRoot(o *options) *cobra.Command {
	root := &cobra.Command{
		Use:   "bailiwick",
		Short: "A node-authoritative, attested, signed state mesh for fleets that lose their links",
		Long: `bailiwick runs beside the workloads of a node: it attests the machine through its
TPM, obtains SPIFFE identities, authenticates every peer, gossips signed state,
enforces regional policy without asking anyone, shuts out peers that lie, and
keeps a trail that an auditor verifies offline.

Exit codes: 0 ok, 1 failed, 2 usage, 3 unreachable, 4 denied, 5 degraded.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       versionString(),
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	flags := root.PersistentFlags()
	flags.VarP(&o.format, "output", "o", "output format")
	flags.StringVar(&o.socket, "socket", "", "control socket to ask (default: this folder's dev fleet, else\n"+systemSocket+")")
	flags.StringVar(&o.node, "node", "", "node of the dev fleet to ask")
	complete(root, "output", "table", "json", "yaml")
	_ = root.RegisterFlagCompletionFunc("node", completeNodes)
	for _, g := range []struct {
		title    string
		commands []*cobra.Command
	}{
		{"Run:", []*cobra.Command{runCommand(o), devCommand(o)}},
		{"Ask a node:", []*cobra.Command{statusCommand(o), getCommand(o), describeCommand(o), watchCommand(o), whyCommand(o), attestCommand(o), quarantineCommand(o)}},
		{"Tell a node:", []*cobra.Command{putCommand(o), deleteCommand(o), entryCommand(o), devidCommand(o)}},
		{"Offline:", []*cobra.Command{trustCommand(o), policyCommand(o), checkCommand(o), trailCommand(o), explainCommand(o), versionCommand(o)}},
	} {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.title
			root.AddCommand(c)
		}
	}
	for _, c := range root.Commands() {
		wrapArgs(c)
	}
	return root
}

// wrapArgs makes a wrong number of arguments a usage error everywhere.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &usageError{err}
			}
			return nil
		}
	}
	if c.HasSubCommands() && c.RunE == nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())}
			}
			return cmd.Help()
		}
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

func versionCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return o.tell(map[string]any{"version": versionString()}, versionString())
		},
	}
}

// tell prints what an offline verb found or a dev verb did: text for people, and
// the same as the one item of a document for programs.
func (o *options) tell(item map[string]any, text ...string) error {
	b, err := json.Marshal(item)
	if err != nil {
		return err
	}
	doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{b}}
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		for _, line := range text {
			fmt.Fprintln(w, line)
		}
	})
}

// complete offers the values that a flag of a command takes.
func complete(c *cobra.Command, flag string, values ...string) {
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

func explainCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "explain [CODE]",
		Short: "Say what an error code means and what to do, with no network",
		Long:  "Explain says what an error code means and what to do. Without a code it lists all.",
		Args:  cobra.MaximumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) (out []string, _ cobra.ShellCompDirective) {
			for _, e := range explain.All() {
				out = append(out, e.Code+"\t"+e.Title)
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return explainAll(o)
			}
			e, ok := explain.Find(args[0])
			if !ok {
				return &usageError{fmt.Errorf("%s is not a code of this version; bailiwick explain lists them", args[0])}
			}
			return o.tell(explained(e), e.Code+"  "+e.Title, "", e.Meaning, "", "What to do: "+e.Fix)
		},
	}
}

func explainAll(o *options) error {
	doc := output.Document{AsOf: time.Now().UTC()}
	var rows [][]string
	for _, e := range explain.All() {
		b, err := json.Marshal(explained(e))
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
		rows = append(rows, []string{e.Code, e.Title})
	}
	return output.Write(o.out, o.format, doc, func(w io.Writer) { output.Columns(w, "CODE TITLE", rows) })
}

func explained(e explain.Entry) map[string]any {
	return map[string]any{"code": e.Code, "title": e.Title, "meaning": e.Meaning, "fix": e.Fix, "exit": max(e.Exit, explain.Failed)}
}
