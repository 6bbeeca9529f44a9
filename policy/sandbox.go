package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// builtins is an allow-list: what OPA adds later is refused until someone has looked at it. Left
// out on purpose: the clock, random numbers, the network, whatever takes a pattern or a program
// from its input, and whatever can make a value much larger than its arguments.
var builtins = strings.Fields(`
	eq equal neq lt lte gt gte assign internal.member_2 internal.member_3
	plus minus and or intersection union count sum min max sort
	is_array is_boolean is_null is_number is_object is_set is_string type_name
	object.get object.keys array.slice
	concat contains endswith indexof lower split startswith substring
	strings.any_prefix_match strings.any_suffix_match
	trim trim_left trim_prefix trim_right trim_space trim_suffix upper
	net.cidr_contains net.cidr_is_valid semver.compare semver.is_valid
	time.parse_rfc3339_ns
	print internal.print
`)

// patternBuiltins take a pattern first, which must be a constant. Local authors do without.
var patternBuiltins = []string{"regex.match", "glob.match"}

// MaxPattern is the longest constant pattern, in bytes.
const MaxPattern = 256

// Builtins returns the names of the functions that modules of a level may call.
func Builtins(level string) []string {
	names := slices.Clone(builtins)
	if level == Global || level == Regional {
		names = append(names, patternBuiltins...)
	}
	return names
}

// capabilities is Builtins in OPA's form. An empty AllowNet (not a nil one) means no host at all.
func capabilities(level string, test bool) *ast.Capabilities {
	names := Builtins(level)
	if test {
		names = append(names, "internal.test_case", "object.remove", "object.union", "json.patch")
	}
	c := *ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(slices.Clone(c.Builtins), func(b *ast.Builtin) bool {
		return !slices.Contains(names, b.Name)
	})
	c.AllowNet = []string{}
	return &c
}

// MaxConcat is the longest string concat makes. Without a bound, thirty lines that each join a
// string to itself fill the memory before any deadline.
const MaxConcat = 64 << 10

func init() {
	name := ast.Concat.Name
	unbounded := topdown.GetBuiltin(name)
	topdown.RegisterBuiltinFunc(name, func(c topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
		if n := concatLen(args); n > MaxConcat {
			return fmt.Errorf("concat: %d bytes, at most %d", n, MaxConcat)
		}
		return unbounded(c, args, iter)
	})
}

func concatLen(args []*ast.Term) int {
	sep, _ := args[0].Value.(ast.String)
	n := 0
	add := func(t *ast.Term) {
		s, _ := t.Value.(ast.String)
		n += len(s) + len(sep)
	}
	switch list := args[1].Value.(type) {
	case *ast.Array:
		list.Foreach(add)
	case ast.Set:
		list.Foreach(add)
	}
	return n
}

// sandboxed refuses what the compiler would accept: with, and patterns that are not constants.
func sandboxed(m *ast.Module) error {
	var errs []error
	refuse := func(loc *ast.Location, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: %s: %s", ErrSandbox, at(loc), fmt.Sprintf(format, args...)))
	}
	pattern := func(operator ast.Ref, args []*ast.Term, loc *ast.Location) {
		if !slices.Contains(patternBuiltins, operator.String()) || len(args) == 0 {
			return
		}
		if s, ok := args[0].Value.(ast.String); !ok || len(s) > MaxPattern {
			refuse(loc, "the pattern of %s must be a constant of at most %d bytes", operator, MaxPattern)
		}
	}
	ast.WalkExprs(m, func(x *ast.Expr) bool {
		if len(x.With) > 0 {
			refuse(x.Location, "the keyword with is for tests only")
		}
		if x.IsCall() {
			pattern(x.Operator(), x.Operands(), x.Location)
		}
		return false
	})
	ast.WalkTerms(m, func(t *ast.Term) bool {
		if c, ok := t.Value.(ast.Call); ok && len(c) > 0 {
			if op, ok := c[0].Value.(ast.Ref); ok {
				pattern(op, c[1:], t.Location)
			}
		}
		return false
	})
	return errors.Join(errs...)
}

func at(loc *ast.Location) string {
	if loc == nil {
		return "?"
	}
	return fmt.Sprintf("%s:%d", loc.File, loc.Row)
}
