package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Limits of an input, beside MaxInput. They keep every allowed built-in function short.
const (
	MaxString = 4 << 10 // bytes of one string
	MaxList   = 256     // entries of one array or object
	MaxDepth  = 8       // nesting
)

// encoder carries what is left of the size budget and the first error.
type encoder struct {
	left int
	err  error
	dry  bool // only the limits matter: no terms are made
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

func (e *encoder) structure(fields []viewField, base unsafe.Pointer, depth int) *ast.Term {
	var items [][2]*ast.Term
	if !e.dry {
		items = make([][2]*ast.Term, 0, len(fields))
	}
	for i := range fields {
		f := &fields[i]
		if f.omitempty && f.empty(base) {
			continue
		}
		e.spend(f.name, len(f.name)+4)
		if t := e.field(f, base, depth); !e.dry {
			items = append(items, [2]*ast.Term{f.key, t})
		}
	}
	if e.dry {
		return nil
	}
	return ast.ObjectTerm(items...)
}

// empty reports whether the field of the struct at base is one that omitempty leaves out.
func (f *viewField) empty(base unsafe.Pointer) bool {
	switch f.form {
	case formText:
		return field[string](base, f) == ""
	case formFlag:
		return !field[bool](base, f)
	case formInt:
		return field[int](base, f) == 0
	case formInt64, formUint64:
		return field[uint64](base, f) == 0
	case formUint32:
		return field[uint32](base, f) == 0
	case formTexts:
		return len(field[[]string](base, f)) == 0
	case formInts:
		return len(field[[]int](base, f)) == 0
	case formTable:
		return len(field[map[string]string](base, f)) == 0
	case formLists:
		return len(field[map[string][]string](base, f)) == 0
	case formFacts:
		return len(field[map[string]any](base, f)) == 0
	case formLevels:
		return len(field[map[string]LevelState](base, f)) == 0
	case formOptional:
		return field[unsafe.Pointer](base, f) == nil
	}
	return false
}

func (e *encoder) field(f *viewField, base unsafe.Pointer, depth int) *ast.Term {
	switch f.form {
	case formText:
		return e.str(f.name, field[string](base, f))
	case formFlag:
		return ast.InternedTerm(field[bool](base, f))
	case formInt:
		return e.number(f.name, int64(field[int](base, f)))
	case formInt64:
		return e.number(f.name, field[int64](base, f))
	case formUint32:
		return e.number(f.name, int64(field[uint32](base, f)))
	case formUint64:
		e.spend(f.name, 20)
		return ast.NewTerm(ast.Number(strconv.FormatUint(field[uint64](base, f), 10)))
	case formTexts:
		return e.strings(f.name, field[[]string](base, f))
	case formInts:
		return list(e, f.name, field[[]int](base, f), func(n int) *ast.Term { return e.number(f.name, int64(n)) })
	case formTable:
		return e.table(f, field[map[string]string](base, f))
	case formLists:
		return entries(e, f.name, field[map[string][]string](base, f), e.strings)
	case formFacts:
		return entries(e, f.name, field[map[string]any](base, f), func(name string, a any) *ast.Term { return e.any(name, a, depth+2) })
	case formLevels:
		return entries(e, f.name, field[map[string]LevelState](base, f), func(_ string, l LevelState) *ast.Term {
			return e.structure(f.sub, unsafe.Pointer(&l), depth+2)
		})
	case formOptional:
		return e.structure(f.sub, field[unsafe.Pointer](base, f), depth+1)
	case formStruct:
		return e.structure(f.sub, unsafe.Add(base, f.offset), depth+1)
	}
	panic("policy: cannot encode " + f.name)
}

// table encodes the entries that are read.
func (e *encoder) table(f *viewField, m map[string]string) *ast.Term {
	if f.keys == nil {
		return entries(e, f.name, m, e.str)
	}
	items := make([][2]*ast.Term, 0, len(f.keys))
	for _, k := range f.keys {
		if v, ok := m[k]; ok {
			items = append(items, [2]*ast.Term{e.str(f.name, k), e.str(f.name, v)})
		}
	}
	return ast.ObjectTerm(items...)
}

func entries[V any](e *encoder, name string, m map[string]V, enc func(string, V) *ast.Term) *ast.Term {
	if len(m) > MaxList {
		return e.fail(name, "%d entries, at most %d", len(m), MaxList)
	}
	if e.dry {
		for k, v := range m {
			e.str(name, k)
			enc(name, v)
		}
		return nil
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
	if e.dry {
		for _, x := range s {
			enc(x)
		}
		return nil
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
	if e.dry {
		return nil
	}
	return ast.StringTerm(s)
}

func (e *encoder) number(name string, n int64) *ast.Term {
	e.spend(name, 20)
	if e.dry {
		return nil
	}
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
			return e.fail(name, "a number that is not whole, or not below 2^53")
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
		return entries(e, name, x, e.str)
	case map[string]any:
		if x == nil {
			return ast.NullTerm()
		}
		return entries(e, name, x, func(n string, y any) *ast.Term { return e.any(n, y, depth+1) })
	}
	return e.fail(name, "a %T, want a string, boolean, whole number, list or object", v)
}
