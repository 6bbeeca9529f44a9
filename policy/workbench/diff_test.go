package workbench

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
)

// edited is an example with changes to the text of its files: path, old, new.
func edited(t *testing.T, name string, edits ...string) *Tree {
	t.Helper()
	tree := example(t, name)
	for i := 0; i < len(edits); i += 3 {
		p := filepath.Join(tree.Dir, edits[i])
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		after := strings.Replace(string(b), edits[i+1], edits[i+2], 1)
		if after == string(b) && edits[i+1] != edits[i+2] {
			t.Fatalf("%s has no %q", p, edits[i+1])
		}
		if err := os.WriteFile(p, []byte(after), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := Open(tree.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

const module = "regional/connect.rego"

func TestDiff(t *testing.T) {
	for _, tt := range []struct {
		name  string
		edits []string
		want  string // id:how of the rules
		data  string
	}{
		{"nothing", nil, "", ""},
		{"layout and place only", []string{module, "granted if input", "# moved\n\ngranted if   input"}, "", ""},
		{"condition", []string{module, "\tinput.service\n", "\tinput.service.name\n"}, "caller-not-granted:changed", ""},
		{"helper", []string{module, "granted if input.source.spiffe_id in", "granted if input.source.spiffe_id == \"x\"\n\ngranted if input.source.spiffe_id in"},
			"caller-granted:indirect caller-not-granted:indirect", ""},
		{"title", []string{module, "title: The service lists this caller", "title: It is listed"}, "caller-granted:renamed", ""},
		{"id", []string{module, `"caller-granted"`, `"listed"`}, "caller-granted:removed listed:added", ""},
		{"local names", []string{module, "deny contains \"caller-not-granted\" if {\n", "deny contains \"caller-not-granted\" if {\n\tsome x in [1]\n\tx == 1\n"}, "caller-not-granted:changed", ""},
		{"data", []string{"regional/data.json", "west", "south"}, "", "services:changed"},
		{"more data", []string{"regional/data.json", `"services"`, `"more": 1, "services"`}, "", "more:added"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := example(t, "zero-trust"), edited(t, "zero-trust", tt.edits...)
			d, err := Diff(t.Context(), a, b, b.Inputs())
			if err != nil {
				t.Fatal(err)
			}
			var rules, data []string
			for _, c := range d.Rules {
				rules = append(rules, c.ID+":"+c.How)
			}
			for _, c := range d.Data {
				data = append(data, c.Key+":"+c.How)
			}
			if got := strings.Join(rules, " "); got != tt.want {
				t.Errorf("rules %q, want %q", got, tt.want)
			}
			if got := strings.Join(data, " "); got != tt.data {
				t.Errorf("data %q, want %q", got, tt.data)
			}
			if d.Asked != 2 {
				t.Errorf("%d asked", d.Asked)
			}
		})
	}
}

// What recorded questions get for an answer, by rules.
func TestDiffOfTraffic(t *testing.T) {
	a := example(t, "zero-trust")
	b := edited(t, "zero-trust", "regional/data.json", `"spiffe://east.example.org/workload/shop",`, "")
	d, err := Diff(t.Context(), a, b, b.Inputs())
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Groups) != 1 || d.Same != 1 {
		t.Fatalf("%+v", d)
	}
	if g := d.Groups[0]; g.Class != "denies" || g.Count != 1 || g.Enforced.Rule != "caller-granted" || g.Candidate.Rule != "caller-not-granted" ||
		!strings.HasSuffix(g.Examples[0].Decision, "shop.json") {
		t.Errorf("%+v", g)
	}
	back, err := Diff(t.Context(), b, a, b.Inputs())
	if err != nil || back.Groups[0].Class != "allows" {
		t.Errorf("%+v, %v", back, err)
	}
}

// A global level that an author begins to write is compared with the one that ships.
func TestDiffOfTheShippedLevel(t *testing.T) {
	a, b := example(t, "zero-trust"), example(t, "zero-trust")
	shipped, err := builtin.Files(policy.Global)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(b.Dir, "global"), shipped); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(b.Dir, "global", "connect.rego")
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(source), `if not input.source.region`, `if not input.source.zone`, 1)
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err = Open(b.Dir); err != nil {
		t.Fatal(err)
	}
	d, err := Diff(t.Context(), a, b, b.Inputs())
	if err != nil || len(d.Rules) != 1 || d.Rules[0].ID != "source-region-unknown" || d.Rules[0].How != Changed || d.Rules[0].After.File != file {
		t.Errorf("%+v, %v", d.Rules, err)
	}
}
