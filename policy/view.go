package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"unsafe"

	"github.com/open-policy-agent/opa/v1/ast"
)

// view is what the rules in force can read of the inputs of a kind, and what this package itself
// looks at to decide. It is made once for a generation, from the compiled rules. Rules are evaluated
// on the view of an input and on nothing else, and its bytes are the key of the answer, so that an
// answer from the cache cannot differ from one that is evaluated. The limits of an input are held
// for its view.
type view struct {
	shape  shape
	fields []viewField
	levels []*active // whose end the answer depends on
	counts outcomes
}

// engineReads is what this package looks at (Delegation.Covers, combine, Input.target), and the
// standing of those involved.
var engineReads = []inputPath{
	{"self", "region"},
	{"source", "spiffe_id"}, {"source", "region"}, {"source", "standing"}, {"destination", "standing"},
	{"service", "name"}, {"service", "region"}, {"action", "name"},
	{"request", presence}, {"resource", presence}, {"roster", presence},
	{"attest", "method"}, {"attest", "ek", "sha256"}, {"call", "name"}, {"call", "key"}, {"call", "owner"},
}

// wholeView reads everything.
var wholeView = &view{fields: fieldsOf(reflect.TypeFor[Input](), []inputPath{{}})}

// viewOf is the view of the levels of a generation.
func viewOf(levels []*active, kind Kind, counts outcomes) *view {
	v := &view{shape: shapes[kind], counts: counts}
	reads := slices.Clone(engineReads)
	if kind == Replicate {
		reads = append(reads, inputPath{"destination", "spiffe_id"}) // its target
	}
	for _, l := range levels {
		if !l.NotAfter.IsZero() {
			v.levels = append(v.levels, l)
		}
		if q := l.kinds[kind]; q != nil {
			reads = append(reads, q.reads...)
		}
	}
	v.fields = fieldsOf(reflect.TypeFor[Input](), reads)
	return v
}

type fieldForm uint8

const (
	formText  fieldForm = iota // string
	formFlag                   // bool
	formInt                    // int
	formInt64                  // int64
	formUint32
	formUint64
	formTexts    // []string
	formInts     // []int
	formTable    // map[string]string
	formLists    // map[string][]string
	formFacts    // map[string]any
	formLevels   // map[string]LevelState
	formStruct   // inline
	formOptional // pointer to a struct
)

// viewField is one field of a struct, found at the offset that its type has it at.
type viewField struct {
	name      string
	key       *ast.Term
	form      fieldForm
	offset    uintptr
	omitempty bool
	keys      []string    // of a formTable that is not read as a whole
	sub       []viewField // of a struct
}

// fieldsOf descends a struct type beside the paths that are read below it.
func fieldsOf(t reflect.Type, reads []inputPath) (out []viewField) {
	all := slices.ContainsFunc(reads, func(p inputPath) bool { return len(p) == 0 })
	for f := range t.Fields() {
		name, opt := jsonName(f)
		var below []inputPath
		for _, p := range reads {
			if len(p) > 0 && p[0] == name {
				below = append(below, p[1:])
			}
		}
		if all {
			below = []inputPath{{}}
		}
		if len(below) > 0 {
			out = append(out, fieldOf(f, name, opt, below))
		}
	}
	return out
}

func fieldOf(f reflect.StructField, name string, omitempty bool, reads []inputPath) viewField {
	out := viewField{name: name, key: ast.StringTerm(name), offset: f.Offset, omitempty: omitempty}
	switch t := f.Type; {
	case t.Kind() == reflect.Struct:
		out.form, out.sub = formStruct, fieldsOf(t, reads)
	case t.Kind() == reflect.Pointer:
		out.form, out.sub = formOptional, fieldsOf(t.Elem(), reads)
	case t.Kind() == reflect.String:
		out.form = formText
	case t == reflect.TypeFor[map[string]LevelState]():
		out.form, out.sub = formLevels, fieldsOf(t.Elem(), []inputPath{{}})
	default:
		form, ok := forms[t]
		if !ok {
			panic("policy: no view of " + t.String())
		}
		out.form = form
	}
	if whole := slices.ContainsFunc(reads, func(p inputPath) bool { return len(p) == 0 || p[0] == presence }); out.form == formTable && !whole {
		for _, p := range reads {
			out.keys = append(out.keys, p[0])
		}
		slices.Sort(out.keys)
		out.keys = slices.Compact(out.keys)
	}
	return out
}

var forms = map[reflect.Type]fieldForm{
	reflect.TypeFor[bool]():                formFlag,
	reflect.TypeFor[int]():                 formInt,
	reflect.TypeFor[int64]():               formInt64,
	reflect.TypeFor[uint32]():              formUint32,
	reflect.TypeFor[uint64]():              formUint64,
	reflect.TypeFor[[]string]():            formTexts,
	reflect.TypeFor[[]int]():               formInts,
	reflect.TypeFor[map[string]string]():   formTable,
	reflect.TypeFor[map[string][]string](): formLists,
	reflect.TypeFor[map[string]any]():      formFacts,
}

// field is where a field of the struct at base is. The offset is that of the field in its own type.
func field[T any](base unsafe.Pointer, f *viewField) T { return *(*T)(unsafe.Add(base, f.offset)) }

// value is the view of an input as Rego sees it.
func (v *view) value(in *Input) (ast.Value, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	e := encoder{left: MaxInput}
	t := e.structure(v.fields, unsafe.Pointer(in), 1)
	if e.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInput, e.err)
	}
	return t.Value, nil
}

// value is the whole input as Rego sees it. It equals what json.Marshal followed by parsing would
// give (tested), at a tenth of the cost.
func (in *Input) value() (ast.Value, error) { return wholeView.value(in) }

// fits reports whether the whole input is within the limits.
func (in *Input) fits() bool {
	e := encoder{left: MaxInput, dry: true}
	e.structure(wholeView.fields, unsafe.Pointer(in), 1)
	return e.err == nil
}

// record is the JSON that replays the decision of in: all of it, or where that exceeds the limits,
// the view.
func (v *view) record(in *Input) (json.RawMessage, error) {
	if in.fits() {
		if b, err := json.Marshal(in); err == nil && len(b) <= MaxInput {
			return b, nil
		}
	}
	value, err := v.value(in)
	if err != nil {
		return nil, err
	}
	facts, err := ast.JSON(value)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInput, err)
	}
	if facts, ok := facts.(map[string]any); ok {
		facts["v"], facts["kind"], facts["time"] = in.V, in.Kind, in.Time // every input has them
	}
	b, err := json.Marshal(facts)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrInput, err)
	case len(b) > MaxInput:
		return nil, fmt.Errorf("%w: %d bytes of JSON, at most %d", ErrInput, len(b), MaxInput)
	}
	return b, nil
}
