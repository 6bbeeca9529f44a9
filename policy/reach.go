package policy

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/bailiwick-mesh/bailiwick/policy/spelling"
)

// reach calls fn for r and every rule that it needs, directly or not, each once for one seen.
func reach(c *ast.Compiler, seen map[*ast.Rule]bool, r *ast.Rule, fn func(*ast.Rule)) {
	if seen[r] {
		return
	}
	seen[r] = true
	fn(r)
	for dep := range c.Graph.Dependencies(r) {
		if d, ok := dep.(*ast.Rule); ok {
			reach(c, seen, d, fn)
		}
	}
}

// eachRule calls fn for the rules in the packages of kinds.
func eachRule(level string, c *ast.Compiler, fn func(Kind, *ast.Rule)) {
	for _, m := range c.Modules {
		if kind, ok := kindOf(level, strings.TrimPrefix(m.Package.Path.String(), "data.")); ok {
			for _, r := range m.Rules {
				fn(kind, r)
			}
		}
	}
}

func isContract(kind Kind, r *ast.Rule) bool {
	name, _ := r.Head.Ref()[0].Value.(ast.Var)
	return name == denyRule || name == allowRule || string(name) == valueRules[kind]
}

// unused refuses a rule in a kind's package that no deny, allow or value reaches: it is a deny
// somebody misspelt, and would be off without a word.
func unused(level string, c *ast.Compiler) error {
	reached := map[*ast.Rule]bool{}
	eachRule(level, c, func(kind Kind, r *ast.Rule) {
		if isContract(kind, r) {
			reach(c, reached, r, func(*ast.Rule) {})
		}
	})
	var errs []error
	eachRule(level, c, func(_ Kind, r *ast.Rule) {
		if !reached[r] {
			name, fix := r.Head.Ref().String(), "use it or take it out"
			if near := spelling.Nearest(name, []string{denyRule, allowRule, grantRule, thresholdsRule}); near != "" {
				fix = "did you mean " + near + "?"
			}
			errs = append(errs, wrong(ErrRule, r.Head.Location, fix, "rule %s is used by no deny, allow or grant", name))
		}
	})
	return errors.Join(errs...)
}

// foreignFields refuses a rule that reads a part of input which the kind it decides does not have:
// it would be undefined for ever, and a deny on it off. The compiler knows the fields of every
// kind as one schema; here rules of libraries are judged by the kinds that need them.
func foreignFields(level string, c *ast.Compiler) error {
	found := map[string]error{}
	seen := map[Kind]map[*ast.Rule]bool{}
	eachRule(level, c, func(kind Kind, r *ast.Rule) {
		if seen[kind] == nil {
			seen[kind] = map[*ast.Rule]bool{}
		}
		reach(c, seen[kind], r, func(r *ast.Rule) {
			ast.WalkRefs(r, func(ref ast.Ref) bool {
				if len(ref) < 2 || !ref[0].Equal(ast.InputRootDocument) {
					return false
				}
				name, ok := ref[1].Value.(ast.String)
				if fields := shapes[kind].fields(); ok && !slices.Contains(fields, string(name)) {
					err := wrong(ErrCompile, ref[1].Location, "it has "+strings.Join(fields, ", "), "the input of kind %s has no field %s", kind, string(name))
					found[err.Error()] = err
				}
				return false
			})
		})
	})
	var errs []error
	for _, text := range slices.Sorted(maps.Keys(found)) {
		errs = append(errs, found[text])
	}
	return errors.Join(errs...)
}
