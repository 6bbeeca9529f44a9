package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/gossip/client"
	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
)

func describeCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "describe KEY",
		Short: "Show one key: who wrote it, when, in which record, and how far to believe it",
		Long:  "Show one key, or one shared name, <kind>/<name>, with the part of each owner.",
		Example: `  bailiwick describe /node/east-n1/node/self
  bailiwick describe x-visits/total`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: o.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if shared(args[0]) {
				return describeShared(cmd.Context(), o, args[0])
			}
			t, err := o.one()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
			defer cancel()
			resp, err := t.state.Get(ctx, &statev1.GetRequest{Key: args[0]})
			if err != nil {
				return t.reached(err)
			}
			return writeItems(o, stateView(resp.View), []*statev1.Item{resp.Item}, func(w io.Writer) { describe(w, resp.Item) })
		},
	}
}

func describe(w io.Writer, item *statev1.Item) {
	for _, line := range [][2]string{
		{"key", item.Key},
		{"owner", item.Owner},
		{"written", fmt.Sprintf("%s, %s ago", item.At.AsTime().Format(time.RFC3339Nano), output.Span(seconds(item.AgeSeconds)))},
		{"record", fmt.Sprintf("%s, number %d of epoch %d", hex.EncodeToString(item.Record), item.Seq, item.Epoch)},
		{"scope", item.Scope},
		{"lease", fmt.Sprintf("%s; its owner was heard %s ago", leaseOf(item), output.Span(seconds(item.HeardSeconds)))},
		{"revision", fmt.Sprint(item.Revision)},
		{"schema", fitText(item.Fit)},
	} {
		if line[1] != "" {
			fmt.Fprintf(w, "%-9s %s\n", line[0], line[1])
		}
	}
	text := wholeValue(item.Value)
	if item.Withheld {
		text = "withheld: its owner is shut out or frozen here, and policy keeps its state of this kind closed (suspect_open of kind quarantine)"
	}
	fmt.Fprintf(w, "%-9s %s\n", "value", strings.ReplaceAll(text, "\n", "\n          "))
}

// fitText is what schemas say of a value: nothing where none covers it.
func fitText(f *statev1.Fit) string {
	switch {
	case f == nil:
		return ""
	case f.Error != "":
		return fmt.Sprintf("does not match: %s (policy %s); it was written before, and stays", f.Error, shortRevision(f.Policy))
	}
	return fmt.Sprintf("matches %s (policy %s)", f.Schema, shortRevision(f.Policy))
}

// wholeValue shows JSON laid out, other text as it is, and bytes in hex.
func wholeValue(b []byte) string {
	if short := valueText(b); strings.HasPrefix(short, `"`) {
		return short
	}
	var v any
	if json.Unmarshal(b, &v) == nil {
		if pretty, err := json.MarshalIndent(v, "", "  "); err == nil {
			return string(pretty)
		}
	}
	return hex.Dump(b)
}

func watchCommand(o *options) *cobra.Command {
	var from uint64
	var how reading
	c := &cobra.Command{
		Use:   "watch [PREFIX]",
		Short: "Follow signed state: what there is, then every change, until Ctrl-C",
		Long: `Follow signed state: what there is, then every change, until Ctrl-C. It goes on after
the node restarts; where changes may have been missed it says "reset" and begins again.
With -o json every event is a line of its own. A prefix without a slash at its beginning
is of shared names, as in get.`,
		Example: `  bailiwick watch /node/
  bailiwick watch -o json | jq -r 'select(.event == "written") | .item.key'`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: o.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := "/"
			if len(args) == 1 {
				prefix = args[0]
			}
			if err := how.check(prefix); err != nil {
				return err
			}
			t, err := o.one()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if shared(prefix) && from > 0 {
				return &usageError{errors.New("--from is for keys: names are told from the beginning")}
			}
			if shared(prefix) {
				return watchShared(ctx, o, t, prefix, how)
			}
			return watch(ctx, o, t, prefix, from)
		},
	}
	c.Flags().Uint64Var(&from, "from", 0, "go on after this revision, as an earlier event gave it")
	how.flags(c)
	return c
}

// watch prints events until ctx ends.
func watch(ctx context.Context, o *options, t target, prefix string, from uint64) error {
	c := client.New(t.socket)
	defer c.Close()
	return follow(t, c.Watch(ctx, prefix, from), func(e client.Event) (client.Kind, error) { return e.Kind, e.Err },
		func(e client.Event) error { return printEvent(o, e) })
}

// follow prints what a watch yields until it ends. A node that was never reached is an
// error; one that goes away later is waited for.
func follow[E any](t target, events iter.Seq2[E, error], kind func(E) (client.Kind, error), print func(E) error) error {
	reached := false
	for e, err := range events {
		if errors.Is(err, client.ErrRequest) {
			return fmt.Errorf("%s: %w: %w", t.name, explain.ErrRequest, err)
		}
		if err != nil {
			return err
		}
		if k, why := kind(e); k == client.Lost && !reached {
			return fmt.Errorf("%s: %w: %s: %w", t.name, explain.ErrUnreachable, t.socket, why)
		}
		reached = true
		if err := print(e); err != nil {
			return err
		}
	}
	return nil
}

// event is what a program reads of one.
type event struct {
	AsOf     time.Time   `json:"as_of"`
	ViewOf   string      `json:"view_of,omitempty"`
	Event    client.Kind `json:"event"`
	Revision uint64      `json:"revision,omitempty"`
	Item     *eventItem  `json:"item,omitempty"`
	Error    string      `json:"error,omitempty"`
}

type eventItem struct {
	Key     string    `json:"key"`
	Value   []byte    `json:"value,omitempty"` // base64
	Owner   string    `json:"owner"`
	Epoch   uint64    `json:"epoch"`
	Seq     uint64    `json:"seq"`
	At      time.Time `json:"at"`
	Lease   string    `json:"lease"`
	Suspect bool      `json:"suspect,omitempty"`
	Closed  bool      `json:"withheld,omitempty"` // policy keeps the value closed
	Rewind  bool      `json:"rewind,omitempty"`
	Scope   string    `json:"scope"`

	AttestedBy string `json:"attested_by,omitempty"`
	Mismatch   string `json:"mismatch,omitempty"` // with the schema of its key, which came later
}

func printEvent(o *options, e client.Event) error {
	out := event{AsOf: e.View.AsOf, ViewOf: e.View.Of.String(), Event: e.Kind, Revision: e.Revision}
	if e.View.AsOf.IsZero() {
		out.AsOf = time.Now().UTC()
	}
	if e.Err != nil {
		out.Error = e.Err.Error()
	}
	if i := e.Item; i.Key != "" {
		out.Item = &eventItem{
			Key: i.Key, Value: i.Value, Owner: i.Owner.String(), Epoch: i.Epoch, Seq: i.Seq, At: i.At,
			Lease: i.Lease, Suspect: i.Suspect, Closed: i.Closed, Rewind: i.Rewind, Scope: string(i.Scope), AttestedBy: i.AttestedBy, Mismatch: i.Mismatch,
		}
	}
	return output.Line(o.out, o.format, out, func(w io.Writer) {
		switch {
		case out.Item != nil:
			lease, text := e.Item.Lease, valueText(e.Item.Value)
			if e.Item.Suspect {
				lease += " suspect"
			}
			if e.Item.Closed {
				text = withheldText
			}
			fmt.Fprintf(w, "%-8s %s  %d/%d  %s  %s  %s\n", e.Kind, e.Item.Key, e.Item.Epoch, e.Item.Seq, output.Span(e.Item.Age), lease, text)
		case e.Err != nil:
			fmt.Fprintf(w, "%-8s %s\n", e.Kind, e.Err)
		default:
			fmt.Fprintf(w, "%-8s at revision %d, as of %s\n", e.Kind, e.Revision, out.AsOf.Format(time.RFC3339))
		}
	})
}
