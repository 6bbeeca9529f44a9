package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/policy/spelling"
)

// ErrIdle means that part of a policy has no effect, which nobody writes on purpose: data that no
// rule reads, or a text that nothing is ever equal to. Nodes take it all the same.
var ErrIdle = errors.New("part of the policy has no effect")

// DataFile is the name of a level's data in its folder.
const DataFile = "data.json"

// Review reports what nodes take and its author hardly meant. The rules say what belongs into the
// data: a name that none of them reads is misspelt, and so is a text that is compared with a field
// of the input which cannot be that. Names that begin with _ are for people. data is the source of
// l.Data, to point into; nil where there is none. Errors wrap ErrIdle, or are those of Check.
func Review(l Level, data []byte) error {
	ready, err := compile(&l)
	if err != nil {
		return err
	}
	v := reviewer{file: l.Name + "/" + DataFile}
	v.rules(ready.compiler)
	reads := placesOf(ready.compiler)
	if err := v.references(&l, ready.compiler, reads); err != nil {
		return err
	}
	if data != nil {
		v.lines = strings.Split(string(data), "\n")
	} else if data, err = json.Marshal(l.Data); err != nil || l.Data == nil {
		return l.tell(v.errs...)
	}
	root, err := locate(data)
	if err != nil {
		return fmt.Errorf("%w: %s: %v", ErrLevel, v.file, err)
	}
	if reads != nil {
		v.value(root, []*place{reads}, "data")
	}
	return l.tell(v.errs...)
}

type reviewer struct {
	file  string
	lines []string // none: the data has no source
	errs  []error
}

// references looks at what the rules and the tests of a level refer to.
func (v *reviewer) references(l *Level, c *ast.Compiler, reads *place) error {
	known := slices.Sorted(maps.Keys(l.Data))
	read := func(name string) bool { return reads != nil && reads.fields[name] != nil }
	v.idle(l.Name, c.Modules, known, read)
	tests, modules, err := withTests(l)
	if err != nil {
		return err
	}
	if tests.Compile(modules); tests.Failed() {
		return tests.Errors // the compiler before it had none
	}
	only := maps.Clone(tests.Modules)
	maps.DeleteFunc(only, func(key string, _ *ast.Module) bool { return !isTest(key) })
	if reads != nil && !reads.whole && reads.each == nil {
		for _, name := range slices.Sorted(maps.Keys(reads.fields)) {
			if name != "bailiwick" && !slices.Contains(known, name) {
				known = append(known, name)
			}
		}
		known = append(known, v.mocks(only, known)...)
	}
	v.idle(l.Name, only, known, read)
	return nil
}

// rules refuses comparisons that can never hold.
func (v *reviewer) rules(c *ast.Compiler) {
	for _, m := range c.Modules {
		for _, r := range m.Rules {
			inputs := inputsIn(r)
			impossible := func(a, with *ast.Term) {
				path := inputs[a.String()]
				known := inputValues(path)
				if text, ok := with.Value.(ast.String); ok && known != nil && !slices.Contains(known, string(text)) {
					v.errs = append(v.errs, wrong(ErrIdle, with.Location, meant(string(text), known), "input.%s is never %q", strings.Join(path, "."), string(text)))
				}
			}
			ast.WalkExprs(r, func(x *ast.Expr) bool {
				if !x.IsCall() || len(x.Operands()) != 2 {
					return false
				}
				a, b := x.Operand(0), x.Operand(1)
				switch x.Operator().String() {
				case ast.Equality.Name, ast.Equal.Name, ast.NotEqual.Name:
					impossible(a, b)
					impossible(b, a)
				case ast.Member.Name:
					each := func(t *ast.Term) { impossible(a, t) }
					switch all := b.Value.(type) {
					case ast.Set:
						all.Foreach(each)
					case *ast.Array:
						all.Foreach(each)
					}
				}
				return false
			})
		}
	}
}

// meant is the likely fix of a word that is none of those known.
func meant(word string, known []string) string {
	if near := spelling.Nearest(word, known); near != "" {
		return "did you mean " + near + "?"
	}
	return "want one of " + strings.Join(known, ", ")
}

func (v *reviewer) tell(at located, fix, format string, args ...any) {
	m := &Mistake{Is: ErrIdle, File: v.file, Message: fmt.Sprintf(format, args...), Fix: fix}
	if at.line > 0 && at.line <= len(v.lines) {
		m.Line, m.Column, m.Source, m.width = at.line, at.column, strings.TrimRight(v.lines[at.line-1], "\r"), at.width
	}
	v.errs = append(v.errs, m)
}

// value looks at one place of the data with all that rules see in it.
func (v *reviewer) value(at located, of []*place, path string) {
	if len(of) == 0 || slices.ContainsFunc(of, func(s *place) bool { return s.whole && len(s.beside) == 0 && s.fields == nil && s.each == nil }) {
		return
	}
	switch {
	case at.members != nil:
		v.object(at, of, path)
	case at.elements != nil:
		for i, e := range at.elements {
			v.value(e, below(of, func(s *place) *place { return s.each }), fmt.Sprintf("%s[%d]", path, i))
		}
	default:
		v.scalar(at, of, path)
	}
}

func below(of []*place, step func(*place) *place) (out []*place) {
	for _, s := range of {
		if next := step(s); next != nil {
			out = append(out, next)
		} else if s.whole {
			out = append(out, &place{whole: true})
		}
	}
	return out
}

func (v *reviewer) object(at located, of []*place, path string) {
	for _, m := range at.members {
		if strings.HasPrefix(m.name, "_") {
			continue
		}
		next := below(of, func(s *place) *place { return s.fields[m.name] })
		next = append(next, below(of, func(s *place) *place { return s.each })...)
		if len(next) > 0 {
			v.value(m.value, next, path+step(m.name))
			continue
		}
		var known []string
		for _, s := range of {
			known = append(known, slices.Collect(maps.Keys(s.fields))...)
		}
		slices.Sort(known)
		known = slices.Compact(known)
		fix := "no rule of this level reads data: take it out"
		if len(known) > 0 {
			fix = meant(m.name, known)
		}
		v.tell(m.key, fix, "no rule reads %s%s", path, step(m.name))
	}
}

// step is a name at the end of a path.
func step(name string) string {
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") == "" {
		return "." + name
	}
	return fmt.Sprintf("[%q]", name)
}

func (v *reviewer) scalar(at located, of []*place, path string) {
	text, isText := at.scalar.(string)
	inner := !slices.ContainsFunc(of, func(s *place) bool { return s.whole || s.fields == nil && s.each == nil })
	switch {
	case at.scalar == nil:
	case inner && slices.ContainsFunc(of, func(s *place) bool { return s.fields != nil }):
		v.tell(at, "write {...}", "rules read fields of %s, and it has none", path)
	case inner:
		v.tell(at, "write [...]", "rules look for something in %s, and it is no list", path)
	case isText:
		for _, s := range of {
			for _, p := range s.beside {
				if known := inputValues(p); known != nil && !slices.Contains(known, text) {
					v.tell(at, meant(text, known), "%s is never %q", "input."+strings.Join(p, "."), text)
				}
				if p[len(p)-1] == "spiffe_id" {
					if _, err := spiffeid.FromString(text); err != nil {
						v.tell(at, "want spiffe://trust-domain/path", "%q is no SPIFFE ID: %v", text, err)
					}
				}
			}
		}
	}
}

// located is a JSON value and where it is written.
type located struct {
	scalar       any
	members      []member  // not nil: an object
	elements     []located // not nil: a list
	line, column int       // from 1; of a key, of its name
	width        int
}

type member struct {
	name       string
	key, value located
}

// maxDepth is that of encoding/json.
const maxDepth = 10_000

// locate reads a JSON document with its places.
func locate(b []byte) (located, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	depth := 0
	var next func() (located, error)
	token := func() (json.Token, located, error) {
		from := int(d.InputOffset())
		t, err := d.Token()
		to := int(d.InputOffset())
		from += len(b[from:to]) - len(bytes.TrimLeft(b[from:to], " \t\r\n,:"))
		before := b[:from]
		return t, located{line: 1 + bytes.Count(before, []byte("\n")), column: from - bytes.LastIndexByte(before, '\n'), width: to - from}, err
	}
	next = func() (located, error) {
		t, at, err := token()
		if err != nil {
			return at, err
		}
		if depth++; depth > maxDepth {
			return at, fmt.Errorf("it is nested more than %d times", maxDepth)
		}
		defer func() { depth-- }()
		switch t {
		case json.Delim('{'):
			at.members = []member{}
			for d.More() {
				name, key, err := token()
				if err != nil {
					return at, err
				}
				value, err := next()
				if err != nil {
					return at, err
				}
				at.members = append(at.members, member{fmt.Sprint(name), key, value})
			}
			_, err = d.Token()
		case json.Delim('['):
			at.elements = []located{}
			for d.More() {
				e, err := next()
				if err != nil {
					return at, err
				}
				at.elements = append(at.elements, e)
			}
			_, err = d.Token()
		default:
			at.scalar = t
		}
		return at, err
	}
	return next()
}
