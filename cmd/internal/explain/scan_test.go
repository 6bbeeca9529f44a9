package explain

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/bailiwick-mesh/bailiwick/"

// root is the module's folder.
const root = "../../.."

// sentinels lists every exported package-level error of the product made by
// errors.New, as "<package path>.<name>".
func sentinels(t *testing.T) []string {
	var out []string
	for _, folder := range []string{"attest", "cmd", "gossip", "identity", "mesh", "policy"} {
		err := filepath.WalkDir(filepath.Join(root, folder), func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
				return err
			}
			rel, err := filepath.Rel(root, filepath.Dir(p))
			if err != nil {
				return err
			}
			for _, name := range sentinelsOf(parse(t, p)) {
				out = append(out, filepath.ToSlash(rel)+"."+name)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(out)
	return out
}

func sentinelsOf(f *ast.File) (names []string) {
	for _, decl := range f.Decls {
		g, ok := decl.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR {
			continue
		}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			for i, value := range v.Values {
				if v.Names[i].IsExported() && strings.HasPrefix(v.Names[i].Name, "Err") && isErrorsNew(value) {
					names = append(names, v.Names[i].Name)
				}
			}
		}
	}
	return names
}

func isErrorsNew(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && pkg.Name == "errors" && sel.Sel.Name == "New"
}

// codedNames reads the table's source: code to "<package path>.<name>". The
// values alone do not know their names.
func codedNames(t *testing.T) map[string]string {
	out := map[string]string{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f := parse(t, file)
		imports := map[string]string{}
		for _, spec := range f.Imports {
			target, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			name := path.Base(target)
			if spec.Name != nil {
				name = spec.Name.Name
			}
			imports[name] = strings.TrimPrefix(target, module)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			var code, name string
			for _, elt := range lit.Elts {
				kv, ok := elt.(*ast.KeyValueExpr)
				if !ok {
					return true
				}
				switch kv.Key.(*ast.Ident).Name {
				case "Code":
					code, _ = strconv.Unquote(kv.Value.(*ast.BasicLit).Value)
				case "Is":
					name = qualified(imports, kv.Value)
				}
			}
			if code != "" {
				out[code] = name
			}
			return true
		})
	}
	if len(out) != len(table) {
		t.Errorf("%d different codes in the source, %d entries in the table", len(out), len(table))
	}
	return out
}

func qualified(imports map[string]string, e ast.Expr) string {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		return imports[e.X.(*ast.Ident).Name] + "." + e.Sel.Name
	case *ast.Ident:
		return "cmd/internal/explain." + e.Name
	}
	return ""
}

// areaOf returns the areas of a qualified sentinel: those of the longest path in
// areas that holds its package.
func areaOf(name string) string {
	pkg := name[:strings.LastIndexByte(name, '.')]
	best := ""
	for p := range maps.Keys(areas) {
		if (pkg == p || strings.HasPrefix(pkg, p+"/")) && len(p) > len(best) {
			best = p
		}
	}
	return areas[best]
}

func parse(t *testing.T, file string) *ast.File {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
