package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
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

// sandboxed refuses what the compiler would accept: with, patterns that are not constants or large,
// and numbers that take long to work with.
func sandboxed(m *ast.Module) error {
	var errs []error
	refuse := func(loc *ast.Location, fix, format string, args ...any) {
		errs = append(errs, wrong(ErrSandbox, loc, fix, format, args...))
	}
	pattern := func(operator ast.Ref, args []*ast.Term, loc *ast.Location) {
		if !slices.Contains(patternBuiltins, operator.String()) || len(args) == 0 {
			return
		}
		if s, ok := args[0].Value.(ast.String); !ok || len(s) > MaxPattern {
			refuse(loc, "write the pattern itself; for lists use startswith, endswith or in", "the pattern of %s must be a constant of at most %d bytes", operator, MaxPattern)
		} else if n, err := programSize(string(s)); err == nil && n > MaxProgram && operator.String() == ast.RegexMatch.Name {
			refuse(loc, "repeat less in it; its time grows with each repetition", "the pattern of %s has %d instructions, at most %d", operator, n, MaxProgram)
		}
	}
	ast.WalkExprs(m, func(x *ast.Expr) bool {
		if len(x.With) > 0 {
			refuse(x.Location, "give the helper an argument instead", "the keyword with is for tests only")
		}
		if x.IsCall() {
			pattern(x.Operator(), x.Operands(), x.Location)
		}
		return false
	})
	ast.WalkTerms(m, func(t *ast.Term) bool {
		if n, ok := t.Value.(ast.Number); ok && hugeNumber(string(n)) {
			refuse(t.Location, "write it as a string, or as a smaller number", "the number %.40s is too large", string(n))
		}
		if c, ok := t.Value.(ast.Call); ok && len(c) > 0 {
			if op, ok := c[0].Value.(ast.Ref); ok {
				pattern(op, c[1:], t.Location)
			}
		}
		return false
	})
	return errors.Join(errs...)
}

// hugeNumber reports whether a number in decimal has more digits than any use of it, or an exponent
// that makes as many.
func hugeNumber(n string) bool {
	const digits = 64
	exponent := strings.IndexAny(n, "eE")
	if exponent < 0 {
		return len(n) > digits
	}
	e, err := strconv.Atoi(n[exponent+1:])
	return err != nil || e > digits || e < -digits || exponent > digits
}

func at(loc *ast.Location) string {
	if loc == nil {
		return "?"
	}
	return fmt.Sprintf("%s:%d", loc.File, loc.Row)
}
