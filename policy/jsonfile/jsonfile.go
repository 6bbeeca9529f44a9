// Package jsonfile reads the JSON that people write for policy: inputs, plans, rosters.
//
// It is strict: one value, and no field that its type does not have. Every unknown field is told at
// once, each with its line and with the field that was meant; of what is no JSON, or has a value of
// the wrong type, the first. It sets no bound on the size: that is the caller's, and the line of a
// mistake is looked for only where there is one.
package jsonfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Mistake is one thing that is wrong in a text.
type Mistake struct {
	Line int // from 1
	Text string
}

// Error is what is wrong, each thing in it, in the order of their lines.
type Error []Mistake

// Error joins the texts, without the lines: whoever knows the file says those (In).
func (e Error) Error() string {
	texts := make([]string, len(e))
	for i, m := range e {
		texts[i] = m.Text
	}
	return strings.Join(texts, "; ")
}

// In says in which file and line an error is, "inputs/a.json:7: ...", where there is an Error in it.
// The result wraps err.
func In(file string, err error) error {
	var list Error
	if !errors.As(err, &list) || len(list) == 0 {
		return fmt.Errorf("%s: %w", file, err)
	}
	if len(list) == 1 {
		return fmt.Errorf("%s:%d: %w", file, list[0].Line, err)
	}
	lines := make([]string, len(list))
	for i, m := range list {
		lines[i] = fmt.Sprintf("%s:%d: %s", file, m.Line, m.Text)
	}
	return &several{strings.Join(lines, "\n"), err}
}

// several is an error that has a line for each mistake.
type several struct {
	text string
	err  error
}

func (e *several) Error() string { return e.text }
func (e *several) Unwrap() error { return e.err }

// Decode reads b, one value of JSON, into what into points at. Its errors are an Error.
func Decode(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return explain(b, into, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Error{{lineOf(b, int(d.InputOffset())), "bytes after the end"}}
	}
	return nil
}

func explain(b []byte, into any, err error) error {
	text := strings.TrimPrefix(err.Error(), "json: ")
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		return Error{{lineOf(b, int(syntax.Offset)), "it is no JSON: " + text}}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Error{{lineOf(b, len(b)), "it is no JSON: it ends too early"}}
	}
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		name := wrong.Field
		if name == "" {
			name = "it"
		}
		return Error{{lineOf(b, int(wrong.Offset)), fmt.Sprintf("%s is %s, want %s", name, valueName(wrong.Value), kindName(wrong.Type))}}
	}
	if list := unknownFields(b, into); len(list) > 0 {
		return list
	}
	return Error{{1, text}}
}

// At is an Error about the value at a path of names, such as source.standing, or about the whole
// where nothing is there.
func At(b []byte, path []string, text string) Error {
	at := 1
	_ = walk(b, func(here []string, offset int) {
		if slices.Equal(here, path) {
			at = lineOf(b, offset)
		}
	})
	return Error{{at, text}}
}

// lineOf is the line of an offset; past the end it is the last one with words.
func lineOf(b []byte, offset int) int {
	before := b[:min(max(offset, 0), len(b))]
	if offset >= len(b) {
		before = bytes.TrimRight(before, " \t\r\n")
	}
	return 1 + bytes.Count(before, []byte{'\n'})
}
