package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

// policyMistake is a policy.Mistake as programs read it.
type policyMistake struct {
	Code    string `json:"code,omitempty"` // bailiwick explain CODE
	What    string `json:"what"`
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message,omitempty"`
	Fix     string `json:"fix,omitempty"`
	Source  string `json:"source,omitempty"`
}

// treeMistakes is an error of compiling a tree: execute has it told by tellPolicyMistakes.
type treeMistakes struct {
	tree *workbench.Tree
	error
}

func (e *treeMistakes) Unwrap() error { return e.error }

// mistaken says whose mistakes an error is; nil stays nil.
func mistaken(tree *workbench.Tree, err error) error {
	if err == nil {
		return nil
	}
	return &treeMistakes{tree, err}
}

// tellPolicyMistakes prints every mistake of a tree with its line and the likely fix, and returns
// what ends the command: people read standard error, programs the document. Nil err is nil.
func tellPolicyMistakes(o *options, tree *workbench.Tree, err error) error {
	if err == nil {
		return nil
	}
	list := policy.Mistakes(err)
	doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{}}
	for _, m := range list {
		item := policyMistake{What: m.Is.Error(), Line: m.Line, Column: m.Column, Message: m.Message, Fix: m.Fix, Source: m.Source}
		if e, ok := explain.Of(m.Is); ok {
			item.Code = e.Code
		}
		if m.File != "" {
			item.File = tree.Path(m.File)
		}
		b, err := json.Marshal(item)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
		if o.format == output.Table {
			fmt.Fprint(o.err, mistakeText(item, m.Snippet()))
		}
	}
	if o.format == output.Table {
		fmt.Fprintf(o.err, "%s; bailiwick explain CODE says more\n", plural(len(list), "mistake"))
	} else if err := output.Write(o.out, o.format, doc, nil); err != nil {
		return err
	}
	return &exitCode{explain.Exit(err)}
}

// mistakeText is a headline as compilers write it, the line with carets, and the fix.
func mistakeText(m policyMistake, snippet string) string {
	var b strings.Builder
	if m.File != "" {
		fmt.Fprintf(&b, "%s:", m.File)
		if m.Line > 0 {
			fmt.Fprintf(&b, "%d:%d:", m.Line, m.Column)
		}
		b.WriteByte(' ')
	}
	if m.Code != "" {
		fmt.Fprintf(&b, "%s: ", m.Code)
	}
	if m.Message == "" {
		fmt.Fprintln(&b, m.What)
	} else {
		fmt.Fprintln(&b, m.Message)
	}
	if snippet != "" {
		fmt.Fprintln(&b, snippet)
	}
	if m.Fix != "" {
		fmt.Fprintf(&b, "  fix: %s\n", m.Fix)
	}
	return b.String()
}

// plural is a number of things: "1 mistake", "2 mistakes".
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
