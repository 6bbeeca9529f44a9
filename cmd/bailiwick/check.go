package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/issuing"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

func checkCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "check", Short: "Look for trouble before it happens"}
	c.AddCommand(
		&cobra.Command{
			Use:   "config FILE",
			Short: "Read a node's configuration and report every mistake at once",
			Args:  cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				c, err := config.Load(args[0])
				if err == nil && c.Issuer != nil {
					err = issuing.CheckEntries(c)
				}
				if errors.Is(err, config.ErrUnreadable) {
					return err
				}
				if err != nil {
					return errors.Join(tellMistakes(o, err), err)
				}
				return o.tell(map[string]any{"file": args[0], "node": c.Node.String(), "mistakes": 0},
					fmt.Sprintf("%s: no mistakes; it configures %s", args[0], c.Node))
			},
		},
		checkTPMCommand(o),
	)
	return c
}

// mistake is a config.Mistake as programs read it.
type mistake struct {
	File  string `json:"file"`
	Line  int    `json:"line"` // 0 where there is no line to point at
	Field string `json:"field"`
	Found string `json:"found"`
	Want  string `json:"want"`
}

// tellMistakes prints the mistakes in err for programs. People read the error.
func tellMistakes(o *options, err error) error {
	doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{}}
	for _, m := range mistakesIn(err) {
		b, err := json.Marshal(m)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
	}
	return output.Write(o.out, o.format, doc, func(io.Writer) {})
}

// mistakesIn finds the mistakes of each file in err. What is wrong and is no mistake in
// a file's form, such as entries that contradict each other, is one without a place.
func mistakesIn(err error) (out []mistake) {
	var m *config.Mistakes
	if !errors.As(err, &m) {
		return []mistake{{Want: err.Error()}}
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			out = append(out, mistakesIn(e)...)
		}
		return out
	}
	for _, e := range m.List {
		out = append(out, mistake{m.File, e.Line, e.Field, e.Found, e.Want})
	}
	return out
}
