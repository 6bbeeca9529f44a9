package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/util"
)

// ErrFormat means a module is not in the one layout. Format gives it.
var ErrFormat = errors.New("policy module is not formatted")

// Check reports every mistake that would make Activate refuse the level, and compiles its tests.
func Check(l Level) error {
	if _, err := compile(&l); err != nil {
		return err
	}
	_, _, err := withTests(&l)
	return err
}

// Format returns the module in the one layout of Rego.
func Format(path, source string) (string, error) {
	out, err := format.SourceWithOpts(path, []byte(source), format.Opts{RegoVersion: ast.RegoV1})
	if err != nil {
		return "", fmt.Errorf("%w: %v", ErrCompile, err)
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

// TestResult is one test_ rule of a *_test.rego file.
type TestResult struct {
	Name     string // package and rule
	File     string
	Line     int
	Pass     bool
	Output   string // of print, and the error where there is one
	Duration time.Duration
}

// Test runs the tests of a level. Unlike decisions they may use print, with, and a few functions
// to vary an input (object.union, object.remove, json.patch).
func Test(ctx context.Context, l Level) ([]TestResult, error) {
	if _, err := compile(&l); err != nil {
		return nil, err
	}
	c, modules, err := withTests(&l)
	if err != nil {
		return nil, err
	}
	data, err := l.check()
	if err != nil {
		return nil, err
	}
	var root map[string]any
	if err := util.UnmarshalJSON(data, &root); err != nil {
		return nil, fmt.Errorf("%w: data of %s: %v", ErrLevel, l.Name, err)
	}
	store := inmem.NewFromObject(root)
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return nil, err
	}
	defer store.Abort(ctx, txn)
	ch, err := tester.NewRunner().SetCompiler(c).SetStore(store).SetModules(modules).
		RaiseBuiltinErrors(true).CapturePrintOutput(true).SetTimeout(10*time.Second).RunTests(ctx, txn)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrCompile, l.Name, err)
	}
	var out []TestResult
	for r := range ch {
		res := TestResult{Name: r.Package + "." + r.Name, Pass: r.Pass(), Output: string(bytes.TrimSpace(r.Output)), Duration: r.Duration}
		if r.Location != nil {
			res.File, res.Line = r.Location.File, r.Location.Row
		}
		if r.Error != nil {
			res.Output = r.Error.Error() + "\n" + res.Output
		}
		out = append(out, res)
	}
	return out, nil
}

// withTests parses all modules of a level, tests included. The runner compiles them; a compiler of
// its own reports their mistakes first.
func withTests(l *Level) (*ast.Compiler, map[string]*ast.Module, error) {
	modules, err := parse(l, l.Modules, true)
	if err != nil {
		return nil, nil, err
	}
	fresh := func() *ast.Compiler {
		return ast.NewCompiler().WithCapabilities(capabilities(l.Name, true)).WithSchemas(schemas()).
			WithUseTypeCheckAnnotations(false).WithEnablePrintStatements(true)
	}
	c := fresh()
	if c.Compile(modules); c.Failed() {
		return nil, nil, explainErrors(l.Name, c.Errors)
	}
	return fresh(), modules, nil
}
