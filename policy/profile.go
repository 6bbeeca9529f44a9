package policy

import (
	"cmp"
	"encoding/json"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Profile is what a level consists of, beside its limits.
type Profile struct {
	Level     string        `json:"level"`
	Modules   int           `json:"modules"` // of MaxModules, without tests
	Tests     int           `json:"tests"`   // modules of tests
	Rules     int           `json:"rules"`   // of MaxRules, helpers among them
	Source    int           `json:"source_bytes"`
	Data      int           `json:"data_bytes"`
	Kinds     []KindRules   `json:"kinds"`
	Functions []FunctionUse `json:"functions"`
	Absent    []AbsentData  `json:"absent_data"`
}

// AbsentData is a name in data that rules refer to and the level has not: what it is compared with
// never holds, until the level has it. That may be meant, where it is an exception that is not made
// yet, and it may be misspelt.
type AbsentData struct {
	Name  string `json:"name"`
	First string `json:"first"` // file:line
}

// KindRules is how many rules a level has for a kind.
type KindRules struct {
	Kind   Kind `json:"kind"`
	Denies int  `json:"denies"`
	Allows int  `json:"allows"`
}

// FunctionUse is a built-in function that the rules of a level call. Operators are not listed.
type FunctionUse struct {
	Name  string `json:"name"`
	Uses  int    `json:"uses"`
	First string `json:"first"` // file:line
}

// Describe tells what a level consists of. Errors are those of Check.
func Describe(l Level) (p Profile, err error) {
	ready, err := compile(&l)
	if err != nil {
		return p, err
	}
	p = Profile{Level: l.Name, Kinds: []KindRules{}, Functions: []FunctionUse{}, Absent: absent(l.Data, ready.compiler.Modules)}
	serving := map[string]string{}
	for path, source := range l.Modules {
		p.Source += len(source)
		if isTest(path) {
			p.Tests++
		} else {
			serving[path] = source
		}
	}
	p.Modules = len(serving)
	if data, err := json.Marshal(l.Data); err == nil && l.Data != nil {
		p.Data = len(data)
	}
	for _, kind := range Kinds {
		if q := ready.kinds[kind]; q != nil {
			p.Kinds = append(p.Kinds, KindRules{kind, len(q.rules) - len(q.allows), len(q.allows)})
		}
	}
	modules, _, err := parse(&l, serving, false)
	if err != nil {
		return p, err
	}
	used, first := map[string]*FunctionUse{}, map[string]*ast.Location{}
	for _, m := range modules {
		p.Rules += len(m.Rules)
		eachCall(m, func(name string, loc *ast.Location) {
			b := ast.BuiltinMap[name]
			if b == nil || b.Infix != "" || b.Name == ast.Assign.Name || b.Name == ast.Member.Name || b.Name == ast.MemberWithKey.Name {
				return
			}
			u := used[name]
			if u == nil {
				u = &FunctionUse{Name: name}
				used[name] = u
			}
			u.Uses++
			first[name] = earlier(first[name], loc)
		})
	}
	for name, u := range used {
		u.First = at(first[name])
		p.Functions = append(p.Functions, *u)
	}
	slices.SortFunc(p.Functions, func(a, b FunctionUse) int { return cmp.Compare(a.Name, b.Name) })
	return p, nil
}

// absent are the names of data that rules refer to and that are not there, sorted.
func absent(data map[string]any, modules map[string]*ast.Module) []AbsentData {
	first := map[string]*ast.Location{}
	eachRef(modules, func(ref ast.Ref) {
		name, ok := ref[1].Value.(ast.String)
		if _, there := data[string(name)]; !ok || there || name == "bailiwick" {
			return
		}
		if loc := placeOf(ref, 1); loc != nil {
			first[string(name)] = earlier(first[string(name)], loc)
		}
	})
	out := []AbsentData{}
	for name, loc := range first {
		out = append(out, AbsentData{name, at(loc)})
	}
	slices.SortFunc(out, func(a, b AbsentData) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// earlier is the place that comes first, by file and line; a may be nil.
func earlier(a, b *ast.Location) *ast.Location {
	if a == nil || cmp.Or(cmp.Compare(b.File, a.File), cmp.Compare(b.Row, a.Row)) < 0 {
		return b
	}
	return a
}

// eachCall calls fn for every call in a module.
func eachCall(m *ast.Module, fn func(name string, loc *ast.Location)) {
	ast.WalkExprs(m, func(x *ast.Expr) bool {
		if x.IsCall() {
			fn(x.Operator().String(), x.Location)
		}
		return false
	})
	ast.WalkTerms(m, func(t *ast.Term) bool {
		if c, ok := t.Value.(ast.Call); ok && len(c) > 0 {
			if op, ok := c[0].Value.(ast.Ref); ok {
				fn(op.String(), t.Location)
			}
		}
		return false
	})
}
