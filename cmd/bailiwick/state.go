package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
)

func getCommand(o *options) *cobra.Command {
	var how reading
	c := &cobra.Command{
		Use:   "get [PREFIX]",
		Short: "List signed state: every key with its owner, age and lease",
		Long: `List signed state. A prefix that begins with a slash is of keys, and so is
spiffe://. Any other is of names, <kind>/<name>: what all owners together say under
it, as one value (register, set, counter or map).`,
		Example: `  bailiwick get /node/east-n1/
  bailiwick get --node east-n2 -o json
  bailiwick get x-visits/`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: o.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := "/"
			if len(args) == 1 {
				prefix = args[0]
			}
			if err := how.check(prefix); err != nil {
				return err
			}
			if shared(prefix) {
				return getShared(cmd.Context(), o, prefix, how)
			}
			return get(cmd.Context(), o, prefix)
		},
	}
	how.flags(c)
	return c
}

func get(ctx context.Context, o *options, prefix string) error {
	t, err := o.one()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := t.state.List(ctx, &statev1.ListRequest{Prefix: prefix})
	if err != nil {
		return t.reached(err)
	}
	return writeItems(o, stateView(resp.View), resp.Items, func(w io.Writer) {
		var rows [][]string
		for _, item := range resp.Items {
			rows = append(rows, itemRow(item))
		}
		output.Columns(w, "KEY EPOCH/SEQ AGE LEASE SCOPE VALUE", rows)
	})
}

func itemRow(item *statev1.Item) []string {
	return []string{item.Key, fmt.Sprintf("%d/%d", item.Epoch, item.Seq), output.Span(seconds(item.AgeSeconds)), leaseOf(item), item.Scope, itemText(item) + mismatch(item)}
}

// withheldText stands for a value that policy keeps closed.
const withheldText = "(withheld: its owner is shut out)"

func itemText(item *statev1.Item) string {
	if item.Withheld {
		return withheldText
	}
	return valueText(item.Value)
}

// mismatch says that a value breaks a schema that came after it.
func mismatch(item *statev1.Item) string {
	if item.GetFit().GetError() == "" {
		return ""
	}
	return "  does not match " + item.Fit.Schema
}

// leaseOf is how far an item is to be believed, in words.
func leaseOf(item *statev1.Item) string {
	words := item.Lease
	if item.Suspect {
		words += " suspect"
	}
	if item.Rewind {
		words += " rewind"
	}
	if item.AttestedBy == "unattested" {
		words += " unattested"
	}
	return words
}

// stateView is the head of an answer about state, as all verbs show it.
func stateView(v *statev1.View) *controlv1.View {
	return &controlv1.View{
		AsOf: v.GetAsOf(), ViewOf: v.GetViewOf(),
		Debt:  &controlv1.Debt{Records: v.GetDebt().GetRecords(), Bytes: v.GetDebt().GetBytes(), OldestSeconds: v.GetDebt().GetOldestSeconds()},
		Lease: &controlv1.Lease{Mode: v.GetLease().GetMode(), RemainingSeconds: v.GetLease().GetRemainingSeconds(), DegradedMode: v.GetLease().GetDegradedMode()},
	}
}

// valueText shows text as text and anything else by size.
func valueText(b []byte) string {
	if utf8.Valid(b) && len(b) <= 60 {
		if q, err := json.Marshal(string(b)); err == nil {
			return string(q)
		}
	}
	return fmt.Sprintf("%d bytes", len(b))
}

// document begins a Document from an answer's own head.
func document(v *controlv1.View) output.Document {
	return output.Document{AsOf: v.AsOf.AsTime(), ViewOf: v.ViewOf}
}

func putCommand(o *options) *cobra.Command {
	var scope string
	var change changing
	c := &cobra.Command{
		Use:   "put KEY [VALUE]",
		Short: "Write one of this node's own keys, signed and durable",
		Long: `Write one of this node's own keys, signed and durable. KEY is the whole key, or
<kind>/<name> below this node's own path.

With a flag that changes it, the key is this node's part of a shared name: bailiwick get
<kind>/<name> reads what all owners together say. Nobody's part is written but this node's.
Of registers and the fields of maps the last write counts, and the region's master of
record comes before all others.`,
		Example: `  bailiwick put --node east-n1 /node/east-n1/x-note/mood fine
  bailiwick put --inc 3 x-visits/total
  bailiwick put --add red --add blue x-colours/used
  bailiwick put --add green --remove red x-colours/used
  bailiwick put --set '{"door": "open", "light": 3}' x-room/hall
  bailiwick put --unset light x-room/hall
  bailiwick put --type register x-plan/today '"rest"'`,
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: o.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := change.request(args, scope)
			if err != nil {
				return err
			}
			return write(cmd.Context(), o, func(ctx context.Context, t target) (*statev1.WriteResponse, error) {
				if req != nil {
					return t.state.Change(ctx, req)
				}
				return t.state.Put(ctx, &statev1.PutRequest{Key: args[0], Value: []byte(args[1]), Scope: scope})
			})
		},
	}
	c.Flags().StringVar(&scope, "scope", "region", "how far it travels: zone, region or global")
	complete(c, "scope", "zone", "region", "global")
	change.flags(c)
	return c
}

func deleteCommand(o *options) *cobra.Command {
	var erase erasing
	c := &cobra.Command{
		Use:   "delete KEY | --payloads --subject ID --reason TEXT",
		Short: "Remove one of this node's keys, its part of a shared name, or what decisions were about",
		Long: `Remove one of this node's own keys, or its part of a shared name.

With --payloads, erase what recorded decisions were about, of one caller or one class of
data: paths, headers, users, reasons. The keys it was sealed under are destroyed on each
node that is asked; copies at custodians become unreadable with them. That something was
decided, when and by which rule stays, and the trail verifies as before. Who erased it and
why is in the trail. Without --yes it only says what there is. Under a legal hold
(trail.hold) it is refused.`,
		Example: `  bailiwick delete --node east-n1 x-note/mood
  bailiwick delete --payloads --subject spiffe://east.example.org/workload/shop --reason "request 4711" --yes
  bailiwick delete --payloads --class customer --before 2026-11-01 --reason "contract ended"`,
		Args: func(_ *cobra.Command, args []string) error { return erase.check(args) }, ValidArgsFunction: o.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if erase.payloads {
				return erase.run(o)
			}
			return write(cmd.Context(), o, func(ctx context.Context, t target) (*statev1.WriteResponse, error) {
				return t.state.Delete(ctx, &statev1.DeleteRequest{Key: args[0]})
			})
		},
	}
	erase.flags(c)
	return c
}

func write(ctx context.Context, o *options, call func(context.Context, target) (*statev1.WriteResponse, error)) error {
	t, err := o.one()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	wrote, err := call(ctx, t)
	if err != nil {
		return t.reached(err)
	}
	view := stateView(wrote.View)
	doc := document(view)
	item, err := json.Marshal(map[string]any{"epoch": wrote.Epoch, "seq": wrote.Seq, "record": hex.EncodeToString(wrote.Record)})
	if err != nil {
		return err
	}
	doc.Items = append(doc.Items, item)
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		fmt.Fprintf(w, "written by %s at %s as record %d of epoch %d\n", view.ViewOf, view.AsOf.AsTime().Format(time.RFC3339), wrote.Seq, wrote.Epoch)
	})
}

// completeKey completes the keys that the node knows, or <kind>/<name> where what is
// there begins without a slash.
func (o *options) completeKey(cmd *cobra.Command, args []string, begun string) (out []string, _ cobra.ShellCompDirective) {
	t, err := o.one()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	resp, err := t.state.List(ctx, &statev1.ListRequest{Prefix: "/"})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for _, item := range resp.Items {
		key := item.Key
		if shared(begun) {
			_, below, _ := strings.Cut(key, "/node/")
			_, key, _ = strings.Cut(below, "/")
		}
		if strings.HasPrefix(key, begun) && !slices.Contains(out, key) {
			out = append(out, key)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// writeItems prints an answer that is a list. Without a view it was read offline.
func writeItems[M proto.Message](o *options, v *controlv1.View, items []M, table func(io.Writer)) error {
	doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{}}
	if v != nil {
		doc.AsOf, doc.ViewOf = v.AsOf.AsTime(), v.ViewOf
	}
	for _, item := range items {
		b, err := output.Message(item)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
	}
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		if v != nil {
			fmt.Fprintln(w, headline(v))
		}
		table(w)
	})
}
