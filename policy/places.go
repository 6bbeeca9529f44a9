package policy

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// place is what the rules of a level look at in one place of their data.
type place struct {
	fields map[string]*place // that rules name
	each   *place            // any element, or what is under a name that rules compute
	whole  bool              // it is taken as it is: anything may be in it
	beside [][]string        // paths of the input that a text here is compared with
}

// surveyor follows data through the rules of a level: from a reference into local names, arguments of
// functions and values of rules. Where it loses sight of a value, that is taken whole.
type surveyor struct {
	compiler *ast.Compiler
	root     *place
	locals   map[*ast.Rule]map[ast.Var][]*place
	values   map[string][]*place   // of rules and functions, by their path
	args     map[string][][]*place // of functions, by their path
	asked    map[*ast.Rule]map[string]inputPath
	grown    bool
}

// maxPasses is how often the rules are gone through: longer chains of rules are not followed.
const maxPasses = 32

// placesOf returns the root of a level's data as its rules see it, or nil where it cannot be told.
func placesOf(c *ast.Compiler) *place {
	s := surveyor{compiler: c, root: &place{}, locals: map[*ast.Rule]map[ast.Var][]*place{}, values: map[string][]*place{}, args: map[string][][]*place{}, asked: map[*ast.Rule]map[string]inputPath{}}
	for range maxPasses {
		s.grown = false
		for _, m := range c.Modules {
			for _, r := range m.Rules {
				for ; r != nil; r = r.Else {
					s.rule(r)
				}
			}
		}
		if !s.grown {
			return s.root
		}
	}
	return nil
}

func (s *surveyor) field(of *place, name string) *place {
	if of.fields == nil {
		of.fields = map[string]*place{}
	}
	if of.fields[name] == nil {
		of.fields[name], s.grown = &place{}, true
	}
	return of.fields[name]
}

func (s *surveyor) element(of *place) *place {
	if of.each == nil {
		of.each, s.grown = &place{}, true
	}
	return of.each
}

func (s *surveyor) take(all []*place) {
	for _, of := range all {
		if !of.whole {
			of.whole, s.grown = true, true
		}
	}
}

// merge adds shapes to a list of them.
func (s *surveyor) merge(into []*place, more []*place) []*place {
	for _, of := range more {
		if !slices.Contains(into, of) {
			into, s.grown = append(into, of), true
		}
	}
	return into
}

func (s *surveyor) rule(r *ast.Rule) {
	if s.locals[r] == nil {
		s.locals[r] = map[ast.Var][]*place{}
	}
	path := r.Ref().GroundPrefix().String()
	for i, a := range r.Head.Args {
		if i >= len(s.args[path]) {
			break
		}
		if v, ok := a.Value.(ast.Var); ok {
			s.locals[r][v] = s.merge(s.locals[r][v], s.args[path][i])
		} else {
			s.take(s.args[path][i])
		}
	}
	ast.WalkExprs(r, func(x *ast.Expr) bool {
		s.expr(r, x)
		return false
	})
	ast.WalkClosures(r, func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension:
			s.leaf(r, x.Term)
		case *ast.SetComprehension:
			s.leaf(r, x.Term)
		case *ast.ObjectComprehension:
			s.leaf(r, x.Key)
			s.leaf(r, x.Value)
		}
		return false
	})
	switch name, _ := r.Head.Ref()[0].Value.(ast.Var); {
	case r.Head.Value == nil:
	case valueFields[string(name)] != nil: // grants and thresholds: Go reads their fields
		for _, of := range s.resolve(r, r.Head.Value) {
			for _, f := range valueFields[string(name)] {
				s.take([]*place{s.field(of, f)})
			}
		}
		if _, plain := r.Head.Value.Value.(ast.Object); plain {
			s.leaf(r, r.Head.Value)
		}
	case len(r.Head.Ref()) > 1:
		s.leaf(r, r.Head.Value)
	default:
		s.values[path] = s.merge(s.values[path], s.resolve(r, r.Head.Value))
	}
	s.leaf(r, r.Head.Key)
}

func (s *surveyor) expr(r *ast.Rule, x *ast.Expr) {
	if every, ok := x.Terms.(*ast.Every); ok {
		for _, of := range s.resolve(r, every.Domain) {
			if v, ok := every.Value.Value.(ast.Var); ok {
				s.locals[r][v] = s.merge(s.locals[r][v], []*place{s.element(of)})
			}
		}
		return
	}
	if t, ok := x.Terms.(*ast.Term); ok {
		s.resolve(r, t) // whether it is there
		return
	}
	if !x.IsCall() {
		return
	}
	args := x.Operands()
	switch op := x.Operator().String(); {
	case slices.Contains([]string{ast.Equality.Name, ast.Assign.Name, ast.Equal.Name}, op) && len(args) == 2:
		s.equal(r, args[0], args[1])
		s.equal(r, args[1], args[0])
	case op == ast.Member.Name:
		for _, of := range s.resolve(r, args[1]) {
			s.compared(r, s.element(of), args[0])
		}
		s.leaf(r, args[0])
	case len(s.compiler.GetRulesExact(x.Operator())) > 0:
		for i, t := range args {
			for len(s.args[op]) <= i {
				s.args[op] = append(s.args[op], nil)
			}
			s.args[op][i] = s.merge(s.args[op][i], s.resolve(r, t))
			if _, plain := t.Value.(ast.Ref); !plain {
				s.inside(r, t)
			}
			if i >= len(s.compiler.GetRulesExact(x.Operator())[0].Head.Args) { // what it gives back
				if v, ok := t.Value.(ast.Var); ok {
					s.locals[r][v] = s.merge(s.locals[r][v], s.values[op])
				} else {
					s.take(s.values[op])
				}
			}
		}
	default:
		for _, t := range args {
			s.leaf(r, t)
		}
	}
}

// equal lets a local name stand for what it is given; anything else is compared.
func (s *surveyor) equal(r *ast.Rule, a, b *ast.Term) {
	if v, ok := a.Value.(ast.Var); ok {
		s.locals[r][v] = s.merge(s.locals[r][v], s.resolve(r, b))
		s.inside(r, b)
		return
	}
	if _, ok := b.Value.(ast.Var); ok {
		return
	}
	for _, of := range s.resolve(r, a) {
		s.compared(r, of, b)
	}
	s.leaf(r, a)
}

// compared notes that a text is looked for among those of the input.
func (s *surveyor) compared(r *ast.Rule, of *place, with *ast.Term) {
	s.take([]*place{of})
	if p := s.inputs(r)[with.String()]; p != nil && !slices.ContainsFunc(of.beside, func(q []string) bool { return slices.Equal(p, q) }) {
		of.beside = append(of.beside, p)
	}
}

func (s *surveyor) inputs(r *ast.Rule) map[string]inputPath {
	if s.asked[r] == nil {
		s.asked[r] = inputsIn(r)
	}
	return s.asked[r]
}

// inputsIn are the terms of a rule that are a field of the input: references, and the local names
// that are given one.
func inputsIn(r *ast.Rule) map[string]inputPath {
	out := map[string]inputPath{}
	ast.WalkRefs(r, func(ref ast.Ref) bool {
		if len(ref) > 1 && ast.InputRootDocument.Equal(ref[0]) {
			if p := constantPart(ref[1:]); len(p) == len(ref)-1 {
				out[ref.String()] = p
			}
		}
		return false
	})
	ast.WalkExprs(r, func(x *ast.Expr) bool {
		if x.IsEquality() || x.IsAssignment() {
			for i := range 2 {
				if v, ok := x.Operand(i).Value.(ast.Var); ok && out[x.Operand(1-i).String()] != nil {
					out[v.String()] = out[x.Operand(1-i).String()]
				}
			}
		}
		return false
	})
	return out
}

// leaf takes whole whatever a term is made of.
func (s *surveyor) leaf(r *ast.Rule, t *ast.Term) {
	if t == nil {
		return
	}
	s.take(s.resolve(r, t))
	s.inside(r, t)
}

// inside is leaf for the parts of a term.
func (s *surveyor) inside(r *ast.Rule, t *ast.Term) {
	switch v := t.Value.(type) {
	case ast.Ref:
		for _, t := range v[1:] {
			s.leaf(r, t)
		}
	case ast.Call:
		for _, t := range v[1:] {
			s.leaf(r, t)
		}
	case *ast.Array:
		v.Foreach(func(t *ast.Term) { s.leaf(r, t) })
	case ast.Set:
		v.Foreach(func(t *ast.Term) { s.leaf(r, t) })
	case ast.Object:
		v.Foreach(func(k, t *ast.Term) { s.leaf(r, k); s.leaf(r, t) })
	}
}

// resolve returns the places in data that a term may be.
func (s *surveyor) resolve(r *ast.Rule, t *ast.Term) []*place {
	if v, ok := t.Value.(ast.Var); ok {
		if ast.DefaultRootDocument.Equal(t) {
			return []*place{s.root}
		}
		return s.locals[r][v]
	}
	ref, ok := t.Value.(ast.Ref)
	if !ok {
		return nil
	}
	at, from := s.resolve(r, ref[0]), 1
	if ast.DefaultRootDocument.Equal(ref[0]) {
		for n := 2; n <= len(ref); n++ {
			if ref[:n].IsGround() && len(s.compiler.GetRulesExact(ref[:n])) > 0 {
				at, from = s.values[ref[:n].String()], n
				break
			}
		}
		if from == 1 && len(ref) > 1 && ref[1].Equal(ast.StringTerm("bailiwick")) {
			return nil // a package, or nothing
		}
	}
	for _, step := range ref[from:] {
		var next []*place
		for _, of := range at {
			if name, ok := step.Value.(ast.String); ok {
				next = append(next, s.field(of, string(name)))
			} else {
				next = append(next, s.element(of))
			}
		}
		at = next
	}
	return at
}
