// Package jsonfile reads the JSON that people write for policy: inputs, plans, rosters.
//
// It is strict: one value, and no field that its type does not have. Every unknown field is told at
// once, each with its line, number and text, and with the field that was meant; of what is no JSON, or has a value of
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

	"github.com/bailiwick-mesh/bailiwick/policy/spelling"
)

// Mistake is one thing that is wrong in a text.
type Mistake struct {
	Line   int // from 1
	Column int // from 1, in bytes
	Text   string
	Source string // the line as it was written, without its end

	width int // bytes of Source that are wrong; 0 where only the beginning is known
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

// In says in which file and line an error is, and shows the line, where there is an Error in it:
//
//	inputs/a.json:7: it has no field knd; did you mean kind?
//	   7 |   "knd": "connect",
//	     |   ^^^^^
//
// The result wraps err.
func In(file string, err error) error {
	var list Error
	if !errors.As(err, &list) || len(list) == 0 {
		return fmt.Errorf("%s: %w", file, err)
	}
	if len(list) == 1 {
		list = Error{list[0]}
		list[0].Text = err.Error() // with what it was wrapped in
	}
	lines := make([]string, len(list))
	for i, m := range list {
		lines[i] = fmt.Sprintf("%s:%d: %s\n%s", file, m.Line, m.Text, spelling.Show(m.Line, m.Column, m.width, m.Source))
	}
	return &placed{strings.Join(lines, "\n"), err}
}

// placed is an error that shows its lines.
type placed struct {
	text string
	err  error
}

func (e *placed) Error() string { return e.text }
func (e *placed) Unwrap() error { return e.err }

// Decode reads b, one value of JSON, into what into points at. Its errors are an Error.
func Decode(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return explain(b, into, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Error{mistakeAt(b, int(d.InputOffset()), "bytes after the end")}
	}
	return nil
}

func explain(b []byte, into any, err error) error {
	text := strings.TrimPrefix(err.Error(), "json: ")
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		return Error{mistakeAt(b, int(syntax.Offset), "it is no JSON: "+text)}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Error{mistakeAt(b, len(b), "it is no JSON: it ends too early")}
	}
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		name := wrong.Field
		if name == "" {
			name = "it"
		}
		return Error{mistakeAt(b, int(wrong.Offset), fmt.Sprintf("%s is %s, want %s", name, valueName(wrong.Value), kindName(wrong.Type)))}
	}
	if list := unknownFields(b, into); len(list) > 0 {
		return list
	}
	return Error{mistakeAt(b, 1, text)}
}

// At is an Error about the value at a path of names, such as source.standing, or about the nearest
// that it would be in where nothing is there.
func At(b []byte, path []string, text string) Error {
	from, to, near := 0, 1, 0
	_ = walk(b, func(here []string, begins, ends int) {
		if n := len(here); n > near && n <= len(path) && slices.Equal(here, path[:n]) {
			from, to, near = begins, ends, n
		}
	})
	return Error{mistake(b, from, to, text)}
}

// mistakeAt is one that ends at an offset, as decoders count: past the byte they did not expect.
func mistakeAt(b []byte, end int, text string) Mistake {
	end = min(max(end, 0), len(b))
	if end == len(b) { // past the end is past the last words
		end = len(bytes.TrimRight(b, " \t\r\n"))
	}
	return mistake(b, max(end-1, 0), end, text)
}

// mistake is one in some bytes of a text.
func mistake(b []byte, from, to int, text string) Mistake {
	line := b[bytes.LastIndexByte(b[:from], '\n')+1:]
	column := from - (len(b) - len(line))
	if i := bytes.IndexByte(line, '\n'); i >= 0 {
		line = line[:i]
	}
	return Mistake{Line: 1 + bytes.Count(b[:from], []byte{'\n'}), Column: column + 1, Text: text,
		Source: strings.TrimRight(string(line), "\r"), width: to - from}
}
