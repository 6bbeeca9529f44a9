package audit_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// Every registered kind is written by the product, and a test or script sees it written. What
// reads leaves, the packages below audit, does not count.
func TestEveryKindIsWritten(t *testing.T) {
	const root = "../../.."
	names := identifiers(t, filepath.Join(root, "attest/trail/kind.go"))
	written, seen := map[string]bool{}, map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(path, root+"/"))
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || rel == "test" || strings.HasSuffix(rel, "internal/audit")) {
			return filepath.SkipDir
		}
		into := written
		switch {
		case strings.HasSuffix(path, "_test.go"), strings.HasSuffix(path, ".txtar"):
			into = seen
		case !strings.HasSuffix(path, ".go"), rel == "attest/trail/kind.go", strings.HasSuffix(path, "/doc.go"):
			return nil
		}
		if rel == "attest/trail/trail_test.go" || strings.HasSuffix(path, "kinds_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, k := range trail.Kinds() {
			ident := names[k.Name()]
			own := strings.HasPrefix(rel, "attest/trail/") && !strings.Contains(strings.TrimPrefix(rel, "attest/trail/"), "/")
			if bytes.Contains(b, []byte("trail."+ident)) || own && bytes.Contains(b, []byte(ident)) ||
				bytes.Contains(b, []byte(strconv.Quote(k.Name()))) || strings.HasSuffix(path, "_test.go") && bytes.Contains(b, []byte(`"`+k.Name()+" ")) ||
				strings.HasSuffix(path, ".txtar") && bytes.Contains(b, []byte(k.Name())) {
				into[k.Name()] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range trail.Kinds() {
		if !written[k.Name()] {
			t.Errorf("%s: nothing writes it", k)
		}
		if !seen[k.Name()] {
			t.Errorf("%s: no test sees it written", k)
		}
	}
}

// identifiers are what kinds are called in Go, by their names.
func identifiers(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		lit, ok := v.Values[0].(*ast.CompositeLit)
		if !ok || len(lit.Elts) == 0 {
			return true
		}
		if s, ok := lit.Elts[0].(*ast.BasicLit); ok && s.Kind == token.STRING {
			name, _ := strconv.Unquote(s.Value)
			out[name] = v.Names[0].Name
		}
		return true
	})
	return out
}
