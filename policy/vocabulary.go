package policy

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Word is a part of the input that rules read, and values that the policy mentions beside it.
type Word struct {
	Path   []string // JSON names, such as source, region
	Values []any    // strings, int64s and booleans; those of the same condition first
}

const (
	maxWords     = 64  // values of one path that come from rules
	maxDataWords = 256 // texts of one level's data
)

// Vocabulary returns what the deny and allow rules in force for a kind read, in the order of the
// paths, with the constants of the same rules and, where a rule looks into data, the texts there.
func (e *Engine) Vocabulary(kind Kind) (out []Word) {
	g := e.gen.Load()
	if g == nil {
		return nil
	}
	words := map[string]*Word{}
	for _, l := range g.levels {
		if l.kinds[kind] == nil {
			continue
		}
		texts := dataTexts(l.Data)
		seen := map[*ast.Rule]bool{}
		eachRule(l.Name, l.compiler, func(k Kind, r *ast.Rule) {
			if k == kind && isContract(k, r) {
				reach(l.compiler, seen, r, func(r *ast.Rule) { mention(words, r, texts) })
			}
		})
	}
	for _, name := range slices.Sorted(maps.Keys(words)) {
		out = append(out, *words[name])
	}
	return out
}

// mention adds what one rule reads, with its constants: those of the same condition, then others.
func mention(words map[string]*Word, r *ast.Rule, texts []any) {
	var all []any
	looks := false
	for _, l := range linesOf(r.Body) {
		for _, x := range l.exprs {
			values, data := constantsIn(x)
			all, looks = append(all, values...), looks || data
		}
	}
	for _, l := range linesOf(r.Body) {
		var near []any
		for _, x := range l.exprs {
			values, _ := constantsIn(x)
			near = append(near, values...)
		}
		for _, x := range l.exprs {
			for _, p := range readsIn(&ast.Rule{Head: r.Head, Body: ast.Body{x}}) {
				w := wordOf(words, p)
				if w == nil {
					continue
				}
				w.add(near, maxWords)
				w.add(all, maxWords)
				if looks {
					w.add(texts, maxWords+maxDataWords)
				}
			}
		}
	}
}

func wordOf(words map[string]*Word, p inputPath) *Word {
	if len(p) > 0 && p[len(p)-1] == presence {
		p = p[:len(p)-1]
	}
	if len(p) == 0 {
		return nil
	}
	name := strings.Join(p, "\x00")
	if words[name] == nil {
		words[name] = &Word{Path: slices.Clone(p)}
	}
	return words[name]
}

func (w *Word) add(values []any, most int) {
	for _, v := range values {
		if len(w.Values) < most && !slices.Contains(w.Values, v) {
			w.Values = append(w.Values, v)
		}
	}
}

// constantsIn returns the constants of an expression, and whether it looks into data.
func constantsIn(x *ast.Expr) (out []any, data bool) {
	var visit func(any) bool
	walk := func(x any) { ast.NewGenericVisitor(visit).Walk(x) }
	visit = func(x any) bool {
		switch x := x.(type) {
		case ast.Ref: // its own names are no values; what is in its brackets may be
			data = data || ast.DefaultRootDocument.Equal(x[0])
			for _, t := range x[1:] {
				if _, name := t.Value.(ast.String); !name {
					walk(t)
				}
			}
			return true
		case ast.String:
			out = append(out, string(x))
		case ast.Boolean:
			out = append(out, bool(x))
		case ast.Number:
			if n, ok := x.Int64(); ok {
				out = append(out, n, n+1, n-1)
			}
		}
		return false
	}
	walk(x)
	return out, data
}

// dataTexts returns the names and texts in a level's data.
func dataTexts(data map[string]any) (out []any) {
	var walk func(v any)
	walk = func(v any) {
		if len(out) >= maxDataWords {
			return
		}
		switch v := v.(type) {
		case string:
			out = append(out, v)
		case []any:
			for _, x := range v {
				walk(x)
			}
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				out = append(out, k)
				walk(v[k])
			}
		}
	}
	walk(data)
	return out
}
