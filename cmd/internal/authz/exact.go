package authz

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// maxDepth is how deep a request may be nested.
const maxDepth = 32

// exact refuses JSON of which two readers could see different things: a name that is there
// twice, a name that differs only in case from one that is read, bytes after the end. Package
// json would take either. The names of a map are those of headers, whose case does not count.
func exact(b []byte, into reflect.Type) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if err := exactValue(d, into, 1); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("bytes after the end")
	}
	return nil
}

// exactValue reads the next value. into is nil for what is not read.
func exactValue(d *json.Decoder, into reflect.Type, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested more than %d deep", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return err
	}
	if _, ok := t.(json.Delim); !ok {
		return nil
	}
	if into != nil && into.Kind() == reflect.Pointer {
		into = into.Elem()
	}
	seen := map[string]bool{}
	for d.More() {
		inner := into
		switch {
		case t == json.Delim('{'):
			if inner, err = exactName(d, into, seen); err != nil {
				return err
			}
		case into != nil && into.Kind() == reflect.Slice:
			inner = into.Elem()
		}
		if err := exactValue(d, inner, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// exactName reads the name of a member, and returns the type of its value.
func exactName(d *json.Decoder, of reflect.Type, seen map[string]bool) (reflect.Type, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	name, _ := t.(string)
	var inner reflect.Type
	switch {
	case of == nil:
	case of.Kind() == reflect.Map:
		name, inner = strings.ToLower(name), of.Elem()
	case of.Kind() == reflect.Struct:
		for _, f := range reflect.VisibleFields(of) {
			tag := f.Tag.Get("json")
			switch {
			case tag == "": // a struct within, whose fields are visible too
			case tag == name:
				inner = f.Type
			case strings.EqualFold(tag, name):
				return nil, fmt.Errorf("the name %.40q: want %q", name, tag)
			}
		}
	}
	if seen[name] {
		return nil, fmt.Errorf("the name %.40q is there twice", name)
	}
	seen[name] = true
	return inner, nil
}
