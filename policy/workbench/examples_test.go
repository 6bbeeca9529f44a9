package workbench

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
)

// example opens a shipped example in a folder of its own.
func example(t *testing.T, name string) *Tree {
	t.Helper()
	files, err := builtin.Example(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, files); err != nil {
		t.Fatal(err)
	}
	tree, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// Every example passes its own tests, which reach every line of it, and is laid out.
func TestExamples(t *testing.T) {
	for _, name := range builtin.Examples {
		t.Run(name, func(t *testing.T) {
			tree := example(t, name)
			layouts, err := tree.Format()
			for _, l := range layouts {
				t.Errorf("not laid out:\n%s", l.Diff())
			}
			if err != nil {
				t.Error(err)
			}
			levels, err := tree.Test(t.Context(), policy.TestOptions{Coverage: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range levels {
				if len(l.Results) < 5 {
					t.Errorf("%d tests", len(l.Results))
				}
				for _, r := range l.Results {
					if !r.Pass {
						t.Errorf("%s:%d %s: %s %s %v", r.File, r.Line, r.Name, r.Error, r.Failed, r.Difference)
					}
				}
				for _, m := range l.Modules {
					if len(m.Missed) > 0 {
						t.Errorf("%s: lines %v are reached by no test", m.File, m.Missed)
					}
				}
			}
		})
	}
	entries, err := os.ReadDir("../builtin/examples")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(builtin.Examples, e.Name()) {
			t.Errorf("the example %s is not listed", e.Name())
		}
	}
}

// What init gives is what ships, with data in it.
func TestZeroTrustIsTheShippedPolicy(t *testing.T) {
	tree := example(t, "zero-trust")
	shipped, err := builtin.Files(policy.Regional)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"connect.rego", "connect_test.rego", "request.rego", "request_test.rego"} {
		want, err := fs.ReadFile(shipped, file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(tree.Dir, "regional", file))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s differs from the one that ships: %v", file, err)
		}
	}
	want := builtin.Regional(tree.Plan.Region).Delegation
	for _, l := range tree.Written() {
		if !reflect.DeepEqual(l.Delegation, want) {
			t.Errorf("%s is delegated %+v, as shipped %+v", l.Name, l.Delegation, want)
		}
	}
}
