package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/bailiwick-mesh/bailiwick/policy/spelling"
)

// valuesOf is what a field may be by its tag enum; nil where it is free.
func valuesOf(f reflect.StructField) []string {
	if f.Type == reflect.TypeFor[Kind]() {
		return kindNames()
	}
	if tag := f.Tag.Get("enum"); tag != "" {
		return strings.Split(tag, ",")
	}
	return nil
}

var kindNames = sync.OnceValue(func() (out []string) {
	for _, k := range Kinds {
		out = append(out, string(k))
	}
	return out
})

// closedField is a field of Input that can be some values only.
type closedField struct {
	path   []string
	index  []int
	values []string
}

var closedFields = sync.OnceValue(func() (out []closedField) {
	var walk func(t reflect.Type, path []string, index []int)
	walk = func(t reflect.Type, path []string, index []int) {
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return
		}
		for f := range t.Fields() {
			name, _ := jsonName(f)
			path, index := append(slices.Clone(path), name), append(slices.Clone(index), f.Index...)
			if known := valuesOf(f); known != nil {
				out = append(out, closedField{path, index, known})
			} else {
				walk(f.Type, path, index)
			}
		}
	}
	walk(reflect.TypeFor[Input](), nil, nil)
	return out
})

// closed refuses a text that its field cannot have, and names the path of that. An empty one is not
// there.
func (in *Input) closed() (path []string, err error) {
	v := reflect.ValueOf(in).Elem()
	for _, f := range closedFields() {
		at, err := v.FieldByIndexErr(f.index)
		if err != nil {
			continue // what it is part of is not there
		}
		texts := []string{}
		if at.Kind() == reflect.Slice {
			texts = at.Interface().([]string)
		} else {
			texts = append(texts, at.String())
		}
		for _, s := range texts {
			if s != "" && !slices.Contains(f.values, s) {
				return f.path, fmt.Errorf("%s is %q, want one of %s%s", strings.Join(f.path, "."), s, strings.Join(f.values, ", "), spelling.DidYouMean(s, f.values))
			}
		}
	}
	return nil, nil
}

// inputValues is what the text at a path of the input may be; nil where it is free.
func inputValues(path []string) []string {
	for _, f := range closedFields() {
		if slices.Equal(f.path, path) {
			return f.values
		}
	}
	return nil
}
