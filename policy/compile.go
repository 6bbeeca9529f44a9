package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/util"
)

// compiled is a level ready to answer. It is never changed.
type compiled struct {
	digest [32]byte
	kinds  map[Kind]*question
}

// question is what one level is asked for one kind: one prepared query that yields
// [deny ids, allow ids, grants].
type question struct {
	query  rego.PreparedEvalQuery
	rules  map[string]*Rule // by id
	allows map[string]bool  // those that allow
}

// Names of the rules with a meaning.
const (
	denyRule  = "deny"
	allowRule = "allow"
	grantRule = "grant"
)

// compile builds a level or says everything that is wrong with it. OPA panics on some of what
// authors write, such as numbers too large for it.
func compile(l *Level) (out *compiled, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("%w: %s: %v", ErrCompile, l.Name, p)
		}
	}()
	data, err := l.check()
	if err != nil {
		return nil, err
	}
	serving := maps.Clone(l.Modules)
	maps.DeleteFunc(serving, func(p, _ string) bool { return isTest(p) })
	modules, err := parse(l, serving, false)
	if err != nil {
		return nil, err
	}
	contract, err := contractOf(l.Name, modules)
	if err != nil {
		return nil, err
	}
	c := ast.NewCompiler().WithCapabilities(capabilities(l.Name, false)).WithSchemas(schemas()).
		WithStrict(true).WithUseTypeCheckAnnotations(false) // METADATA must not replace the schema
	c.Compile(modules)
	if c.Failed() {
		return nil, explainErrors(l.Name, c.Errors)
	}
	// OPA keys modules by name and replaces silently; a lost module is a lost deny.
	if len(c.Modules) != len(serving) {
		return nil, fmt.Errorf("%w: %s: %d modules given, %d compiled", ErrCompile, l.Name, len(serving), len(c.Modules))
	}
	if err := unused(l.Name, c); err != nil {
		return nil, err
	}
	var root map[string]any
	if err := util.UnmarshalJSON(data, &root); err != nil {
		return nil, fmt.Errorf("%w: data of %s: %v", ErrLevel, l.Name, err)
	}
	// Nothing ever writes to this store, so its lock never waits.
	store := inmem.NewFromObjectWithOpts(root, inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))
	out = &compiled{digest: l.digest(data), kinds: map[Kind]*question{}}
	for kind, rules := range contract {
		pq, err := rego.New(rego.Query(rules.query(l.Name, kind)), rego.Compiler(c), rego.Store(store),
			rego.StrictBuiltinErrors(true)).PrepareForEval(context.Background())
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %v", ErrCompile, l.Name, err)
		}
		out.kinds[kind] = &question{query: pq, rules: rules.byID, allows: rules.allows}
	}
	return out, nil
}

func isTest(p string) bool { return strings.HasSuffix(p, "_test.rego") }

// parse reads modules and keys them level/path: two files of one name in different folders are two
// modules.
func parse(l *Level, sources map[string]string, test bool) (map[string]*ast.Module, error) {
	var errs []error
	modules := map[string]*ast.Module{}
	opts := ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true, Capabilities: capabilities(l.Name, test)}
	for _, p := range slices.Sorted(maps.Keys(sources)) {
		key := l.Name + "/" + p
		m, err := ast.ParseModuleWithOpts(key, sources[p], opts)
		if err != nil {
			if list := (ast.Errors)(nil); errors.As(err, &list) {
				err = explainErrors(l.Name, list)
			} else {
				err = fmt.Errorf("%w: %s: %v", ErrCompile, key, err)
			}
			errs = append(errs, err)
			continue
		}
		if m == nil {
			errs = append(errs, fmt.Errorf("%w: %s is empty", ErrCompile, key))
			continue
		}
		if err := admit(l.Name, key, m); err != nil {
			errs = append(errs, err)
		}
		modules[key] = m
	}
	return modules, errors.Join(errs...)
}

// admit checks one parsed module before any compiler sees it.
func admit(level, key string, m *ast.Module) error {
	var errs []error
	v2 := slices.ContainsFunc(m.Imports, func(i *ast.Import) bool { return ast.RegoV2CompatibleRef.Equal(i.Path.Value) })
	if !v2 {
		errs = append(errs, fmt.Errorf("%w: %s: add \"import rego.v2\" after its package", ErrRegoV2, key))
	}
	pkg := strings.TrimPrefix(m.Package.Path.String(), "data.")
	bare, test := strings.CutSuffix(pkg, "_test")
	if test != isTest(key) {
		errs = append(errs, fmt.Errorf("%w: %s: package %s: tests live in files named *_test.rego and packages named *_test, and nothing else does", ErrPackage, at(m.Package.Location), pkg))
	}
	if _, ok := kindOf(level, bare); !ok && !isLib(level, bare) {
		errs = append(errs, fmt.Errorf("%w: %s: package %s, want bailiwick.%s.<kind> with a kind of %v, or bailiwick.%s.lib",
			ErrPackage, at(m.Package.Location), pkg, level, Kinds, level))
	}
	if !test {
		errs = append(errs, sandboxed(m))
	}
	return errors.Join(errs...)
}

func kindOf(level, pkg string) (Kind, bool) {
	name, ok := strings.CutPrefix(pkg, "bailiwick."+level+".")
	return Kind(name), ok && slices.Contains(Kinds, Kind(name))
}

func isLib(level, pkg string) bool {
	lib := "bailiwick." + level + ".lib"
	return pkg == lib || strings.HasPrefix(pkg, lib+".")
}

var undefinedFunction = regexp.MustCompile(`undefined function ([a-z0-9_.]+)`)

// explainErrors turns OPA's errors into ours, with the likely fix.
func explainErrors(level string, list ast.Errors) error {
	var errs []error
	for _, e := range list {
		if f := undefinedFunction.FindStringSubmatch(e.Message); f != nil && ast.BuiltinMap[f[1]] != nil {
			errs = append(errs, fmt.Errorf("%w: %s: %s is not among the functions of level %s", ErrSandbox, at(e.Location), f[1], level))
			continue
		}
		msg := e.Message
		if e.Details != nil {
			msg += " (" + strings.Join(strings.Fields(strings.Join(e.Details.Lines(), " ")), " ") + ")"
		}
		errs = append(errs, fmt.Errorf("%w: %s: %s", ErrCompile, at(e.Location), msg))
	}
	return errors.Join(errs...)
}
