package workbench

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
)

// A tree for another region than the examples' passes its tests too, and names nobody else's.
func TestInit(t *testing.T) {
	for _, name := range builtin.Examples {
		dir := filepath.Join(t.TempDir(), "new", "policy")
		written, err := Init(dir, name, "nord", "nord.ships.test")
		if err != nil || len(written) < 5 {
			t.Fatalf("%v, %v", written, err)
		}
		for _, file := range written {
			b, err := os.ReadFile(file)
			if err != nil || strings.Contains(string(b), exampleDomain) || strings.Contains(string(b), `"east"`) {
				t.Errorf("%s: %v\n%s", file, err, b)
			}
		}
		tree, err := Open(dir)
		if err != nil || tree.Plan.Region != "nord" || tree.Plan.TrustDomain != "nord.ships.test" {
			t.Fatalf("%+v, %v", tree, err)
		}
		levels, err := tree.Test(t.Context(), policy.TestOptions{})
		if err != nil || len(levels) == 0 {
			t.Fatal(err)
		}
		for _, l := range levels {
			for _, r := range l.Results {
				if !r.Pass {
					t.Errorf("%s: %s:%d %s %s %v", name, r.File, r.Line, r.Error, r.Failed, r.Difference)
				}
			}
		}
		if _, err := Init(dir, name, "nord", "nord.ships.test"); !errors.Is(err, ErrNotEmpty) {
			t.Errorf("over a tree: %v", err)
		}
	}
	if _, err := Init(t.TempDir(), "no-such", "nord", "nord.ships.test"); err == nil || !strings.Contains(err.Error(), "zero-trust") {
		t.Errorf("%v", err)
	}
}
