// Package output prints what the command has to say: a table for people, or the
// same facts as JSON or YAML for programs.
//
// Every document has one shape, so that a script written for one verb works
// for the next:
//
//	{"as_of": RFC 3339, "view_of": SPIFFE ID, "nodes" or "items": [...]}
//
// A list without anything in it is [], and there all the same.
//
// Field names are snake_case and only ever added. Colour is used on a terminal
// only, honours NO_COLOR, and never says anything the words do not.
package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
	"golang.org/x/term"
)

// Format is what -o takes.
type Format string

// The formats of -o.
const (
	Table Format = "table"
	JSON  Format = "json"
	YAML  Format = "yaml"
)

// Set, String and Type make Format a flag value.
func (f *Format) Set(s string) error {
	switch v := Format(s); v {
	case Table, JSON, YAML:
		*f = v
		return nil
	}
	return fmt.Errorf("%q: want table, json or yaml", s)
}

func (f *Format) String() string { return string(*f) }

// Type names the value in help texts.
func (f *Format) Type() string { return "table|json|yaml" }

// Document is one answer. Of Nodes and Items, the one that is nil is left out.
type Document struct {
	AsOf   time.Time         `json:"as_of"`
	ViewOf string            `json:"view_of"`
	Nodes  []json.RawMessage `json:"nodes,omitzero"`
	Items  []json.RawMessage `json:"items,omitzero"`
}

// Write prints the document, or calls table where people read.
func Write(w io.Writer, f Format, doc Document, table func(io.Writer)) error {
	if f == Table || f == "" {
		table(w)
		return nil
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	if f == YAML {
		if b, err = yaml.JSONToYAML(b); err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

// Columns prints rows under a header, aligned, with no blanks at the end of a line.
func Columns(w io.Writer, header string, rows [][]string) {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	names := strings.Split(header, " ")
	fmt.Fprintln(t, strings.Join(names, "\t"))
	for _, row := range rows {
		short := make([]string, max(0, len(names)-len(row))) // a short row must not break the columns below it
		fmt.Fprintln(t, strings.Join(append(row, short...), "\t"))
	}
	t.Flush()
	for line := range strings.Lines(b.String()) {
		fmt.Fprintln(w, strings.TrimRight(line, " \n"))
	}
}

// IsTerminal reports whether w is a terminal: where progress and colour belong.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Span prints a duration shortly, as people say it: 59m, 3h20m, 12s, 5d.
func Span(d time.Duration) string {
	if d < 0 {
		return "-" + Span(-d)
	}
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// Line prints one of many documents that have no end: a line of JSON, a YAML
// document, or what people read.
func Line(w io.Writer, f Format, v any, table func(io.Writer)) error {
	switch f {
	case JSON:
		return json.NewEncoder(w).Encode(v)
	case YAML:
		b, err := json.Marshal(v)
		if err == nil {
			b, err = yaml.JSONToYAML(b)
		}
		if err == nil {
			_, err = fmt.Fprintf(w, "---\n%s", b)
		}
		return err
	}
	table(w)
	return nil
}
