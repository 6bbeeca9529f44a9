package jsonfile

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/policy/spelling"
)

// maxDepth is that of encoding/json.
const maxDepth = 10_000

// walk calls key for every key of every object, with the path to it and where it is written.
// Elements of a list have the path of the list.
func walk(b []byte, key func(path []string, from, to int)) error {
	d := json.NewDecoder(bytes.NewReader(b))
	var next func(path []string, depth int) error
	next = func(path []string, depth int) error {
		if depth > maxDepth {
			return fmt.Errorf("nested more than %d times", maxDepth)
		}
		t, err := d.Token()
		open, nested := t.(json.Delim)
		if err != nil || !nested {
			return err
		}
		for d.More() {
			below := path
			if open == '{' {
				from := int(d.InputOffset())
				name, err := d.Token()
				if err != nil {
					return err
				}
				to := int(d.InputOffset())
				from = to - len(bytes.TrimLeft(b[from:to], " \t\r\n,"))
				below = append(slices.Clone(path), fmt.Sprint(name))
				key(below, from, to)
			}
			if err := next(below, depth+1); err != nil {
				return err
			}
		}
		_, err = d.Token()
		return err
	}
	return next(nil, 0)
}

// unknownFields are the keys that the type of into has no field for.
func unknownFields(b []byte, into any) (out Error) {
	_ = walk(b, func(path []string, from, to int) { // that it is JSON was seen before
		known, open := fieldsAt(reflect.TypeOf(into), path[:len(path)-1])
		name := path[len(path)-1]
		if open || slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, name) }) {
			return
		}
		// Only the outermost of what is unknown: fieldsAt takes what is below it for open.
		text := fmt.Sprintf("%s has no field %s", cmp.Or(strings.Join(path[:len(path)-1], "."), "it"), name)
		if near := spelling.Nearest(name, known); near != "" {
			text += "; did you mean " + near + "?"
		} else {
			text += "; it has " + strings.Join(known, ", ")
		}
		out = append(out, mistake(b, from, to, text))
	})
	return out
}

var (
	ownJSON = reflect.TypeFor[json.Unmarshaler]()
	ownText = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// fieldsAt are the names of the fields at a path below a type; open: it may have any, or says itself
// what it reads.
func fieldsAt(t reflect.Type, path []string) (names []string, open bool) {
	for t != nil && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		t = t.Elem()
	}
	if t == nil || reflect.PointerTo(t).Implements(ownJSON) || reflect.PointerTo(t).Implements(ownText) {
		return nil, true
	}
	switch t.Kind() {
	case reflect.Map:
		if len(path) == 0 {
			return nil, true
		}
		return fieldsAt(t.Elem(), path[1:])
	case reflect.Struct:
	default:
		return nil, true
	}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		if name == "" {
			name = f.Name
		}
		if len(path) > 0 && strings.EqualFold(name, path[0]) {
			return fieldsAt(f.Type, path[1:])
		}
		names = append(names, name)
	}
	return names, len(path) > 0
}

// kindName is a type in the words of JSON.
func kindName(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number from 0"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

// valueName is a value as json.UnmarshalTypeError describes it in the same words.
func valueName(s string) string {
	switch s {
	case "bool":
		return "true or false"
	case "array":
		return "a list"
	case "object":
		return "an object"
	case "string", "number":
		return "a " + s
	}
	return "the " + s // number 1.5
}
