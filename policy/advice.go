package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/bailiwick-mesh/bailiwick/policy/spelling"
)

// advise turns OPA's errors into mistakes, each with the likely fix.
func advise(level string, list ast.Errors, modules map[string]*ast.Module) (out []error) {
	for _, e := range list {
		out = append(out, adviseOne(level, e, modules))
	}
	return out
}

var (
	undefinedFunction = regexp.MustCompile(`undefined function ([A-Za-z0-9_.]+)`)
	unsafeVar         = regexp.MustCompile(`^var (\S+) is unsafe`)
	unusedVar         = regexp.MustCompile(`^(?:assigned|declared) var (\S+) unused`)
	unusedArgument    = regexp.MustCompile(`^unused argument ([^. ]+)`)
	undeclaredVar     = regexp.MustCompile(`^var (\S+) is undeclared`)
)

func adviseOne(level string, e *ast.Error, modules map[string]*ast.Module) *Mistake {
	if d, ok := e.Details.(*ast.RefErrInvalidDetail); ok {
		return noSuchField(e, d)
	}
	if f := undefinedFunction.FindStringSubmatch(e.Message); f != nil {
		return noSuchFunction(level, e, f[1], modules)
	}
	if v := unsafeVar.FindStringSubmatch(e.Message); v != nil {
		return unboundName(e, v[1], modules)
	}
	if v := undeclaredVar.FindStringSubmatch(e.Message); v != nil {
		return unboundName(e, v[1], modules)
	}
	fix := ""
	switch d := e.Details.(type) {
	case *ast.UnificationErrDetail:
		return wrong(ErrCompile, e.Location, "compare values of one type", "the two sides can never be equal: %s", besides(d.Lines()))
	case *ast.ArgErrDetail:
		return wrong(ErrCompile, e.Location, "", "%s: %s", e.Message, besides(d.Lines()))
	case *ast.RefErrUnsupportedDetail:
		if _, ok := d.Have.(*types.Function); ok {
			name := strings.Trim(d.Ref[d.Pos].String(), `"`)
			return wrong(ErrCompile, e.Location, fmt.Sprintf("call it: %s(...)", name), "%s is a function", name).word(name)
		}
		return wrong(ErrCompile, e.Location, "", "%s has no fields; %s", d.Ref[:d.Pos+1], besides(d.Lines()[2:]))
	}
	switch {
	case unusedVar.MatchString(e.Message):
		fix = "use it, take it out, or write _ for a value nobody reads"
	case unusedArgument.MatchString(e.Message):
		fix = "use it, or write _ for an argument nobody reads"
	case strings.HasPrefix(e.Message, "import ") && strings.HasSuffix(e.Message, "unused"):
		fix = "take it out"
	case e.Code == ast.RecursionErr:
		fix = "a rule cannot be part of its own condition: keep the common part in a rule of its own"
	case strings.Contains(e.Message, "unexpected eof"):
		fix = "a bracket or brace that was opened is never closed"
	case strings.Contains(e.Message, "template strings"):
		fix = "put strings together with concat"
	case strings.Contains(e.Message, "`if` keyword is required"), strings.Contains(e.Message, "`contains` keyword is required"):
		fix = `write rules as deny contains "some-id" if { ... } and helpers as name if { ... }`
	}
	return wrong(ErrCompile, e.Location, fix, "%s", strings.TrimPrefix(e.Message, "rego_parse_error: "))
}

// besides puts the lines of a detail on one.
func besides(lines []string) string {
	for i, l := range lines {
		lines[i] = strings.Join(strings.Fields(l), " ")
	}
	return strings.Join(lines, ", ")
}

// noSuchField points at the part of a reference that the closed input, or a rule's value, lacks.
func noSuchField(e *ast.Error, d *ast.RefErrInvalidDetail) *Mistake {
	at := e.Location
	if t := d.Ref[d.Pos]; t.Location != nil && t.Location.File != "" {
		at = t.Location
	}
	var known []string
	for _, v := range d.OneOf {
		if s, ok := v.(ast.String); ok {
			known = append(known, string(s))
		}
	}
	slices.Sort(known)
	have := strings.Trim(d.Ref[d.Pos].String(), `"`)
	fix := ""
	if len(known) > 0 {
		fix = "want one of " + strings.Join(known, ", ")
	}
	if near := spelling.Nearest(have, known); near != "" {
		fix = "did you mean " + near + "?"
	}
	return wrong(ErrCompile, at, fix, "%s has no field %s", d.Ref[:d.Pos], have)
}

// noSuchFunction tells a function that policies do not have from one that nobody has.
func noSuchFunction(level string, e *ast.Error, name string, modules map[string]*ast.Module) *Mistake {
	if ast.BuiltinMap[name] != nil {
		return wrong(ErrSandbox, e.Location, instead(level, name), "%s is not among the functions of level %s", name, level).word(name)
	}
	pkg, short := "", name
	if i := strings.LastIndexByte(name, '.'); i > 0 && strings.HasPrefix(name, ast.DefaultRootDocument.String()+".") {
		pkg, short = name[:i], name[i+1:]
	}
	var known []string
	for _, m := range modules {
		own := m.Package.Path.String()
		if own != pkg && (pkg != "" || e.Location == nil || modules[e.Location.File] == nil || own != modules[e.Location.File].Package.Path.String()) {
			continue
		}
		for _, r := range m.Rules {
			if v, ok := r.Head.Ref()[0].Value.(ast.Var); ok && len(r.Head.Args) > 0 {
				known = append(known, string(v))
			}
		}
	}
	if pkg == "" {
		known = append(known, Builtins(level)...)
	}
	slices.Sort(known)
	fix, where := "", ""
	if near := spelling.Nearest(short, known); near != "" {
		fix = "did you mean " + near + "?"
	} else if pkg != "" && len(known) > 0 {
		fix = "it has " + strings.Join(slices.Compact(known), ", ")
	}
	if pkg != "" {
		where = " in " + pkg
	}
	return wrong(ErrCompile, e.Location, fix, "there is no function %s%s", short, where).word(short)
}

// refusals say why a function is not for policies, and what to do, by the beginning of its name.
// The first that fits counts.
var refusals = []struct{ prefix, why string }{
	{"http.", "a decision asks nobody: what it needs is in input and data"},
	{"net.lookup", "a decision asks nobody: what it needs is in input and data"},
	{"net.cidr_", "it can make a value much larger than its arguments: use net.cidr_contains"},
	{"time.now", "there is no clock, so that a recorded decision gives the same answer again: use input.time.unix"},
	{"time.", "use input.time.unix, and write moments in data as Unix seconds"},
	{"rand.", "there is no chance, so that a recorded decision gives the same answer again: choose by a field of input"},
	{"uuid.", "there is no chance, so that a recorded decision gives the same answer again: choose by a field of input"},
	{"opa.runtime", "a decision depends on its input and its policy only"},
	{"regex.", "patterns that run long cannot be stopped: use regex.match with a constant pattern, or glob.match, startswith, endswith"},
	{"glob.", "use glob.match with a constant pattern"},
	{"io.jwt.", "identities were verified before policy is asked: use input.source"},
	{"crypto.", "what has a signature was verified before policy is asked"},
	{"graph.", "it cannot be stopped: write the reachable pairs into data"},
	{"walk", "it visits everything: name the fields that matter"},
	{"numbers.range", "it can make a value much larger than its arguments"},
	{"bits.", "it can run for minutes and cannot be stopped"},
	{"json.", "input and data are parsed already; in tests there is json.patch"},
	{"yaml.", "input and data are parsed already"},
	{"object.", "it is for tests only; use object.get and object.keys"},
	{"sprintf", "use concat; titles and ids are constants"},
	{"strings.", "use strings.any_prefix_match and strings.any_suffix_match"},
	{"replace", "use split, concat and trim"},
	{"trace", "use bailiwick policy try, which shows what held and what did not"},
}

func instead(level, name string) string {
	if slices.Contains(patternBuiltins, name) {
		return fmt.Sprintf("level %s does without patterns: use startswith, endswith or a list in data", level)
	}
	for _, r := range refusals {
		if strings.HasPrefix(name, r.prefix) {
			return r.why
		}
	}
	return "bailiwick policy check --functions lists those there are"
}

// unboundName is a name that nothing gives a value: most often a rule or a keyword misspelt.
func unboundName(e *ast.Error, name string, modules map[string]*ast.Module) *Mistake {
	known := []string{"input", "data", "some", "every", "not", "in", "contains", "with", "true", "false", "null"}
	if e.Location != nil && modules[e.Location.File] != nil {
		for _, r := range modules[e.Location.File].Rules {
			if v, ok := r.Head.Ref()[0].Value.(ast.Var); ok {
				known = append(known, string(v))
			}
		}
	}
	fix := "give it a value with :=, or declare it with some " + name + " in ..."
	if near := spelling.Nearest(name, known); near != "" {
		fix = "did you mean " + near + "?"
	}
	for _, m := range modules {
		path := m.Package.Path
		if last, ok := path[len(path)-1].Value.(ast.String); ok && string(last) == name {
			fix = fmt.Sprintf("add the line \"import %s\" below the package", path)
		}
	}
	return wrong(ErrCompile, e.Location, fix, "nothing gives %s a value", name).word(name)
}
