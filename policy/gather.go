package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// OPA ends a module at the first statement that does not parse, and a compilation at the first
// stage with an error. An author wants all mistakes at once, so what is wrong is taken out here and
// the rest is looked at again. What only that would make wrong is not told.

// missing is what was taken out of the modules of a level.
type missing struct {
	any   bool            // a package or all of a module: no name can be said to be nobody's
	names map[string]bool // of rules, and in conditions
}

func (m *missing) take(name string) {
	if m.names == nil {
		m.names = map[string]bool{}
	}
	m.names[name] = true
}

func (m *missing) none() bool { return !m.any && len(m.names) == 0 }

// explains reports whether an error may only say that something is not there which was taken out.
func (m *missing) explains(e *ast.Error) bool {
	for _, form := range []*regexp.Regexp{undefinedFunction, unsafeVar, undeclaredVar, unusedVar, unusedArgument} {
		if f := form.FindStringSubmatch(e.Message); f != nil {
			return (m.any || m.names[f[1][strings.LastIndexByte(f[1], '.')+1:]]) && ast.BuiltinMap[f[1]] == nil
		}
	}
	if d, ok := e.Details.(*ast.RefErrInvalidDetail); ok && len(d.Ref) > d.Pos && ast.DefaultRootDocument.Equal(d.Ref[0]) {
		name, _ := d.Ref[d.Pos].Value.(ast.String)
		return m.any || m.names[string(name)]
	}
	return !m.none() && strings.HasPrefix(e.Message, "import ") && strings.HasSuffix(e.Message, "unused")
}

// What may be taken apart, so that a hostile module takes no long time.
const (
	maxStatements = 4 * MaxRules
	maxHeader     = 8 << 10 // bytes of package and imports: they are read again with each statement
	maxRounds     = 8       // compilations of what is left
)

// salvage parses what it can of a module that does not parse as a whole: its statements one by one.
// It returns nothing where even the package cannot be read, or where there is too much of it.
func salvage(key, source string, opts ast.ParserOptions, lost *missing) (*ast.Module, ast.Errors) {
	lines := strings.SplitAfter(source, "\n")
	starts := append(statements(lines), len(lines))
	whole := make([]string, len(lines)) // what parses; the rest stays empty
	for i := range whole {
		whole[i] = "\n"
	}
	var header string
	var errs ast.Errors
	for _, first := range []bool{true, false} {
		for n, from := range starts[:len(starts)-1] {
			to := starts[n+1]
			name := statementName(lines[from:to])
			if first != (name == "package" || name == "import") {
				continue
			}
			if len(header) > maxHeader || len(starts) > maxStatements || len(errs) >= maxMistakes {
				lost.any = true
				return nil, errs
			}
			text := strings.Join(lines[from:to], "")
			if _, err := ast.ParseModuleWithOpts(key, header+text, opts); err != nil {
				list, _ := err.(ast.Errors)
				for _, e := range list {
					if e.Location != nil { // what is missed at its end is missed before the next begins
						e.Location.Row = min(to, from+e.Location.Row-strings.Count(header, "\n"))
					}
				}
				errs = append(errs, list...)
				lost.take(name)
				lost.any = lost.any || first
				continue
			}
			copy(whole[from:to], lines[from:to])
			if first {
				header += text
			}
		}
	}
	m, err := ast.ParseModuleWithOpts(key, strings.Join(whole, ""), opts)
	if err != nil {
		lost.any = true
		return nil, errs
	}
	return m, errs
}

// statements are the lines that begin one: words at the margin after an empty line, a comment or
// the end of another.
func statements(lines []string) (out []int) {
	margin := func(i int, of string) bool {
		return i >= 0 && lines[i] != "" && strings.ContainsRune(of, rune(lines[i][0]))
	}
	words := "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
	for i := range lines {
		begins := margin(i, words+"#") && !margin(i-1, "#")
		after := i == 0 || strings.TrimSpace(lines[i-1]) == "" || margin(i-1, "}])") || margin(i-1, words) && !opens(lines[i-1])
		if begins && after {
			out = append(out, i)
		}
	}
	return out
}

// opens reports whether a statement goes on after a line.
func opens(line string) bool {
	line = strings.TrimSpace(line)
	return line == "" || strings.ContainsRune("{[(,|&=+-*/:", rune(line[len(line)-1])) || strings.HasSuffix(line, " if")
}

// statementName is the first word that is no comment and not the keyword default.
func statementName(lines []string) string {
	for _, l := range lines {
		if l = strings.TrimPrefix(strings.TrimSpace(l), "default "); l != "" && l[0] != '#' {
			end := strings.IndexFunc(l, func(r rune) bool {
				return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
			})
			if end >= 0 {
				return l[:end]
			}
			return l
		}
	}
	return ""
}

// gather compiles modules, again without what is wrong until no more is, and returns all errors and
// the last compiler. Its modules lack what was taken out.
func gather(modules map[string]*ast.Module, lost *missing, fresh func() *ast.Compiler) (*ast.Compiler, ast.Errors) {
	var errs ast.Errors
	told := map[string]bool{}
	for round := 1; ; round++ {
		c := fresh()
		if c.Compile(modules); !c.Failed() {
			return c, errs
		}
		rest := map[string]*ast.Module{}
		for key, m := range modules {
			rest[key] = m.Copy()
		}
		taken := false
		for _, e := range c.Errors {
			if text := e.Error(); !lost.explains(e) && !told[text] {
				told[text] = true
				errs = append(errs, e)
			}
			if e.Location != nil {
				taken = without(rest[e.Location.File], e.Location.Row, lost) || taken
			}
		}
		if !taken || round == maxRounds || len(errs) >= maxMistakes {
			return c, errs
		}
		modules = rest
	}
}

// without takes the condition, rule or import in a line out of a module, and reports whether there
// was one.
func without(m *ast.Module, row int, lost *missing) (taken bool) {
	if m == nil {
		return false
	}
	m.Imports = slices.DeleteFunc(m.Imports, func(i *ast.Import) bool {
		gone := spans(i.Location, row)
		taken = taken || gone
		return gone
	})
	m.Rules = slices.DeleteFunc(m.Rules, func(r *ast.Rule) bool {
		if !spans(r.Location, row) {
			return false
		}
		taken = true
		return !unconditional(r, row, lost) && !hollow(r, lost)
	})
	return taken
}

func spans(loc *ast.Location, row int) bool {
	return loc != nil && loc.Row <= row && row <= loc.Row+strings.Count(strings.TrimRight(string(loc.Text), "\n"), "\n")
}

// unconditional takes the conditions in a line out of a rule.
func unconditional(r *ast.Rule, row int, lost *missing) (taken bool) {
	r.Body = slices.DeleteFunc(r.Body, func(x *ast.Expr) bool {
		if !spans(x.Location, row) || x.Location.Row == r.Head.Location.Row {
			return false
		}
		ast.WalkVars(x, func(v ast.Var) bool {
			lost.take(string(v))
			return false
		})
		taken = true
		return true
	})
	if len(r.Body) == 0 {
		r.Body = ast.NewBody(ast.NewExpr(ast.BooleanTerm(true)))
	}
	for i, x := range r.Body {
		x.Index = i
	}
	return taken
}

// hollow leaves of a rule what others see of it: a name, as many arguments, and a value of any
// type. It reports false where nothing is left, also because it was hollow before.
func hollow(r *ast.Rule, lost *missing) bool {
	name, _ := r.Head.Ref()[0].Value.(ast.Var)
	lost.take(string(name))
	unknown := ast.NewTerm(ast.MustParseRef("data.taken_out"))
	done := func(t *ast.Term) bool { return t == nil || t.Equal(unknown) }
	if done(r.Head.Value) && done(r.Head.Key) || len(r.Head.Ref()) != 1 || r.Default {
		return false
	}
	for i := range r.Head.Args {
		r.Head.Args[i] = ast.VarTerm(fmt.Sprint(ast.WildcardPrefix, "taken", i))
	}
	if r.Head.Value != nil {
		r.Head.Value = unknown
	}
	if r.Head.Key != nil {
		r.Head.Key = unknown.Copy()
	}
	r.Body, r.Else = ast.NewBody(ast.NewExpr(ast.BooleanTerm(true))), nil
	return true
}
