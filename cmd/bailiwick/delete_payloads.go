package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

// erasing is bailiwick delete --payloads.
type erasing struct {
	payloads                       bool
	subject, class, before, reason string
	sure                           bool
}

func (e *erasing) flags(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&e.payloads, "payloads", false, "erase what recorded decisions were about: data protection")
	f.StringVar(&e.subject, "subject", "", "with --payloads: of this caller, a SPIFFE ID, or uid:1000 for a user of the node's API")
	f.StringVar(&e.class, "class", "", "with --payloads: about this class of data")
	f.StringVar(&e.before, "before", "", "with --payloads: only what was recorded before that UTC day (default: everything so far)")
	f.StringVar(&e.reason, "reason", "", "with --payloads: why, kept in the trail; never the data itself (required)")
	f.BoolVar(&e.sure, "yes", false, "with --payloads: do it; without, only say what there is")
}

func (e *erasing) check(args []string) error {
	switch {
	case !e.payloads && (e.subject != "" || e.class != "" || e.before != "" || e.reason != "" || e.sure):
		return &usageError{errors.New("--subject, --class, --before, --reason and --yes go with --payloads")}
	case !e.payloads:
		return cobra.ExactArgs(1)(nil, args)
	case len(args) > 0:
		return &usageError{fmt.Errorf("%q: --payloads takes no key: it is not about state", args[0])}
	case e.subject == "" && e.class == "":
		return &usageError{errors.New("say what to erase: --subject ID, or --class NAME")}
	case e.reason == "":
		return &usageError{errors.New("--reason TEXT is required: it is kept in the trail")}
	}
	return nil
}

// run asks every node that is meant: each has the keys of what it recorded itself.
func (e *erasing) run(o *options) error {
	targets, err := o.targets()
	if err != nil {
		return err
	}
	got, errs := answers(targets, func(ctx context.Context, t target) (*controlv1.ErasePayloadsResponse, error) {
		return t.ErasePayloads(ctx, &controlv1.ErasePayloadsRequest{Subject: e.subject, Class: e.class, Before: e.before, Reason: e.reason, Preview: !e.sure})
	})
	doc := output.Document{AsOf: time.Now().UTC()}
	var rows [][]string
	for i, r := range got {
		if r == nil {
			continue
		}
		b, err := output.Message(r)
		if err != nil {
			return err
		}
		doc.Nodes = append(doc.Nodes, b)
		rows = append(rows, []string{targets[i].name, e.tell(r)})
	}
	var failed error
	for _, err := range errs {
		if err != nil {
			failed = errors.Join(failed, err)
		}
	}
	err = output.Write(o.out, o.format, doc, func(w io.Writer) {
		output.Columns(w, "NODE WHAT", rows)
		if !e.sure && len(rows) > 0 {
			fmt.Fprintln(w, "Nothing was erased. The same with --yes does it; it cannot be taken back.")
		}
	})
	return errors.Join(failed, err)
}

func (e *erasing) tell(r *controlv1.ErasePayloadsResponse) string {
	switch {
	case r.Keys == 0:
		return "nothing recorded of that"
	case !e.sure:
		return fmt.Sprintf("%d keys of %d days", r.Keys, r.Days)
	}
	return fmt.Sprintf("erased: %d keys destroyed, erasure %s", r.Keys, r.Erasure)
}
