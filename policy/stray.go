package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/bailiwick-mesh/bailiwick/policy/spelling"
)

// strays refuses references to rules and packages of this level that nobody wrote: they are undefined
// for ever, and a deny that rests on one is off without a word. OPA takes them for data that may come.
// What may have been taken out is not told.
func strays(level string, c *ast.Compiler, lost *missing) error {
	if c.Failed() || lost.any {
		return nil
	}
	var errs []error
	eachRef(c.Modules, func(ref ast.Ref) {
		if isLevel(ref, level) {
			errs = append(errs, stray(c.RuleTree, ref, lost))
		}
	})
	return errors.Join(errs...)
}

// eachRef calls fn for the references to data in modules that were compiled: imports stand in them as
// what they import.
func eachRef(modules map[string]*ast.Module, fn func(ast.Ref)) {
	for _, key := range slices.Sorted(maps.Keys(modules)) {
		for _, r := range modules[key].Rules {
			ast.WalkRefs(r, func(ref ast.Ref) bool {
				if ast.DefaultRootDocument.Equal(ref[0]) && len(ref) > 1 {
					fn(ref)
				}
				return false
			})
		}
	}
}

// isLevel reports whether a reference is to the rules of a level.
func isLevel(ref ast.Ref, level string) bool {
	return len(ref) > 2 && ref[1].Equal(ast.StringTerm("bailiwick")) && ref[2].Equal(ast.StringTerm(level))
}

// stray follows a reference down the rules, as far as it is made of constants.
func stray(tree *ast.TreeNode, ref ast.Ref, lost *missing) error {
	at := tree
	for i, t := range ref {
		name, ok := t.Value.(ast.String)
		if i > 0 && !ok {
			return nil
		}
		next := at.Child(t.Value)
		switch {
		case next == nil && lost.names[string(name)]:
			return nil
		case next == nil:
			return nothingThere(at, ref, i)
		}
		if at = next; len(at.Values) > 0 {
			return nil // what is below is the rule's value, which has a type
		}
	}
	return nil
}

// nothingThere says that a package has no rule, or no package below, of the name at a place in a
// reference.
func nothingThere(in *ast.TreeNode, ref ast.Ref, i int) error {
	var known []string
	for name := range in.Children {
		if s, ok := name.(ast.String); ok {
			known = append(known, string(s))
		}
	}
	slices.Sort(known)
	name := string(ref[i].Value.(ast.String))
	fix := "there is nothing in it"
	if len(known) > 0 {
		fix = meant(name, known)
	}
	return wrong(ErrCompile, placeOf(ref, i), fix, "%s has no rule or package %s", ref[:i], name).word(name)
}

// placeOf is where a part of a reference is written. What an import stands for is where its name is.
func placeOf(ref ast.Ref, i int) *ast.Location {
	for ; i >= 0; i-- {
		if loc := ref[i].Location; loc != nil && loc.File != "" {
			return loc
		}
	}
	return nil
}

// idle tells of references that a node takes and that have no effect: to the rules of other levels,
// which no level sees, and to data by a name that is misspelt: there is no data of that name, and
// other rules read what is there by a name that is near. known are the names of data.
func (v *reviewer) idle(level string, modules map[string]*ast.Module, known []string, read func(string) bool) {
	eachRef(modules, func(ref ast.Ref) {
		name, ok := ref[1].Value.(ast.String)
		switch {
		case !ok || isLevel(ref, level) || slices.Contains(known, string(name)):
		case name != "bailiwick":
			if near := spelling.Nearest(string(name), known); near != "" && read(near) {
				v.errs = append(v.errs, wrong(ErrIdle, placeOf(ref, 1), fmt.Sprintf("did you mean %s? If not, give %s a place in %s", near, string(name), DataFile), "there is no data.%s", string(name)).word(string(name)))
			}
		case len(ref) > 2:
			other, ok := ref[2].Value.(ast.String)
			if !ok {
				return
			}
			fix := "write what several levels need in each of them"
			if !slices.Contains(levelOrder, string(other)) {
				fix = meant(string(other), []string{level})
			}
			v.errs = append(v.errs, wrong(ErrIdle, placeOf(ref, 2), fix, "level %s sees no rules but its own, and not those of %s", level, string(other)).word(string(other)))
		}
	})
}

// mocks tells of tests that put something in the place of data which nobody reads, and returns the
// names of what they put something in place of.
func (v *reviewer) mocks(modules map[string]*ast.Module, known []string) (put []string) {
	targets := map[*ast.Term]bool{}
	for _, m := range modules {
		ast.WalkWiths(m, func(w *ast.With) bool {
			targets[w.Target] = true
			return false
		})
	}
	for _, m := range modules { // a test may read it itself
		ast.WalkTerms(m, func(t *ast.Term) bool {
			if name := dataName(t); name != "" && !targets[t] {
				known = append(known, name)
			}
			return false
		})
	}
	for t := range targets {
		name := dataName(t)
		if put = append(put, name); name != "" && name != "bailiwick" && !slices.Contains(known, name) {
			v.errs = append(v.errs, wrong(ErrIdle, placeOf(t.Value.(ast.Ref), 1), meant(name, known), "no rule reads data.%s, so putting something in its place has no effect", name).word(name))
		}
	}
	return put
}

// dataName is the first name of a reference to data, or nothing.
func dataName(t *ast.Term) string {
	if ref, ok := t.Value.(ast.Ref); ok && len(ref) > 1 && ast.DefaultRootDocument.Equal(ref[0]) {
		name, _ := ref[1].Value.(ast.String)
		return string(name)
	}
	return ""
}
