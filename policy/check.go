package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
)

// ErrFormat means a module is not in the one layout. Format gives it.
var ErrFormat = errors.New("policy module is not formatted")

// Check reports every mistake that would make Activate refuse the level, and compiles its tests.
func Check(l Level) error {
	_, err := compile(&l)
	if at := (*Mistake)(nil); err != nil && !errors.As(err, &at) {
		return err // not about its modules
	}
	_, _, tests := withTests(&l)
	return l.tell(err, tests)
}

// Format returns the module at level/path in the one layout of Rego.
func Format(path, source string) (string, error) {
	out, err := format.SourceWithOpts(path, []byte(source), format.Opts{RegoVersion: ast.RegoV1})
	var list ast.Errors
	if errors.As(err, &list) {
		level, name, _ := strings.Cut(path, "/")
		return "", (&Level{Name: level, Modules: map[string]string{name: source}}).tell(advise(level, list, nil)...)
	}
	if err != nil {
		return "", &Mistake{Is: ErrCompile, File: path, Message: err.Error()}
	}
	return string(out), nil
}

// Formatted reports the modules of a level that Format would change.
func Formatted(l Level) error {
	var errs []error
	for _, p := range slices.Sorted(maps.Keys(l.Modules)) {
		out, err := Format(l.Name+"/"+p, l.Modules[p])
		switch {
		case err != nil:
			errs = append(errs, err)
		case out != l.Modules[p]:
			errs = append(errs, fmt.Errorf("%w: %s/%s", ErrFormat, l.Name, p))
		}
	}
	return errors.Join(errs...)
}

// withTests parses all modules of a level, tests included. The runner compiles them; a compiler of
// its own reports their mistakes first.
func withTests(l *Level) (*ast.Compiler, map[string]*ast.Module, error) {
	modules, lost, err := parse(l, l.Modules, true)
	fresh := func() *ast.Compiler {
		return ast.NewCompiler().WithCapabilities(capabilities(l.Name, true)).WithSchemas(schemas()).
			WithUseTypeCheckAnnotations(false).WithEnablePrintStatements(true).SetErrorLimit(maxMistakes)
	}
	c, wrongs := gather(modules, &lost, fresh)
	if err := l.tell(append(advise(l.Name, wrongs, modules), err, strays(l.Name, c, &lost))...); err != nil {
		return nil, nil, err
	}
	return fresh(), modules, nil
}
