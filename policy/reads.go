package policy

import (
	"github.com/open-policy-agent/opa/v1/ast"
)

// inputPath leads to a part of the input by its JSON names, such as {"source", "region"}. The empty
// one is all of it; one that ends in presence asks only whether the part is there.
type inputPath []string

const presence = ""

// readsOf returns the parts of the input that the rules of a kind can read. A step that is known
// only during evaluation, such as input.source.labels[x], reads all that it could lead to.
func readsOf(level string, c *ast.Compiler, kind Kind) (out []inputPath) {
	seen := map[*ast.Rule]bool{}
	eachRule(level, c, func(k Kind, r *ast.Rule) {
		if k == kind && isContract(k, r) {
			reach(c, seen, r, func(r *ast.Rule) { out = append(out, readsIn(r)...) })
		}
	})
	return out
}

func readsIn(r *ast.Rule) (out []inputPath) {
	var visit func(x any) bool
	walk := func(x any) { ast.NewGenericVisitor(visit).Walk(x) }
	visit = func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr: // one that is only asked to be true
			if t, ok := x.Terms.(*ast.Term); ok {
				if ref, ok := t.Value.(ast.Ref); ok && ast.InputRootDocument.Equal(ref[0]) {
					if p := constantPart(ref[1:]); len(p) == len(ref)-1 {
						out = append(out, append(p, presence))
						return true
					}
				}
			}
		case ast.Ref:
			if ast.InputRootDocument.Equal(x[0]) {
				out = append(out, constantPart(x[1:]))
				for _, t := range x[1:] {
					walk(t)
				}
				return true
			}
		case ast.Var:
			if ast.InputRootDocument.Value.Compare(x) == 0 {
				out = append(out, inputPath{})
			}
		}
		return false
	}
	walk(r)
	for _, t := range r.Head.Ref() { // not among what is walked
		walk(t)
	}
	return out
}

func constantPart(ref []*ast.Term) inputPath {
	p := inputPath{}
	for _, t := range ref {
		s, ok := t.Value.(ast.String)
		if !ok || s == presence {
			break
		}
		p = append(p, string(s))
	}
	return p
}
