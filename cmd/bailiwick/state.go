package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

func getCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "get [PREFIX]",
		Short: "List signed state: every key with its owner, age and lease",
		Example: `  bailiwick get /node/east-n1/
  bailiwick get --node east-n2 -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := "/"
			if len(args) == 1 {
				prefix = args[0]
			}
			return get(cmd.Context(), o, prefix)
		},
	}
}

func get(ctx context.Context, o *options, prefix string) error {
	t, err := o.one()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := t.ListState(ctx, &controlv1.ListStateRequest{Prefix: prefix})
	if err != nil {
		return t.reached(err)
	}
	doc := document(resp.View)
	for _, item := range resp.Items {
		b, err := output.Message(item)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
	}
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		fmt.Fprintln(w, headline(resp.View))
		var rows [][]string
		for _, item := range resp.Items {
			lease := item.Lease
			if item.Suspect {
				lease += " suspect"
			}
			rows = append(rows, []string{item.Key, fmt.Sprintf("%d/%d", item.Epoch, item.Seq), output.Span(seconds(item.AgeSeconds)), lease, item.Scope, valueText(item.Value)})
		}
		output.Columns(w, "KEY EPOCH/SEQ AGE LEASE SCOPE VALUE", rows)
	})
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
	c := &cobra.Command{
		Use:     "put KEY VALUE",
		Short:   "Write one of this node's own keys, signed and durable",
		Example: `  bailiwick put --node east-n1 /node/east-n1/x-note/mood fine`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return write(cmd.Context(), o, func(ctx context.Context, t target) (*controlv1.View, uint64, uint64, error) {
				r, err := t.PutState(ctx, &controlv1.PutStateRequest{Key: args[0], Value: []byte(args[1]), Scope: scope})
				return r.GetView(), r.GetEpoch(), r.GetSeq(), err
			})
		},
	}
	c.Flags().StringVar(&scope, "scope", "region", "how far it travels: zone, region or global")
	return c
}

func deleteCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "delete KEY",
		Short: "Remove one of this node's own keys",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return write(cmd.Context(), o, func(ctx context.Context, t target) (*controlv1.View, uint64, uint64, error) {
				r, err := t.DeleteState(ctx, &controlv1.DeleteStateRequest{Key: args[0]})
				return r.GetView(), r.GetEpoch(), r.GetSeq(), err
			})
		},
	}
}

func write(ctx context.Context, o *options, call func(context.Context, target) (*controlv1.View, uint64, uint64, error)) error {
	t, err := o.one()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	view, epoch, seq, err := call(ctx, t)
	if err != nil {
		return t.reached(err)
	}
	doc := document(view)
	item, err := json.Marshal(map[string]any{"epoch": epoch, "seq": seq})
	if err != nil {
		return err
	}
	doc.Items = append(doc.Items, item)
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		fmt.Fprintf(w, "written by %s at %s as record %d of epoch %d\n", view.ViewOf, view.AsOf.AsTime().Format(time.RFC3339), seq, epoch)
	})
}
