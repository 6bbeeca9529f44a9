package schema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
)

// Bounds of a document, be it a schema's file or a value.
const (
	MaxFile  = 64 << 10 // bytes
	MaxDepth = 24
	MaxNodes = 4096

	maxNumber   = 64 // characters
	maxExponent = 400
)

// node is one value of a document and where it begins.
type node struct {
	at     int    // offset in bytes
	scalar any    // string, json.Number, bool or nil; of leaves only
	object bool   // members are its own
	array  bool   // members are its items, without keys
	keys   []text // of an object, in order
	sub    []*node
}

type text struct {
	s  string
	at int
}

func (n *node) member(key string) *node {
	for i, k := range n.keys {
		if k.s == key {
			return n.sub[i]
		}
	}
	return nil
}

// size is how many values there are.
func (n *node) size() int {
	sum := 1
	for _, s := range n.sub {
		sum += s.size()
	}
	return sum
}

// value is the node as the library wants it.
func (n *node) value() any {
	switch {
	case n.object:
		m := make(map[string]any, len(n.sub))
		for i, k := range n.keys {
			m[k.s] = n.sub[i].value()
		}
		return m
	case n.array:
		list := make([]any, len(n.sub))
		for i, s := range n.sub {
			list[i] = s.value()
		}
		return list
	}
	return n.scalar
}

// document is a text being read.
type document struct {
	src  []byte
	dec  *json.Decoder
	left int
}

// parse reads one JSON value, with nothing after it. Errors say where.
func parse(src []byte) (*node, error) {
	if len(src) > MaxFile {
		return nil, fmt.Errorf("%d bytes, at most %d", len(src), MaxFile)
	}
	if !utf8.Valid(src) {
		return nil, fmt.Errorf("it is not UTF-8")
	}
	d := &document{src: src, dec: json.NewDecoder(bytes.NewReader(src)), left: MaxNodes}
	d.dec.UseNumber()
	n, err := d.next(1)
	if err != nil {
		return nil, err
	}
	if _, err := d.dec.Token(); err != io.EOF {
		return nil, d.fail("there is something after the end of the value")
	}
	return n, nil
}

// line is the number of the line at an offset, from 1.
func line(src []byte, at int) int { return 1 + bytes.Count(src[:min(at, len(src))], []byte{'\n'}) }

func (d *document) fail(format string, args ...any) error {
	return &lineError{line(d.src, int(d.dec.InputOffset())), fmt.Sprintf(format, args...)}
}

// lineError is a mistake at a line.
type lineError struct {
	line int
	text string
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.text) }

// begin is where the next token begins.
func (d *document) begin() int {
	at := int(d.dec.InputOffset())
	for at < len(d.src) && strings.IndexByte(" \t\r\n,:", d.src[at]) >= 0 {
		at++
	}
	return at
}

func (d *document) next(depth int) (*node, error) {
	if d.left--; d.left < 0 {
		return nil, d.fail("more than %d values", MaxNodes)
	}
	if depth > MaxDepth {
		return nil, d.fail("nested more than %d deep", MaxDepth)
	}
	n := &node{at: d.begin()}
	t, err := d.dec.Token()
	if err != nil {
		return nil, d.fail("not JSON: %v", err)
	}
	switch t := t.(type) {
	case json.Delim:
		n.object, n.array = t == '{', t == '['
		return n, d.members(n, depth)
	case json.Number:
		if err := number(t.String()); err != nil {
			return nil, d.fail("%v", err)
		}
	}
	n.scalar = t
	return n, nil
}

func (d *document) members(n *node, depth int) error {
	seen := map[string]bool{}
	for d.dec.More() {
		if n.object {
			k := text{at: d.begin()}
			t, err := d.dec.Token()
			if err != nil {
				return d.fail("not JSON: %v", err)
			}
			if k.s, _ = t.(string); seen[k.s] {
				return d.fail("the key %q is there twice", bounded.Excerpt(k.s, 64))
			}
			seen[k.s] = true
			n.keys = append(n.keys, k)
		}
		s, err := d.next(depth + 1)
		if err != nil {
			return err
		}
		n.sub = append(n.sub, s)
	}
	if _, err := d.dec.Token(); err != nil {
		return d.fail("not JSON: %v", err)
	}
	return nil
}

// number refuses what costs more to count with than it is worth.
func number(s string) error {
	if len(s) > maxNumber {
		return fmt.Errorf("a number of %d characters, at most %d", len(s), maxNumber)
	}
	_, exponent, ok := strings.Cut(strings.ToLower(s), "e")
	if !ok {
		return nil
	}
	if e, err := strconv.Atoi(exponent); err != nil || e > maxExponent || e < -maxExponent {
		return fmt.Errorf("the number %s: its exponent is not within %d", s, maxExponent)
	}
	return nil
}
