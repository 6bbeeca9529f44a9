package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/dev"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

const (
	upPatience = 60 * time.Second
	tableEvery = time.Second
)

func devCommand(o *options) *cobra.Command {
	var detach bool
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole fleet on this machine: two regions, five nodes, five TPMs",
		Long: `Dev starts two regions of five nodes in all, each node its own process with its
own software TPM, and sample workloads that reach each other through them. State
is kept below .dev in this folder and resumed at the next start. All other verbs
find the fleet by themselves from this folder.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if detach {
				return devDetach(cmd.Context(), o)
			}
			return devForeground(cmd.Context(), o)
		},
	}
	c.Flags().BoolVar(&detach, "detach", false, "return when the fleet is up and leave it running")
	c.AddCommand(
		devVerb("stop", "End the fleet and keep its state", cobra.NoArgs, func(_ context.Context, f *dev.Fleet, _ []string) error {
			if err := dev.Stop(f); err != nil {
				return err
			}
			return o.tell(map[string]any{"stopped": f.Dir}, "the fleet has stopped; its state is kept in "+f.Dir)
		}),
		&cobra.Command{Use: "clean", Short: "End the fleet and remove its state", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return devClean(o) }},
		devCutCommand(o, "cut REGION", "Cut a region off: packets between it and the others are refused", true),
		devCutCommand(o, "heal REGION", "End a cut", false),
		devPoisonCommand(o), devTamperCommand(o), devSuperviseCommand(), devWorkloadCommand(),
	)
	return c
}

func devClean(o *options) error {
	f, err := dev.Find(".")
	if errors.Is(err, dev.ErrNoFleet) {
		return o.tell(map[string]any{"removed": nil}, "there is no fleet here to remove")
	}
	if err != nil {
		return err
	}
	if err := dev.Clean("."); err != nil {
		return err
	}
	return o.tell(map[string]any{"removed": f.Dir}, "the fleet has stopped and "+f.Dir+" is removed")
}

func devCutCommand(o *options, use, short string, refuse bool) *cobra.Command {
	c := devVerb(use, short, cobra.ExactArgs(1), func(ctx context.Context, f *dev.Fleet, args []string) error {
		if err := dev.Cut(ctx, f, args[0], refuse); err != nil {
			return err
		}
		text := args[0] + " is cut off: watch the debt grow with bailiwick status, then bailiwick dev heal " + args[0]
		if !refuse {
			text = args[0] + " is healed: links and debt recover within seconds"
		}
		return o.tell(map[string]any{"region": args[0], "cut": refuse}, text)
	})
	c.ValidArgsFunction = completeRegions
	return c
}

// devVerb is a subcommand on the running fleet of this folder.
func devVerb(use, short string, args cobra.PositionalArgs, do func(context.Context, *dev.Fleet, []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
		f, err := dev.Find(".")
		if err != nil {
			return err
		}
		return do(cmd.Context(), f, args)
	}}
}

func devPoisonCommand(o *options) *cobra.Command {
	c := devVerb("poison NODE", "Have a hostile process take a node's state and TPM and equivocate", cobra.ExactArgs(1),
		func(ctx context.Context, f *dev.Fleet, args []string) error {
			result, err := dev.Poison(ctx, f, args[0], func(step string) {
				if o.format == output.Table {
					fmt.Fprintln(o.out, step)
				}
			})
			if err != nil {
				return err
			}
			return o.tell(map[string]any{"node": args[0], "result": result}, result...)
		})
	c.ValidArgsFunction = completeNode
	return c
}

func devTamperCommand(o *options) *cobra.Command {
	var unasked bool
	c := devVerb("tamper NODE", "Extend one PCR of a node's TPM: its next attestation fails", cobra.ExactArgs(1),
		func(ctx context.Context, f *dev.Fleet, args []string) error {
			tamper := dev.Tamper
			if unasked {
				tamper = dev.TamperUnasked
			}
			result, err := tamper(ctx, f, args[0])
			if err != nil {
				return err
			}
			return o.tell(map[string]any{"node": args[0], "result": []string{result}},
				result, args[0]+" keeps the identity it has until that expires; a restart of the fleet resets its TPM")
		})
	c.Flags().BoolVar(&unasked, "unasked", false, "have nobody attest; wait until its peers notice by themselves")
	c.ValidArgsFunction = completeNode
	return c
}

func devSuperviseCommand() *cobra.Command {
	return &cobra.Command{Use: "supervise", Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		return dev.Supervise(ctx, ".", func(string) {}, func(*dev.Fleet) {})
	}}
}

func devWorkloadCommand() *cobra.Command {
	var address, service, counters string
	c := &cobra.Command{Use: "workload", Hidden: true}
	serve := &cobra.Command{Use: "serve", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM)
		defer stop()
		return dev.Serve(ctx, address, service)
	}}
	call := &cobra.Command{Use: "call", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM)
		defer stop()
		return dev.Call(ctx, address, service, counters)
	}}
	whoami := &cobra.Command{Use: "whoami SOCKET", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		socket, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		id, err := dev.WhoAmI(cmd.Context(), socket)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), id)
		return err
	}}
	for _, sub := range []*cobra.Command{serve, call} {
		sub.Flags().StringVar(&address, "address", "", "")
		sub.Flags().StringVar(&service, "service", "", "")
		sub.Flags().StringVar(&counters, "counters", "", "")
	}
	c.AddCommand(serve, call, whoami)
	return c
}

func devDetach(ctx context.Context, o *options) error {
	began := time.Now()
	say := progress(o.err)
	say("starting")
	f, err := dev.Detach(".")
	var ended *dev.Ended
	if errors.As(err, &ended) && ended.Code > 0 && ended.Said != "" {
		say("")
		fmt.Fprintln(o.err, ended.Said) // this same command, so its words and its exit code are ours
		return &exitCode{ended.Code}
	}
	if err != nil {
		return err
	}
	if err := waitUp(ctx, o, f, say); err != nil {
		return err
	}
	say("")
	took := time.Since(began).Seconds()
	return o.tell(map[string]any{"nodes": f.Names(), "seconds": took},
		fmt.Sprintf("the fleet is up after %.1fs: %d nodes in %d regions. Try: bailiwick status", took, len(f.Nodes), len(f.Regions)))
}

func devForeground(ctx context.Context, o *options) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	began := time.Now()
	say := progress(o.err)
	var shown chan error
	err := dev.Supervise(ctx, ".", say, func(f *dev.Fleet) {
		shown = make(chan error, 1)
		go func() {
			err := waitUp(ctx, o, f, say)
			if err == nil {
				say("")
				fmt.Fprintf(o.out, "the fleet is up after %.1fs; Ctrl-C stops it. In another terminal, in this folder: bailiwick status\n", time.Since(began).Seconds())
				watchTable(ctx, o, f)
			} else if ctx.Err() == nil {
				stop() // a fleet that does not come up is no fleet: end it and say why
			}
			shown <- err
		}()
	})
	if shown != nil {
		if upErr := <-shown; upErr != nil && !errors.Is(upErr, context.Canceled) {
			return errors.Join(upErr, err)
		}
		if err == nil {
			if output.IsTerminal(o.out) {
				fmt.Fprintln(o.out) // leave the ^C behind
			}
			fmt.Fprintln(o.out, "the fleet has stopped; its state is kept in .dev for the next start")
		}
	}
	return err
}

// waitUp returns when every node has its identity and sees whom it should see.
func waitUp(ctx context.Context, o *options, f *dev.Fleet, say func(string)) error {
	ctx, cancel := context.WithTimeout(ctx, upPatience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		up, missing, log := 0, "", ""
		got, errs := answers(fleetTargets(f), func(ctx context.Context, t target) (*controlv1.StatusResponse, error) {
			return t.Status(ctx, &controlv1.StatusRequest{})
		})
		for i, s := range got {
			if why := dev.Missing(f, f.Nodes[i], s); why == "" {
				up++
			} else {
				missing, log = f.Nodes[i].Name+": "+why, filepath.Join(f.Nodes[i].Dir, "log")
				if errs[i] != nil {
					missing = f.Nodes[i].Name + ": not answering yet"
				}
			}
		}
		if up == len(got) {
			return nil
		}
		say(fmt.Sprintf("%d of %d nodes up; %s", up, len(got), missing))
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return fmt.Errorf("%w: after %s, %s; see %s%s", dev.ErrNotUp, upPatience, missing, log, lastError(log))
		case <-tick.C:
		}
	}
}

// lastError is what a node said last when it ended by itself, if it did.
func lastError(log string) string {
	b, err := os.ReadFile(log)
	if err != nil {
		return ""
	}
	const begin = "\nbailiwick: "
	i := bytes.LastIndex(b, []byte(begin))
	if i < 0 || bytes.Contains(b[i:], []byte("\ntime=")) { // it has started since
		return ""
	}
	line, _, _ := strings.Cut(string(b[i+len(begin):]), "\n")
	return ", which ends with " + line
}

func fleetTargets(f *dev.Fleet) (out []target) {
	for _, n := range f.Nodes {
		out = append(out, dial(n.Name, n.ControlSocket))
	}
	return out
}

// completeNode, completeNodes and completeRegions offer what the fleet of this
// folder has.
func completeNode(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeNodes(nil, nil, "")
}

func completeNodes(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	f, err := dev.Find(".")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return f.Names(), cobra.ShellCompDirectiveNoFileComp
}

func completeRegions(_ *cobra.Command, args []string, _ string) (out []string, _ cobra.ShellCompDirective) {
	if f, err := dev.Find("."); err == nil && len(args) == 0 {
		for _, r := range f.Regions {
			out = append(out, r.Label)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// progress overwrites one line on a terminal and says nothing elsewhere.
func progress(w io.Writer) func(string) {
	if !output.IsTerminal(w) {
		return func(string) {}
	}
	return func(s string) { fmt.Fprintf(w, "\r\033[K%s", s) }
}

// watchTable shows the fleet until ctx ends: a live table on a terminal, a line
// for each change elsewhere.
func watchTable(ctx context.Context, o *options, f *dev.Fleet) {
	live := output.IsTerminal(o.out)
	tick := time.NewTicker(tableEvery)
	defer tick.Stop()
	last := map[string]string{}
	for {
		got, errs := answers(fleetTargets(f), func(ctx context.Context, t target) (*controlv1.StatusResponse, error) {
			return t.Status(ctx, &controlv1.StatusRequest{})
		})
		if ctx.Err() != nil {
			return
		}
		if live {
			fmt.Fprint(o.out, "\033[H\033[2J")
			statusTable(o.out, fleetTargets(f), got, errs, false)
			fmt.Fprintln(o.out)
			trafficTable(o.out, f)
			fmt.Fprintln(o.out, "\nCtrl-C stops the fleet. Try in another terminal: bailiwick dev poison east-n2; bailiwick why last")
		} else {
			for i, s := range got {
				line := "unreachable"
				if s != nil {
					line = fmt.Sprintf("%s, %d of %d peers, lease %s", s.Self.Standing, s.Self.PeersUp, s.Self.PeersKnown, s.View.Lease.Mode)
				}
				if name := f.Nodes[i].Name; last[name] != line {
					last[name] = line
					fmt.Fprintf(o.out, "%s %s: %s\n", time.Now().UTC().Format(time.RFC3339), name, line)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// trafficTable shows what the sample clients see.
func trafficTable(w io.Writer, f *dev.Fleet) {
	var rows [][]string
	for _, wl := range f.Workloads {
		if wl.Calls == "" {
			continue
		}
		c, err := f.ReadCounters(wl.Name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		policy := "allowed"
		if wl.Denied {
			policy = "denied"
		}
		rows = append(rows, []string{wl.Name, wl.Calls, policy, fmt.Sprint(c.OK), fmt.Sprint(c.Refused)})
	}
	output.Columns(w, "CLIENT CALLS POLICY ANSWERED REFUSED", rows)
}
