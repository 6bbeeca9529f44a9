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
	// Labels are those of its METADATA that are strings, and of its package's, but for owner.
	Labels map[string]string `json:"labels,omitempty"`
}

// ruleSet is the contract rules of one kind at one level.
type ruleSet struct {
	byID    map[string]*Rule
	defined map[string]bool   // which of deny, allow and the kind's value rule exist
	values  map[string]string // id -> where
	allows  map[string]bool
}

// query asks for the rules that exist; asking for one that does not would make the whole answer
// undefined. The comprehension does the same service when no value holds.
func (r *ruleSet) query(level string, kind Kind) string {
	pkg := fmt.Sprintf("data.bailiwick.%s.%s.", level, kind)
	part := func(name string) string {
		if !r.defined[name] {
			return "set()"
		}
		if name == valueRules[kind] {
			return "{id: g | g := " + pkg + name + "[id]}"
		}
		return pkg + name
	}
	return fmt.Sprintf("[%s, %s, %s]", part(denyRule), part(allowRule), part(valueRules[kind]))
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
		return nil, errors.Join(advise(level, aerrs, nil)...)
	}
	out := map[Kind]*ruleSet{}
	for _, m := range list {
		kind, ok := kindOf(level, strings.TrimPrefix(m.Package.Path.String(), "data."))
		if !ok {
			continue
		}
		set := out[kind]
		if set == nil {
			set = &ruleSet{byID: map[string]*Rule{}, defined: map[string]bool{}, values: map[string]string{}, allows: map[string]bool{}}
			out[kind] = set
		}
		for _, r := range m.Rules {
			errs = append(errs, set.add(kind, r, notes, notes.GetPackageScope(m.Package)))
		}
	}
	for kind, value := range valueRules {
		set := out[kind]
		if set == nil {
			continue
		}
		for id := range set.allows {
			if set.values[id] == "" {
				errs = append(errs, &Mistake{Is: ErrRule, File: set.byID[id].File, Line: set.byID[id].Line,
					Message: fmt.Sprintf("allow %q of %s has no %s[%q]", id, kind, value, id), Fix: "say what it lets through"})
			}
		}
	}
	return out, errors.Join(errs...)
}

func (s *ruleSet) add(kind Kind, r *ast.Rule, notes *ast.AnnotationSet, pkg *ast.Annotations) error {
	ref := r.Head.Ref()
	name, _ := ref[0].Value.(ast.Var)
	bad := func(format string, args ...any) error {
		return wrong(ErrRule, r.Head.Location, "", format, args...)
	}
	switch string(name) {
	case grantRule, thresholdsRule:
		if valueRules[kind] != string(name) {
			return bad("%s does not belong to %s", name, kind)
		}
		id, ok := valueID(r)
		if !ok {
			return bad("want %s[\"some-id\"] := {...} if {...}", name)
		}
		if s.values[id] != "" {
			return bad("%s[%q] is also at %s; one id has one rule", name, id, s.values[id])
		}
		if o, ok := r.Head.Value.Value.(ast.Object); ok { // otherwise it is known when it is evaluated
			if err := knownFields(o, valueFields[string(name)]); err != nil {
				return bad("%s[%q]: %v", name, id, err)
			}
		}
		s.values[id], s.defined[string(name)] = at(r.Location), true
		return nil
	case denyRule, allowRule:
	default:
		return nil // a helper
	}
	if len(ref) != 1 || r.Head.Key == nil || r.Head.Value != nil || len(r.Head.Args) > 0 || r.Default {
		return bad("want %s contains \"some-id\" if {...}", name)
	}
	id, ok := constant(r.Head.Key)
	if !ok || !idForm.MatchString(id) {
		return bad("the id %v of %s must be a constant of lower-case letters, digits, dots and dashes; put words into its METADATA title", r.Head.Key, name)
	}
	if first := s.byID[id]; first != nil {
		return bad("the id %q is also at %s:%d; one id has one rule, so that a decision names one line", id, first.File, first.Line)
	}
	rule := &Rule{ID: id, File: r.Location.File, Line: r.Location.Row}
	if pkg != nil {
		rule.label(pkg.Labels)
	}
	for _, n := range notes.GetRuleScope(r) {
		rule.Title = n.Title
		rule.label(n.Labels)
	}
	if rule.Title == "" || rule.Owner == "" {
		return wrong(ErrRule, r.Head.Location, "put \"# METADATA\", \"# title: ...\", \"# labels:\", \"#   owner: ...\" above it, a line each; the owner may stand above the package, for all rules",
			"%s %q has no %s", string(name), id, lacking(rule))
	}
	s.byID[rule.ID], s.defined[string(name)] = rule, true
	if name == allowRule {
		s.allows[rule.ID] = true
	}
	return nil
}

// label takes over the labels of a METADATA.
func (r *Rule) label(labels map[string]any) {
	for name, v := range labels {
		text, ok := v.(string)
		switch {
		case !ok:
		case name == "owner":
			r.Owner = text
		case r.Labels == nil:
			r.Labels = map[string]string{name: text}
		default:
			r.Labels[name] = text
		}
	}
}

// Decided is the rule that decided, with its labels; nil where no author's rule did.
func (d Decision) Decided() *Rule {
	for _, v := range d.Verdicts {
		for _, r := range v.Rules {
			if v.Level == d.Level && r.ID == d.Rule {
				return r
			}
		}
	}
	return nil
}

func lacking(r *Rule) string {
	switch {
	case r.Title != "":
		return "owner"
	case r.Owner != "":
		return "title"
	}
	return "title and no owner"
}

func valueID(r *ast.Rule) (string, bool) {
	ref := r.Head.Ref()
	if len(ref) != 2 || r.Head.Value == nil || len(r.Head.Args) > 0 || r.Default {
		return "", false
	}
	id, ok := ref[1].Value.(ast.String)
	return string(id), ok && idForm.MatchString(string(id))
}
