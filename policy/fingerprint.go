package policy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Fingerprint tells whether a deny or allow rule says the same in two versions of a level, however
// it is laid out and wherever it stands.
type Fingerprint struct {
	Kind   Kind
	Denies bool
	*Rule
	Own  [32]byte // of the rule, and of the grant or thresholds of its id
	Uses [32]byte // of all helpers that it needs
}

// Fingerprints returns those of a level's rules, by kind and id. Errors are those of Check.
func Fingerprints(l Level) (out []Fingerprint, err error) {
	ready, err := compile(&l)
	if err != nil {
		return nil, err
	}
	serving := maps.Clone(l.Modules)
	maps.DeleteFunc(serving, func(p, _ string) bool { return isTest(p) })
	modules, _, err := parse(&l, serving, false)
	if err != nil {
		return nil, err
	}
	written := map[string]*ast.Rule{} // as it was written: a compiler numbers names anew each time
	for _, m := range modules {
		for _, r := range m.Rules {
			written[r.Location.String()] = r
		}
	}
	c := ast.NewCompiler().WithCapabilities(capabilities(l.Name, false))
	if c.Compile(modules); c.Failed() {
		return nil, l.tell(advise(l.Name, c.Errors, modules)...)
	}
	text := func(r *ast.Rule) string {
		if w := written[r.Location.String()]; w != nil {
			r = w
		}
		bare := *r
		bare.Annotations = nil // what it is called is no part of what it says
		return bare.String()
	}
	byID := map[Kind]map[string][]*ast.Rule{}
	eachRule(l.Name, c, func(kind Kind, r *ast.Rule) {
		if id, ok := contractID(kind, r); ok {
			if byID[kind] == nil {
				byID[kind] = map[string][]*ast.Rule{}
			}
			byID[kind][id] = append(byID[kind][id], r)
		}
	})
	for _, kind := range Kinds {
		q := ready.kinds[kind]
		if q == nil {
			continue
		}
		for _, id := range slices.Sorted(maps.Keys(q.rules)) {
			f := Fingerprint{Kind: kind, Denies: !q.allows[id], Rule: q.rules[id]}
			var own, uses []string
			seen := map[*ast.Rule]bool{}
			for _, r := range byID[kind][id] {
				own = append(own, text(r))
				reach(c, seen, r, func(needed *ast.Rule) {
					if needed != r {
						uses = append(uses, text(needed))
					}
				})
			}
			f.Own, f.Uses = digestOf(own), digestOf(uses)
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b Fingerprint) int {
		return cmp.Or(cmp.Compare(slices.Index(Kinds, a.Kind), slices.Index(Kinds, b.Kind)), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// contractID is the id of a rule with a meaning.
func contractID(kind Kind, r *ast.Rule) (string, bool) {
	if !isContract(kind, r) {
		return "", false
	}
	if r.Head.Key != nil {
		id, ok := r.Head.Key.Value.(ast.String)
		return string(id), ok
	}
	return valueID(r)
}

func digestOf(texts []string) [32]byte {
	slices.Sort(texts)
	var b bytes.Buffer
	for _, t := range texts {
		b.WriteString(strings.TrimSpace(t))
		b.WriteByte(0)
	}
	return sha256.Sum256(b.Bytes())
}
