package value

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Type is how the parts of a name become one value.
type Type string

// The types.
const (
	Register Type = "register"
	Counter  Type = "counter"
	Set      Type = "set"
	Map      Type = "map"
)

// Types lists them.
var Types = []Type{Register, Counter, Set, Map}

// Bounds of a part.
const (
	MaxPart    = 15 << 10 // bytes, as feed.MaxValue
	MaxEntries = 1024     // of a set, both lists together, or a map
	MaxElement = 256      // bytes of an element or a field's name

	maxNumber = 1<<53 - 1
)

var (
	// ErrPart means bytes are no part, or would be none that fits: the message says what is
	// wrong. Spread what is too large over several names.
	ErrPart = errors.New("not a part of a shared value")

	// ErrType means a name has another type than was asked for, or its parts have several.
	// Name the type, or use another name.
	ErrType = errors.New("the name has another type")

	// ErrNoElement means a set does not have an element, or a map a field, that should go.
	ErrNoElement = errors.New("no such element")
)

// Part is what one owner says under a name. Its zero value is of no type and says nothing.
type Part struct {
	Type Type

	register json.RawMessage
	inc, dec uint64
	add      map[string]uint64            // element -> when
	removed  map[string]map[string]uint64 // element -> owner -> when the add was made
	fields   map[string]field
}

// field is one of a map; without a value it is unset.
type field struct {
	At    uint64          `json:"at"`
	Value json.RawMessage `json:"value,omitempty"`
}

// wireSet is a set as it is written.
type wireSet struct {
	Add     map[string]uint64            `json:"add,omitempty"`
	Removed map[string]map[string]uint64 `json:"removed,omitempty"`
}

// Parse reads a part. Errors wrap ErrPart.
func Parse(b []byte) (p Part, err error) {
	if len(b) > MaxPart {
		return p, fmt.Errorf("%w: %d bytes, at most %d", ErrPart, len(b), MaxPart)
	}
	if !utf8.Valid(b) {
		return p, fmt.Errorf("%w: it is not UTF-8", ErrPart)
	}
	outer, err := object(b)
	if err != nil || len(outer) != 1 {
		return p, fmt.Errorf("%w: want an object with one member: register, counter, set or map", ErrPart)
	}
	for name, body := range outer {
		p.Type = Type(name)
		switch p.Type {
		case Register:
			p.register = body
		case Counter:
			err = p.readCounter(body)
		case Set:
			err = p.readSet(body)
		case Map:
			err = p.readMap(body)
		default:
			err = fmt.Errorf("%q is none of register, counter, set, map", name)
		}
	}
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return Part{}, fmt.Errorf("%w: %w", ErrPart, err)
	}
	return p, nil
}

// object takes an object apart by its members' exact names, which encoding/json does not.
func object(b []byte) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	return m, decode(b, &m)
}

func decode(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is something after its end")
	}
	return nil
}

// members reads an object that has at most these, each into its own.
func members(b []byte, into map[string]any) error {
	all, err := object(b)
	if err != nil {
		return err
	}
	for name, body := range all {
		v := into[name]
		if v == nil {
			return fmt.Errorf("%q does not belong there", name)
		}
		if err := decode(body, v); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (p *Part) readCounter(b []byte) error {
	return members(b, map[string]any{"inc": &p.inc, "dec": &p.dec})
}

func (p *Part) readSet(b []byte) error {
	return members(b, map[string]any{"add": &p.add, "removed": &p.removed})
}

func (p *Part) readMap(b []byte) error {
	all, err := object(b)
	if err != nil {
		return err
	}
	p.fields = make(map[string]field, len(all))
	for name, body := range all {
		var f field
		if err := members(body, map[string]any{"at": &f.At, "value": &f.Value}); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p.fields[name] = f
	}
	return nil
}

// check holds a part against its bounds.
func (p *Part) check() error {
	entries := len(p.add) + len(p.fields)
	numbers := []uint64{p.inc, p.dec}
	name := func(what, s string) error {
		if s == "" || len(s) > MaxElement || !utf8.ValidString(s) {
			return fmt.Errorf("%s %.32q: want 1 to %d bytes of UTF-8", what, s, MaxElement)
		}
		return nil
	}
	var errs []error
	for e, when := range p.add {
		numbers = append(numbers, when)
		errs = append(errs, name("element", e))
	}
	for e, by := range p.removed {
		entries += len(by)
		errs = append(errs, name("element", e))
		for owner, when := range by {
			numbers = append(numbers, when)
			errs = append(errs, name("owner", owner))
		}
	}
	for f, v := range p.fields {
		numbers = append(numbers, v.At)
		errs = append(errs, name("field", f))
	}
	if entries > MaxEntries {
		return fmt.Errorf("%d entries, at most %d", entries, MaxEntries)
	}
	for _, n := range numbers {
		if n > maxNumber {
			return fmt.Errorf("the number %d is not below 2^53", n)
		}
	}
	return errors.Join(errs...)
}

// Encode returns the one spelling of a part that this package writes. Errors wrap ErrPart.
func (p Part) Encode() ([]byte, error) {
	var body any
	switch p.Type {
	case Register:
		body = p.register
	case Counter:
		body = struct {
			Inc uint64 `json:"inc"`
			Dec uint64 `json:"dec"`
		}{p.inc, p.dec}
	case Set:
		body = wireSet{p.add, p.removed}
	case Map:
		body = p.fields
	default:
		return nil, fmt.Errorf("%w: it has no type", ErrPart)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPart, err)
	}
	b, err := json.Marshal(map[Type]any{p.Type: body})
	if err == nil && len(b) > MaxPart {
		err = fmt.Errorf("%d bytes, at most %d", len(b), MaxPart)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPart, err)
	}
	return b, nil
}
