package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const marker = "//bailiwick:check"

// check is one marked statement.
type check struct {
	file  string
	line  int // of the statement
	tests []string
	in    string // the function it is in
	other string // what to put in its place; empty: nothing
}

func (c check) String() string { return fmt.Sprintf("%s:%d %s", c.file, c.line, c.in) }

// scan finds every marker below a folder.
func scan(root string) (out []check, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(src, []byte(marker)) {
			return err
		}
		found, err := marked(path, src)
		out = append(out, found...)
		return err
	})
	return out, err
}

// marked finds the markers of one file.
func marked(path string, src []byte) (out []check, err error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	for _, group := range file.Comments {
		for _, c := range group.List {
			tests, ok := strings.CutPrefix(c.Text, marker+" ")
			if !ok {
				continue
			}
			tests, other, _ := strings.Cut(tests, " instead ")
			found := check{file: filepath.ToSlash(path), line: set.Position(c.End()).Line + 1, tests: strings.Fields(tests), other: other}
			for _, d := range file.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && d.Pos() <= c.Pos() && c.End() <= d.End() {
					found.in = fn.Name.Name
				}
			}
			out = append(out, found)
		}
	}
	return out, nil
}

// without returns the file with the check taken out, its lines where they were.
func (c check) without() ([]byte, error) {
	src, err := os.ReadFile(c.file)
	if err != nil {
		return nil, err
	}
	return takenOut(c, src)
}

func takenOut(c check, src []byte) ([]byte, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, c.file, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var from, to ast.Node // to put before and after between
	var before, after string
	tagless := map[*ast.CaseClause]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if n == nil || from != nil {
			return false
		}
		if s, ok := n.(*ast.SwitchStmt); ok && s.Tag == nil {
			for _, clause := range s.Body.List {
				tagless[clause.(*ast.CaseClause)] = true
			}
		}
		if set.Position(n.Pos()).Line != c.line {
			return true
		}
		stmt, ok := n.(ast.Stmt)
		if _, block := n.(*ast.BlockStmt); ok && !block && c.other != "" {
			from, to = stmt, stmt
			return false
		}
		switch s := n.(type) {
		case *ast.IfStmt:
			if from, to, before, after = n, n, "if false { ", " }"; s.Else != nil {
				from, to, before, after = s.Cond, s.Cond, "false && (", ")"
			}
		case *ast.CaseClause:
			if tagless[s] && len(s.List) == 1 {
				from, to, before, after = s.List[0], s.List[0], "false && (", ")"
			}
		case *ast.ExprStmt, *ast.AssignStmt, *ast.IncDecStmt, *ast.DeferStmt, *ast.ForStmt, *ast.RangeStmt:
			if a, ok := n.(*ast.AssignStmt); !ok || a.Tok != token.DEFINE {
				from, to, before, after = n, n, "if false { ", " }"
			}
		}
		return from == nil
	})
	if from == nil {
		return nil, fmt.Errorf("%s: nothing that can be taken out follows the marker: want an if, a case of a switch without a tag, or a statement", c)
	}
	i, j := set.Position(from.Pos()).Offset, set.Position(to.End()).Offset
	if c.other != "" {
		return slices.Concat(src[:i], []byte(c.other), src[j:]), nil
	}
	return slices.Concat(src[:i], []byte(before), src[i:j], []byte(after), src[j:]), nil
}

// attack is a test of an attack: its folder, and the text literals in its file, among
// which are the names of its subtests.
type attack struct {
	folder string
	texts  map[string]bool
}

// attackTests are the tests of folders, by name.
func attackTests(dirs ...string) (map[string]attack, error) {
	out := map[string]attack{}
	for _, dir := range dirs {
		if err := testsIn(dir, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func testsIn(dir string, out map[string]attack) error {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return err
	}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		texts := map[string]bool{}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				texts[strings.ReplaceAll(strings.Trim(lit.Value, "\"`"), " ", "_")] = true
			}
			return true
		})
		for _, d := range file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") && fn.Name.Name != "TestMain" {
				if before, twice := out[fn.Name.Name]; twice {
					return fmt.Errorf("%s is in %s and in %s", fn.Name.Name, before.folder, dir)
				}
				out[fn.Name.Name] = attack{dir, texts}
			}
		}
	}
	return nil
}

// inStep says what is wrong between markers and tests.
func inStep(checks []check, tests map[string]attack) (wrong []string) {
	named := map[string]bool{}
	for _, c := range checks {
		if len(c.tests) == 0 {
			wrong = append(wrong, fmt.Sprintf("%s: the marker names no test", c))
		}
		for _, name := range c.tests {
			test, sub, _ := strings.Cut(name, "/")
			named[test] = true
			switch a, ok := tests[test]; {
			case !ok:
				wrong = append(wrong, fmt.Sprintf("%s: there is no %s in %s", c, test, strings.Join(attacks, " or ")))
			case sub != "" && !a.texts[sub]:
				wrong = append(wrong, fmt.Sprintf("%s: %s has no subtest %s", c, test, sub))
			}
		}
	}
	for _, test := range slices.Sorted(maps.Keys(tests)) {
		if !named[test] {
			wrong = append(wrong, fmt.Sprintf("%s: no check is marked with %s", tests[test].folder, test))
		}
	}
	return wrong
}
