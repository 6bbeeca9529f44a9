package policy

import (
	"fmt"
	"regexp/syntax"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// MaxConcat is the longest string concat makes. Without a bound, thirty lines that each join a
// string to itself fill the memory before any deadline.
const MaxConcat = 64 << 10

// MaxProgram is how many instructions a pattern of regex.match may have when it is compiled.
const MaxProgram = 500

// costs are the built-in functions whose work grows with their arguments, and how many steps it is
// worth. None of them looks at a deadline, so that each is charged before it begins. What is not
// here does the same work for any argument, but for comparisons, which the limits of data and
// input bound (MaxValues).
var costs = map[string]func(args []*ast.Term) int{
	"concat": func(args []*ast.Term) int { return concatLen(args)/16 + elements(args) },

	"contains": texts16, "endswith": texts16, "startswith": texts16, "indexof": texts16, "lower": texts16, "upper": texts16,
	"substring": texts16, "trim": texts16, "trim_left": texts16, "trim_prefix": texts16, "trim_right": texts16,
	"trim_space": texts16, "trim_suffix": texts16, "net.cidr_contains": texts16, "net.cidr_is_valid": texts16,
	"semver.compare": texts16, "semver.is_valid": texts16, "time.parse_rfc3339_ns": texts16,
	"split":       func(args []*ast.Term) int { return texts16(args) * 8 }, // a term for each part
	"glob.match":  func(args []*ast.Term) int { return texts16(args) * 8 },
	"regex.match": func(args []*ast.Term) int { return texts16(args) * 64 }, // times MaxProgram, in the worst case

	"sort": func(args []*ast.Term) int { return 4 * elements(args) },
	"sum":  elements, "min": elements, "max": elements, "union": elements, "intersection": elements, "and": elements,
	"or": elements, "minus": elements, "object.keys": elements, "array.slice": elements,
	"internal.member_2": members, "internal.member_3": members,
	"strings.any_prefix_match": affixes, "strings.any_suffix_match": affixes,
	"print": texts16, "internal.print": elements,
}

func init() {
	for name, cost := range costs {
		// The context, with the meter, is kept from functions that are said not to need it.
		ast.BuiltinMap[name].CanSkipBctx = false
		free := topdown.GetBuiltin(name)
		topdown.RegisterBuiltinFunc(name, func(c topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
			if m, ok := c.Cancel.(*meter); ok && !m.charge(cost(args)) {
				return fmt.Errorf("%s: %s", name, m.why)
			}
			if name == "concat" {
				if n := concatLen(args); n > MaxConcat {
					return fmt.Errorf("concat: %d bytes, at most %d", n, MaxConcat)
				}
			}
			return free(c, args, iter)
		})
	}
}

// concatLen is how long the joined string will be.
func concatLen(args []*ast.Term) int {
	sep, _ := args[0].Value.(ast.String)
	n := 0
	each(args[1], func(t *ast.Term) {
		s, _ := t.Value.(ast.String)
		n += len(s) + len(sep)
	})
	return n
}

func each(t *ast.Term, visit func(*ast.Term)) {
	switch list := t.Value.(type) {
	case *ast.Array:
		list.Foreach(visit)
	case ast.Set:
		list.Foreach(visit)
	}
}

// texts16 is 16 bytes of text a step.
func texts16(args []*ast.Term) int {
	n := 0
	for _, t := range args {
		if s, ok := t.Value.(ast.String); ok {
			n += len(s)
		}
	}
	return n / 16
}

// elements is 4 elements a step, those of sets in a set among them.
func elements(args []*ast.Term) int {
	n := 0
	for _, t := range args {
		n += size(t)
		if set, ok := t.Value.(ast.Set); ok {
			set.Foreach(func(e *ast.Term) {
				if _, ok := e.Value.(ast.Set); ok {
					n += size(e)
				}
			})
		}
	}
	return n / 4
}

func size(t *ast.Term) int {
	switch v := t.Value.(type) {
	case *ast.Array:
		return v.Len()
	case ast.Set:
		return v.Len()
	case ast.Object:
		return v.Len()
	}
	return 0
}

// members is for a search, which is one look-up only in a set.
func members(args []*ast.Term) int {
	for _, t := range args {
		if _, ok := t.Value.(ast.Set); ok {
			return 0
		}
	}
	return elements(args)
}

// affixes is for each string that is looked for among each prefix.
func affixes(args []*ast.Term) int { return max(1, size(args[0])) * max(1, size(args[1])) / 4 }

// programSize is how many instructions a pattern has.
func programSize(pattern string) (int, error) {
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0, err
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return 0, err
	}
	return len(program.Inst), nil
}
