package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

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
	root := newRoot(&options{format: output.Table, out: out, err: errOut})
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.Execute()
	if err == nil {
		return explain.OK
	}
	var usage *usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") {
		fmt.Fprintf(errOut, "bailiwick: %v\nSee: bailiwick help\n", err)
		return explain.Usage
	}
	var quiet *exitCode
	if errors.As(err, &quiet) {
		return quiet.code
	}
	explain.Print(errOut, err)
	return explain.Exit(err)
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
	flags.StringVar(&o.socket, "socket", "", "control socket of the node to ask (default: the dev fleet of this folder, else /var/lib/bailiwick/run/control.sock)")
	flags.StringVar(&o.node, "node", "", "node of the dev fleet to ask")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(
		runCommand(o), devCommand(o), statusCommand(o), checkCommand(o), explainCommand(o), whyCommand(o),
		getCommand(o), putCommand(o), deleteCommand(o), quarantineCommand(o), trailCommand(o), versionCommand(o),
	)
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
			_, err := fmt.Fprintln(o.out, versionString())
			return err
		},
	}
}

func explainCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "explain CODE",
		Short: "Say what an error code means and what to do, with no network",
		Args:  cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return explain.Codes(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			e, ok := explain.Find(args[0])
			if !ok {
				return &usageError{fmt.Errorf("%s is not a code of this version; known: %s to %s", args[0], explain.Codes()[0], explain.Codes()[len(explain.Codes())-1])}
			}
			_, err := fmt.Fprintf(o.out, "%s  %s\n\n%s\n\nWhat to do: %s\n", e.Code, e.Title, e.Meaning, e.Fix)
			return err
		},
	}
}
