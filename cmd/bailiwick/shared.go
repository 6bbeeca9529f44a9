package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/gossip/client"
	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
	"github.com/bailiwick-mesh/bailiwick/gossip/value"
)

// shared tells a name, <kind>/<name>, from a key.
func shared(s string) bool {
	return s != "" && !strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "spiffe://")
}

// reading is how names are to be read.
type reading struct {
	of       string
	leaveOut []string
}

func (r *reading) flags(c *cobra.Command) {
	c.Flags().StringVar(&r.of, "type", "", "of names: only register, set, counter or map")
	c.Flags().StringSliceVar(&r.leaveOut, "leave-out", nil, "of names: parts that do not count, of suspect, expired, rewind")
	complete(c, "type", typeNames()...)
	complete(c, "leave-out", "suspect", "expired", "rewind")
}

func typeNames() (out []string) {
	for _, t := range value.Types {
		out = append(out, string(t))
	}
	return out
}

func (r *reading) check(prefix string) error {
	if !shared(prefix) && (r.of != "" || len(r.leaveOut) > 0) {
		return &usageError{errors.New("--type and --leave-out are for names, such as x-visits/")}
	}
	return knownType(r.of)
}

// knownType refuses what is not the name of a type; none at all is fine.
func knownType(of string) error {
	if of != "" && !slices.Contains(value.Types, value.Type(of)) {
		return &usageError{fmt.Errorf("--type %s: want one of %s", of, strings.Join(typeNames(), ", "))}
	}
	return nil
}

func getShared(ctx context.Context, o *options, prefix string, how reading) error {
	t, err := o.one()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := t.state.ReadAll(ctx, &statev1.ReadAllRequest{Prefix: prefix, Type: how.of, LeaveOut: how.leaveOut})
	if err != nil {
		return t.reached(err)
	}
	return writeShared(o, resp.View, resp.Joined, func(w io.Writer) {
		var rows [][]string
		for _, m := range resp.Joined {
			rows = append(rows, sharedRow(m))
		}
		output.Columns(w, "NAME TYPE PARTS LEASE HEARD VALUE", rows)
	})
}

func sharedRow(m *statev1.Joined) []string {
	counted := len(m.Parts)
	for _, p := range m.Parts {
		if p.LeftOut != "" {
			counted--
		}
	}
	parts := fmt.Sprint(counted)
	if counted < len(m.Parts) {
		parts = fmt.Sprintf("%d of %d", counted, len(m.Parts))
	}
	return []string{m.Name, orDash(m.Type), parts, orDash(jointLease(m)), output.Span(seconds(m.HeardSeconds)), orDash(string(m.Value))}
}

func jointLease(m *statev1.Joined) string {
	if m.Suspect {
		return m.Lease + " suspect"
	}
	return m.Lease
}

// writeShared prints names; for programs their values are JSON in place, not bytes.
func writeShared(o *options, v *statev1.View, all []*statev1.Joined, table func(io.Writer)) error {
	view := stateView(v)
	doc := document(view)
	doc.Items = []json.RawMessage{}
	for _, m := range all {
		b, err := sharedJSON(m)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
	}
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		fmt.Fprintln(w, headline(view))
		table(w)
	})
}

func sharedJSON(m *statev1.Joined) (json.RawMessage, error) {
	b, err := output.Message(m)
	if err != nil || m.Value == nil {
		return b, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, err
	}
	all["value"] = m.Value
	return json.Marshal(all)
}

func describeShared(ctx context.Context, o *options, name string) error {
	t, err := o.one()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := t.state.Read(ctx, &statev1.ReadRequest{Name: name})
	if err != nil {
		return t.reached(err)
	}
	return writeShared(o, resp.View, []*statev1.Joined{resp.Joined}, func(w io.Writer) {
		m := resp.Joined
		fmt.Fprintf(w, "%-9s %s\n%-9s %s\n%-9s %s; the quietest owner was heard %s ago\n%-9s %s\n\n", "name", m.Name, "type", orDash(m.Type),
			"lease", orDash(jointLease(m)), output.Span(seconds(m.HeardSeconds)), "value", orDash(string(m.Value)))
		var rows [][]string
		for _, p := range m.Parts {
			out := p.LeftOut
			if out != "" {
				out = "left out: " + out
			}
			rows = append(rows, []string{shortID(p.Item.Owner), output.Span(seconds(p.Item.AgeSeconds)), leaseOf(p.Item), partText(p.Item.Value) + mismatch(p.Item), out})
		}
		output.Columns(w, "OWNER AGE LEASE PART NOTE", rows)
	})
}

// partText shows the JSON of a part as it is, where it fits into a table.
func partText(b []byte) string {
	var line bytes.Buffer
	if json.Compact(&line, b) == nil && line.Len() <= 120 {
		return line.String()
	}
	return valueText(b)
}

// watchShared prints names as they change, until ctx ends.
func watchShared(ctx context.Context, o *options, t target, prefix string, how reading) error {
	c := client.New(t.socket)
	defer c.Close()
	return follow(t, c.Follow(ctx, prefix, client.Reading{Type: value.Type(how.of), LeaveOut: how.leaveOut}),
		func(e client.SharedEvent) (client.Kind, error) { return e.Kind, e.Err },
		func(e client.SharedEvent) error { return printShared(o, e) })
}

// sharedEvent is what a program reads of one.
type sharedEvent struct {
	AsOf    time.Time       `json:"as_of"`
	ViewOf  string          `json:"view_of,omitempty"`
	Event   client.Kind     `json:"event"`
	Name    string          `json:"name,omitempty"`
	Type    value.Type      `json:"type,omitempty"`
	Value   json.RawMessage `json:"value,omitempty"`
	Parts   int             `json:"parts,omitempty"` // that count
	Lease   string          `json:"lease,omitempty"`
	Suspect bool            `json:"suspect,omitempty"`
	Error   string          `json:"error,omitempty"`
}

func printShared(o *options, e client.SharedEvent) error {
	out := sharedEvent{
		AsOf: e.View.AsOf, ViewOf: e.View.Of.String(), Event: e.Kind, Name: e.Shared.Name, Type: e.Shared.Type, Value: e.Shared.Value,
		Lease: e.Shared.Lease, Suspect: e.Shared.Suspect,
	}
	if e.View.AsOf.IsZero() {
		out.AsOf = time.Now().UTC()
	}
	if e.Err != nil {
		out.Error = e.Err.Error()
	}
	for _, p := range e.Shared.Parts {
		if p.LeftOut == "" {
			out.Parts++
		}
	}
	return output.Line(o.out, o.format, out, func(w io.Writer) {
		switch {
		case out.Name != "":
			fmt.Fprintf(w, "%-8s %s  %s  %d parts  %s  %s\n", e.Kind, out.Name, orDash(string(out.Type)), out.Parts, orDash(out.Lease), orDash(string(out.Value)))
		case e.Err != nil:
			fmt.Fprintf(w, "%-8s %s\n", e.Kind, e.Err)
		default:
			fmt.Fprintf(w, "%-8s as of %s\n", e.Kind, out.AsOf.Format(time.RFC3339))
		}
	})
}

// changing is what put does to this node's part of a name.
type changing struct {
	of                 string
	inc                int64
	add, remove, unset []string
	set                string
}

func (c *changing) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.of, "type", "", "register: VALUE is JSON, and the last writer's counts")
	f.Int64Var(&c.inc, "inc", 0, "counter: add this much, which may be negative")
	f.StringArrayVar(&c.add, "add", nil, "set: add an element")
	f.StringArrayVar(&c.remove, "remove", nil, "set: remove an element, as this node sees it")
	f.StringVar(&c.set, "set", "", "map: set the fields of this JSON object")
	f.StringArrayVar(&c.unset, "unset", nil, "map: take a field away")
	complete(cmd, "type", typeNames()...)
}

// kinds is of how many types the flags are.
func (c *changing) kinds() (n int) {
	for _, asked := range []bool{c.inc != 0, len(c.add)+len(c.remove) > 0, c.set != "" || len(c.unset) > 0} {
		if asked {
			n++
		}
	}
	return n
}

// request is the change that the flags ask for; nil: a plain put.
func (c *changing) request(args []string, scope string) (*statev1.ChangeRequest, error) {
	req := &statev1.ChangeRequest{Name: args[0], Scope: scope, Increment: c.inc, Add: c.add, Remove: c.remove, Unset: c.unset}
	if c.set != "" {
		var fields map[string]json.RawMessage
		d := json.NewDecoder(strings.NewReader(c.set))
		if err := d.Decode(&fields); err != nil || d.More() {
			return nil, &usageError{fmt.Errorf("--set %s: want a JSON object", c.set)}
		}
		req.Fields = map[string][]byte{}
		for name, v := range fields {
			req.Fields[name] = v
		}
	}
	if err := knownType(c.of); err != nil {
		return nil, err
	}
	if c.kinds() > 1 {
		return nil, &usageError{errors.New("a change is for one type: --inc of a counter, --add and --remove of a set, --set and --unset of a map")}
	}
	changes := c.inc != 0 || len(c.add)+len(c.remove)+len(c.unset)+len(req.Fields) > 0
	switch {
	case c.of == string(value.Register) && len(args) == 2 && !changes:
		if !json.Valid([]byte(args[1])) {
			return nil, &usageError{fmt.Errorf("%s: the value of a register is JSON: quote text twice, '\"text\"'", args[1])}
		}
		req.Value = bytes.TrimSpace([]byte(args[1]))
	case changes && len(args) == 2:
		return nil, &usageError{errors.New("a change by flags takes no VALUE")}
	case changes:
	case len(args) < 2:
		return nil, &usageError{errors.New("want a VALUE, or one of --inc, --add, --remove, --set, --unset")}
	case c.of != "":
		return nil, &usageError{fmt.Errorf("--type %s takes --inc, --add, --remove, --set or --unset", c.of)}
	default:
		return nil, nil
	}
	if !shared(args[0]) {
		return nil, &usageError{fmt.Errorf("%s: a shared value has a name, <kind>/<name>, such as x-visits/total", args[0])}
	}
	return req, nil
}
