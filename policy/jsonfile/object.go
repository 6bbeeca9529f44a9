package jsonfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// Object reads b, one object of any shape, whose numbers keep their digits. Its errors are an Error.
func Object(b []byte) (m map[string]any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		return nil, explain(b, m, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, Error{mistakeAt(b, int(d.InputOffset()), "bytes after the end")}
	}
	if m == nil {
		return nil, Error{mistakeAt(b, 1, "it is null, want an object")}
	}
	return m, nil
}

// Once refuses an object that has a key twice: the second would silently take the place of the first.
// What is no JSON is left to Decode and Object. Its errors are an Error.
func Once(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	type object struct {
		keys  map[string]bool // nil: an array
		isKey bool            // a string now is a key
	}
	var open []object
	for {
		t, err := d.Token()
		if err != nil {
			return nil
		}
		if len(open) > 0 {
			in := &open[len(open)-1]
			if key, ok := t.(string); ok && in.isKey {
				if in.keys[key] {
					to := int(d.InputOffset())
					from := bytes.LastIndexByte(b[:to-1], '"') // of a key with an escaped quote, the last part
					return Error{mistake(b, from, to, fmt.Sprintf("the key %.64q is there twice in one object", key))}
				}
				in.keys[key], in.isKey = true, false
				continue
			}
			in.isKey = in.keys != nil
		}
		switch t {
		case json.Delim('{'):
			open = append(open, object{map[string]bool{}, true})
		case json.Delim('['):
			open = append(open, object{})
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
	}
}
