package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Rule is a deny or allow rule, as its author wrote it.
type Rule struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Owner string `json:"owner"`
	File  string `json:"file"` // level/path
	Line  int    `json:"line"`
}

// ruleSet is the contract rules of one kind at one level.
type ruleSet struct {
	byID    map[string]*Rule
	defined map[string]bool   // which of deny, allow and grant exist
	grants  map[string]string // id -> where
	allows  map[string]bool
}

// query asks for the rules that exist; asking for one that does not would make the whole answer
// undefined. The comprehension does the same service when no grant holds.
func (r *ruleSet) query(level string, kind Kind) string {
	pkg := fmt.Sprintf("data.bailiwick.%s.%s.", level, kind)
	part := func(name string) string {
		if !r.defined[name] {
			return "set()"
		}
		if name == grantRule {
			return "{id: g | g := " + pkg + name + "[id]}"
		}
		return pkg + name
	}
	return fmt.Sprintf("v := [%s, %s, %s]", part(denyRule), part(allowRule), part(grantRule))
}

var idForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// contractOf indexes the rules of a level and refuses whatever breaks the contract.
func contractOf(level string, modules map[string]*ast.Module) (map[Kind]*ruleSet, error) {
	var errs []error
	list := make([]*ast.Module, 0, len(modules))
	rules := 0
	for _, m := range modules {
		list = append(list, m)
		rules += len(m.Rules)
	}
	if rules > MaxRules {
		return nil, fmt.Errorf("%w: %s has %d rules, at most %d; keep grants in data, with one rule over them", ErrTooLarge, level, rules, MaxRules)
	}
	notes, aerrs := ast.BuildAnnotationSet(list)
	if len(aerrs) > 0 {
		return nil, explainErrors(level, aerrs)
	}
	out := map[Kind]*ruleSet{}
	for _, m := range list {
		kind, ok := kindOf(level, strings.TrimPrefix(m.Package.Path.String(), "data."))
		if !ok {
			continue
		}
		set := out[kind]
		if set == nil {
			set = &ruleSet{byID: map[string]*Rule{}, defined: map[string]bool{}, grants: map[string]string{}, allows: map[string]bool{}}
			out[kind] = set
		}
		for _, r := range m.Rules {
			errs = append(errs, set.add(kind, r, notes, notes.GetPackageScope(m.Package)))
		}
	}
	if set := out[StateAdmit]; set != nil {
		for id := range set.allows {
			if set.grants[id] == "" {
				errs = append(errs, fmt.Errorf("%w: %s:%d: allow %q of state_admit has no grant[%q]", ErrRule, set.byID[id].File, set.byID[id].Line, id, id))
			}
		}
	}
	return out, errors.Join(errs...)
}

func (s *ruleSet) add(kind Kind, r *ast.Rule, notes *ast.AnnotationSet, pkg *ast.Annotations) error {
	ref := r.Head.Ref()
	name, _ := ref[0].Value.(ast.Var)
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrRule, at(r.Location), fmt.Sprintf(format, args...))
	}
	switch string(name) {
	case grantRule:
		if kind != StateAdmit {
			return bad("grant belongs to state_admit")
		}
		id, ok := grantID(r)
		if !ok {
			return bad("want grant[\"some-id\"] := {...} if {...}")
		}
		if s.grants[id] != "" {
			return bad("grant[%q] is also at %s; one grant has one rule", id, s.grants[id])
		}
		s.grants[id], s.defined[grantRule] = at(r.Location), true
		return nil
	case denyRule, allowRule:
	default:
		return nil // a helper
	}
	if len(ref) != 1 || r.Head.Key == nil || r.Head.Value != nil || len(r.Head.Args) > 0 || r.Default {
		return bad("want %s contains \"some-id\" if {...}", name)
	}
	id, ok := r.Head.Key.Value.(ast.String)
	if !ok || !idForm.MatchString(string(id)) {
		return bad("the id %v of %s must be a constant of lower-case letters, digits, dots and dashes; put words into its METADATA title", r.Head.Key, name)
	}
	if first := s.byID[string(id)]; first != nil {
		return bad("the id %q is also at %s:%d; one id has one rule, so that a decision names one line", id, first.File, first.Line)
	}
	rule := &Rule{ID: string(id), File: r.Location.File, Line: r.Location.Row}
	if pkg != nil {
		rule.Owner, _ = pkg.Labels["owner"].(string)
	}
	for _, n := range notes.GetRuleScope(r) {
		rule.Title = n.Title
		if o, ok := n.Labels["owner"].(string); ok {
			rule.Owner = o
		}
	}
	if rule.Title == "" || rule.Owner == "" {
		return bad("%s %q needs a title and an owner: put \"# METADATA\", \"# title: ...\", \"# labels:\", \"#   owner: ...\" above it", name, id)
	}
	s.byID[rule.ID], s.defined[string(name)] = rule, true
	if name == allowRule {
		s.allows[rule.ID] = true
	}
	return nil
}

func grantID(r *ast.Rule) (string, bool) {
	ref := r.Head.Ref()
	if len(ref) != 2 || r.Head.Value == nil || len(r.Head.Args) > 0 || r.Default {
		return "", false
	}
	id, ok := ref[1].Value.(ast.String)
	return string(id), ok && idForm.MatchString(string(id))
}

// unused refuses a rule in a kind's package that no deny, allow or grant reaches: it is a deny
// somebody misspelt, and would be off without a word.
func unused(level string, c *ast.Compiler) error {
	reached := map[*ast.Rule]bool{}
	var reach func(*ast.Rule)
	reach = func(r *ast.Rule) {
		if reached[r] {
			return
		}
		reached[r] = true
		for dep := range c.Graph.Dependencies(r) {
			if d, ok := dep.(*ast.Rule); ok {
				reach(d)
			}
		}
	}
	isContract := func(r *ast.Rule) bool {
		name, _ := r.Head.Ref()[0].Value.(ast.Var)
		return name == denyRule || name == allowRule || name == grantRule
	}
	var errs []error
	each := func(fn func(*ast.Rule)) {
		for _, m := range c.Modules {
			if _, ok := kindOf(level, strings.TrimPrefix(m.Package.Path.String(), "data.")); ok {
				for _, r := range m.Rules {
					fn(r)
				}
			}
		}
	}
	each(func(r *ast.Rule) {
		if isContract(r) {
			reach(r)
		}
	})
	each(func(r *ast.Rule) {
		if !reached[r] {
			errs = append(errs, fmt.Errorf("%w: %s: rule %s is used by no deny, allow or grant; is its name misspelt?", ErrRule, at(r.Location), r.Head.Ref()))
		}
	})
	return errors.Join(errs...)
}
