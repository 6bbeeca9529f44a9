package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/bailiwick-mesh/bailiwick/policy/schema"
	"github.com/bailiwick-mesh/bailiwick/policy/spelling"
)

// compiled is a level ready to answer. It is never changed.
type compiled struct {
	digest    [32]byte
	kinds     map[Kind]*question
	recording *query        // of its package log; nil: it has none
	masks     bool          // there are masking rules in it
	compiler  *ast.Compiler // for whoever explains
	store     storage.Store
	schemas   *schema.Set
	costs     []Cost
}

// question is what one level is asked for one kind: one prepared query that yields
// [deny ids, allow ids, values].
type question struct {
	query  *query
	rules  map[string]*Rule // by id
	allows map[string]bool  // those that allow
	reads  []inputPath      // what of the input the rules can read
}

// Names of the rules with a meaning.
const (
	denyRule       = "deny"
	allowRule      = "allow"
	grantRule      = "grant"
	thresholdsRule = "thresholds"
)

// valueRules are the kinds whose allows each come with a value, by the rule that gives it.
var valueRules = map[Kind]string{StateAdmit: grantRule, Quarantine: thresholdsRule}

// maxMistakes is how many of one level are reported at once.
const maxMistakes = 100

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
	modules, lost, err := parse(l, serving, false)
	errs := []error{err}
	contract, err := contractOf(l.Name, modules)
	if errors.Is(err, ErrTooLarge) {
		return nil, err
	}
	errs = append(errs, err)
	named := make(map[string]string, len(l.Schemas))
	for p, src := range l.Schemas {
		named[l.Name+"/"+p] = src
	}
	states, err := schema.Compile(named)
	errs = append(errs, err)
	c, wrongs := gather(modules, &lost, func() *ast.Compiler {
		return ast.NewCompiler().WithCapabilities(capabilities(l.Name, false)).WithSchemas(schemas()).
			WithStrict(true).WithUseTypeCheckAnnotations(false). // METADATA must not replace the schema
			SetErrorLimit(maxMistakes)
	})
	errs = append(errs, advise(l.Name, wrongs, modules)...)
	if !c.Failed() {
		errs = append(errs, foreignFields(l.Name, c))
	}
	errs = append(errs, strays(l.Name, c, &lost))
	if !c.Failed() && lost.none() { // otherwise what the lost rules use would seem to be used by none
		errs = append(errs, unused(l.Name, c), checkRecording(l.Name, c))
	}
	if err := l.tell(errs...); err != nil {
		return nil, err
	}
	// OPA keys modules by name and replaces silently; a lost module is a lost deny.
	if len(c.Modules) != len(serving) || !lost.none() || c.Failed() {
		return nil, fmt.Errorf("%w: %s: %d modules given, %d compiled", ErrCompile, l.Name, len(serving), len(c.Modules))
	}
	var root map[string]any
	if err := util.UnmarshalJSON(data, &root); err != nil {
		return nil, fmt.Errorf("%w: data of %s: %v", ErrLevel, l.Name, err)
	}
	if err := plainData(l.Name, root); err != nil {
		return nil, err
	}
	// Nothing ever writes to this store, so its lock never waits.
	store := inmem.NewFromObjectWithOpts(root, inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))
	out = &compiled{digest: l.digest(data), kinds: map[Kind]*question{}, schemas: states, compiler: c, store: store}
	if out.recording, out.masks, err = prepareRecording(l.Name, c, store); err != nil {
		return nil, err
	}
	for kind, rules := range contract {
		asked, err := newQuery(rules.query(l.Name, kind), c, store)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %v", ErrCompile, l.Name, err)
		}
		out.kinds[kind] = &question{query: asked, rules: rules.byID, allows: rules.allows, reads: readsOf(l.Name, c, kind)}
	}
	if l.Measured {
		return out, nil
	}
	if err := out.measure(l, c, store); err != nil {
		return nil, err
	}
	return out, nil
}

func isTest(p string) bool { return strings.HasSuffix(p, "_test.rego") }

// parse reads modules and keys them level/path: two files of one name in different folders are two
// modules. Of one with errors it keeps what it can, and tells what it could not.
func parse(l *Level, sources map[string]string, test bool) (modules map[string]*ast.Module, lost missing, err error) {
	var errs []error
	modules = map[string]*ast.Module{}
	opts := ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true, Capabilities: capabilities(l.Name, test)}
	for _, p := range slices.Sorted(maps.Keys(sources)) {
		key := l.Name + "/" + p
		m, err := ast.ParseModuleWithOpts(key, sources[p], opts)
		if list := (ast.Errors)(nil); errors.As(err, &list) {
			var all ast.Errors
			if m, all = salvage(key, sources[p], opts, &lost); len(all) == 0 {
				all = list // its statements are fine one by one
			}
			errs = append(errs, advise(l.Name, all, nil)...)
		} else if err != nil {
			errs = append(errs, &Mistake{Is: ErrCompile, File: key, Message: err.Error()})
			lost.any = true
		} else if m == nil {
			errs = append(errs, &Mistake{Is: ErrCompile, File: key, Message: "it is empty", Fix: "write a package and its rules, or take the file away"})
		}
		if m == nil {
			continue
		}
		if err := admit(l.Name, key, m); err != nil {
			errs = append(errs, err)
		}
		modules[key] = m
	}
	return modules, lost, errors.Join(errs...)
}

// admit checks one parsed module before any compiler sees it.
func admit(level, key string, m *ast.Module) error {
	var errs []error
	v2 := slices.ContainsFunc(m.Imports, func(i *ast.Import) bool { return ast.RegoV2CompatibleRef.Equal(i.Path.Value) })
	if !v2 {
		errs = append(errs, wrong(ErrRegoV2, m.Package.Location, "add the line \"import rego.v2\" below its package", "package %s does not import rego.v2", strings.TrimPrefix(m.Package.Path.String(), "data.")))
	}
	pkg := strings.TrimPrefix(m.Package.Path.String(), "data.")
	bare, test := strings.CutSuffix(pkg, "_test")
	if test != isTest(key) {
		errs = append(errs, wrong(ErrPackage, m.Package.Location, "tests live in files named *_test.rego and packages named *_test, and nothing else does", "package %s in %s", pkg, key))
	}
	if _, ok := kindOf(level, bare); !ok && !isLib(level, bare) && !isLog(level, bare) {
		errs = append(errs, wrong(ErrPackage, m.Package.Location, packageFix(level, bare), "level %s has no package %s", level, pkg))
	}
	if !test {
		errs = append(errs, sandboxed(m))
	}
	return errors.Join(errs...)
}

// packageFix names the package that was meant.
func packageFix(level, pkg string) string {
	parts := strings.Split(pkg, ".")
	kinds := make([]string, len(Kinds))
	for i, k := range Kinds {
		kinds[i] = string(k)
	}
	if near := spelling.Nearest(parts[len(parts)-1], append(kinds, logPackage)); near != "" && len(parts) == 3 {
		return fmt.Sprintf("did you mean bailiwick.%s.%s?", level, near)
	}
	return fmt.Sprintf("want bailiwick.%s.<kind> with a kind of %v, bailiwick.%s.lib or bailiwick.%s.log", level, Kinds, level, level)
}

func kindOf(level, pkg string) (Kind, bool) {
	name, ok := strings.CutPrefix(pkg, "bailiwick."+level+".")
	return Kind(name), ok && slices.Contains(Kinds, Kind(name))
}

func isLib(level, pkg string) bool {
	lib := "bailiwick." + level + ".lib"
	return pkg == lib || strings.HasPrefix(pkg, lib+".")
}
