package policy

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Limits of an input, beside MaxInput. They keep every allowed built-in function short.
const (
	MaxString = 4 << 10 // bytes of one string
	MaxList   = 256     // entries of one array or object
	MaxDepth  = 8       // nesting
)

// value is the input as Rego sees it. It equals what json.Marshal followed by parsing would give
// (tested), at a tenth of the cost.
func (in *Input) value() (ast.Value, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	e := encoder{left: MaxInput}
	t := e.structure(inputPlan, reflect.ValueOf(in).Elem(), 1)
	if e.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInput, e.err)
	}
	return t.Value, nil
}

// plan is how one struct type is encoded: made once, from its json tags.
type plan []planField

type planField struct {
	index     int
	key       *ast.Term
	name      string
	omitempty bool
	sub       plan // of a struct, a pointer to one or a map of them
}

var inputPlan = planOf(reflect.TypeFor[Input]())

func planOf(t reflect.Type) plan {
	var p plan
	for f := range t.Fields() {
		name, opt := jsonName(f)
		pf := planField{index: f.Index[0], key: ast.StringTerm(name), name: name, omitempty: opt}
		ft := f.Type
		if ft.Kind() == reflect.Pointer || ft.Kind() == reflect.Map {
			ft = ft.Elem()
		}
		if ft.Kind() == reflect.Struct {
			pf.sub = planOf(ft)
		}
		p = append(p, pf)
	}
	return p
}

// encoder carries what is left of the size budget and the first error.
type encoder struct {
	left int
	err  error
}

func (e *encoder) fail(name, format string, args ...any) *ast.Term {
	if e.err == nil {
		e.err = fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...))
	}
	return ast.NullTerm()
}

func (e *encoder) spend(name string, n int) {
	if e.left -= n; e.left < 0 {
		e.fail(name, "the whole input is larger than %d bytes", MaxInput)
	}
}

func (e *encoder) structure(p plan, v reflect.Value, depth int) *ast.Term {
	items := make([][2]*ast.Term, 0, len(p))
	for i := range p {
		f := &p[i]
		fv := v.Field(f.index)
		if f.omitempty && empty(fv) {
			continue
		}
		e.spend(f.name, len(f.name)+4)
		items = append(items, [2]*ast.Term{f.key, e.field(f, fv, depth)})
	}
	return ast.ObjectTerm(items...)
}

func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Map, reflect.Slice:
		return v.Len() == 0
	}
	return v.IsZero()
}

func (e *encoder) field(f *planField, v reflect.Value, depth int) *ast.Term {
	switch v.Kind() {
	case reflect.Pointer:
		return e.structure(f.sub, v.Elem(), depth+1)
	case reflect.Struct:
		return e.structure(f.sub, v, depth+1)
	case reflect.String:
		return e.str(f.name, v.String())
	case reflect.Bool:
		return ast.InternedTerm(v.Bool())
	case reflect.Int, reflect.Int64:
		return e.number(f.name, v.Int())
	case reflect.Uint32, reflect.Uint64:
		e.spend(f.name, 20)
		return ast.NewTerm(ast.Number(strconv.FormatUint(v.Uint(), 10)))
	}
	switch x := v.Interface().(type) {
	case []string:
		return e.strings(f.name, x)
	case []int:
		return list(e, f.name, x, func(n int) *ast.Term { return e.number(f.name, int64(n)) })
	case map[string]string:
		return object(e, f.name, x, e.str)
	case map[string][]string:
		return object(e, f.name, x, e.strings)
	case map[string]any:
		return object(e, f.name, x, func(name string, a any) *ast.Term { return e.any(name, a, depth+2) })
	case map[string]LevelState:
		return object(e, f.name, x, func(_ string, l LevelState) *ast.Term {
			return e.structure(f.sub, reflect.ValueOf(l), depth+2)
		})
	}
	panic("policy: cannot encode " + v.Type().String())
}

func object[V any](e *encoder, name string, m map[string]V, enc func(string, V) *ast.Term) *ast.Term {
	if len(m) > MaxList {
		return e.fail(name, "%d entries, at most %d", len(m), MaxList)
	}
	items := make([][2]*ast.Term, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		items = append(items, [2]*ast.Term{e.str(name, k), enc(name+"."+k, m[k])})
	}
	return ast.ObjectTerm(items...)
}

func list[V any](e *encoder, name string, s []V, enc func(V) *ast.Term) *ast.Term {
	if len(s) > MaxList {
		return e.fail(name, "%d entries, at most %d", len(s), MaxList)
	}
	terms := make([]*ast.Term, len(s))
	for i, x := range s {
		terms[i] = enc(x)
	}
	return ast.ArrayTerm(terms...)
}

func (e *encoder) strings(name string, s []string) *ast.Term {
	if s == nil {
		return ast.NullTerm() // as JSON has it
	}
	return list(e, name, s, func(x string) *ast.Term { return e.str(name, x) })
}

func (e *encoder) str(name, s string) *ast.Term {
	if len(s) > MaxString {
		return e.fail(name, "a string of %d bytes, at most %d", len(s), MaxString)
	}
	if !utf8.ValidString(s) { // JSON would silently replace the bytes: the record would not replay
		return e.fail(name, "a string that is not UTF-8")
	}
	e.spend(name, len(s)+3)
	return ast.StringTerm(s)
}

func (e *encoder) number(name string, n int64) *ast.Term {
	e.spend(name, 20)
	return ast.NewTerm(ast.Number(strconv.FormatInt(n, 10)))
}

// any encodes a fact the caller derived: what JSON can hold, and Go's integers.
func (e *encoder) any(name string, v any, depth int) *ast.Term {
	if depth > MaxDepth {
		return e.fail(name, "nested more than %d deep", MaxDepth)
	}
	e.spend(name, 4)
	switch x := v.(type) {
	case nil:
		return ast.NullTerm()
	case bool:
		return ast.InternedTerm(x)
	case string:
		return e.str(name, x)
	case int:
		return e.number(name, int64(x))
	case int64:
		return e.number(name, x)
	case uint32:
		return e.number(name, int64(x))
	case float64:
		if x != float64(int64(x)) || x > 1<<53 || x < -1<<53 {
			return e.fail(name, "%v is not a whole number below 2^53", x)
		}
		return e.number(name, int64(x))
	case []string:
		return e.strings(name, x)
	case []any:
		if x == nil {
			return ast.NullTerm()
		}
		return list(e, name, x, func(y any) *ast.Term { return e.any(name, y, depth+1) })
	case map[string]string:
		if x == nil {
			return ast.NullTerm()
		}
		return object(e, name, x, e.str)
	case map[string]any:
		if x == nil {
			return ast.NullTerm()
		}
		return object(e, name, x, func(n string, y any) *ast.Term { return e.any(n, y, depth+1) })
	}
	return e.fail(name, "a %T, want a string, boolean, whole number, list or object", v)
}
