package workbench

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// write lays files out below a new folder: path, text, path, text.
func write(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const opening = `package bailiwick.regional.connect

import rego.v2

# METADATA
# title: Everyone
# labels:
#   owner: shops
allow contains "all" if input.service
`

func TestOpen(t *testing.T) {
	dir := write(t, "tree.json", `{"region": "east", "delegations": {"regional": {"services": ["web*"]}}}`,
		"README.md", "# ours", "regional/connect.rego", opening, "regional/data.json", `{"a": 1}`)
	for _, at := range []string{dir, filepath.Join(dir, "regional")} {
		tree, err := Open(at)
		if err != nil {
			t.Fatal(err)
		}
		if len(tree.Levels) != 2 || !tree.Levels[0].Shipped() || tree.Levels[0].Name != policy.Global {
			t.Errorf("levels of %s: %v", at, tree.Levels)
		}
		l := tree.Written()[0]
		if d := l.Delegation; l.Name != policy.Regional || d.All || d.Kinds[0] != policy.Connect || d.Regions[0] != "east" || d.Services[0] != "web*" {
			t.Errorf("%s: %s may %+v", at, l.Name, d)
		}
		if got := tree.Path("regional/connect.rego"); got != filepath.Join(dir, "regional", "connect.rego") {
			t.Errorf("path %s", got)
		}
		if got := tree.Path("global/connect.rego"); got != "global/connect.rego" {
			t.Errorf("path of a shipped module %s", got)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, tt := range []struct {
		files []string
		is    error
		text  string
	}{
		{nil, ErrTree, "policy init"},
		{[]string{"a.rego", opening, "b.rego", strings.Replace(opening, "regional", "local", 1)}, ErrTree, "mixes levels"},
		{[]string{"tree.json", `{"regoin": "east"}`, "regional/connect.rego", opening}, ErrTree, "regoin"},
		{[]string{"tree.json", `{"region": "east"} {}`, "regional/connect.rego", opening}, ErrTree, "bytes after the end"},
		{[]string{"tree.json", `{"delegations": {"global": {}}}`, "regional/connect.rego", opening}, ErrTree, "tree.json:1: delegations.global"},
		{[]string{"tree.json", `{"delegations": {"local": {"kinds": ["conect"]}}}`, "regional/connect.rego", opening}, ErrTree, `"conect"`},
		{[]string{"regional/connect.rego", opening, "regional/notes.txt", "x"}, bundle.ErrContent, "notes.txt"},
		{[]string{"east/regional/connect.rego", opening, "east/inputs/a.json", "{}", "west/local/a.rego", "", "notes.txt", "x"}, ErrTree, "/west"},
		{[]string{"regional/connect.rego", opening, "regional/data.json", "{\n  \"a\": [1,,2]\n}"}, bundle.ErrContent, "\n   2 |   \"a\": [1,,2]\n     |           ^"},
	} {
		_, err := Open(write(t, tt.files...))
		if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%v: %v, want %v with %q", tt.files, err, tt.is, tt.text)
		}
	}
}

// A module alone is no tree; its tree is named.
func TestOpenOneModule(t *testing.T) {
	dir := write(t, "tree.json", "{}", "regional/lib/a.rego", opening)
	if _, err := Open(filepath.Join(dir, "regional", "lib", "a.rego")); !errors.Is(err, ErrTree) || !strings.HasSuffix(err.Error(), "or the tree: "+dir) {
		t.Error(err)
	}
}

// Many trees are named up to a bound, and a level's folder may have folders of a level's name.
func TestFolderOfTrees(t *testing.T) {
	var files []string
	for i := range maxNamed + 3 {
		files = append(files, fmt.Sprintf("t%02d/regional/connect.rego", i), opening)
	}
	_, err := Open(write(t, files...))
	if !errors.Is(err, ErrTree) || !strings.Contains(err.Error(), "/t00, ") || !strings.HasSuffix(err.Error(), "/t07 and 3 more") {
		t.Error(err)
	}
	if _, err := Open(write(t, "connect.rego", opening, "teams/local/more.rego", "package bailiwick.regional.connect\n")); err != nil {
		t.Error(err)
	}
}

// A misspelt name in the data is shown where it is.
func TestCheckReviewsData(t *testing.T) {
	dir := example(t, "zero-trust").Dir
	path := filepath.Join(dir, "regional", "data.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(b, []byte("callers"), []byte("calers"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tree.Check(t.Context())
	list := policy.Mistakes(err)
	if len(list) != 1 || !errors.Is(err, policy.ErrIdle) || list[0].Line != 4 || list[0].Fix != "did you mean callers?" || tree.Path(list[0].File) != path {
		t.Errorf("got %v", err)
	}
}

// A signed policy is read as the tree that it was made of.
func TestOpenSigned(t *testing.T) {
	dir := write(t, "tree.json", `{"region": "east", "trust_domain": "east.example.org"}`, "regional/connect.rego", opening, "regional/data.json", `{"_for": "people"}`)
	content, err := bundle.Pack(filepath.Join(dir, "regional"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	from, end := time.Now().Unix(), time.Now().Add(time.Hour).Unix()
	delegation, err := bundle.Certify(key, bundle.Delegation{Level: policy.Regional, Scope: "east.example.org", Key: der, Kinds: []policy.Kind{policy.Connect}, Regions: []string{"east"}, NotBefore: from, NotAfter: end})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := bundle.Sign(key, bundle.Record{Level: policy.Regional, Scope: "east.example.org", Version: 7, Mode: bundle.Enforce, StaleMode: bundle.StaleContinue,
		Author: "spiffe://east.example.org/operator", NotBefore: from, NotAfter: end, Delegations: [][]byte{delegation}}, content)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, content []byte) string {
		b, err := bundle.Join(signed, content)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := put("region.policy", content)
	tree, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	folder, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if tree.Plan.Region != "east" || tree.Plan.TrustDomain != "east.example.org" || !tree.Signed || folder.Signed {
		t.Errorf("%+v", tree)
	}
	if got := tree.Path("regional/connect.rego"); got != filepath.Join(path, "connect.rego") {
		t.Errorf("path %s", got)
	}
	checked, err := tree.Check(t.Context())
	if err != nil || len(checked.Levels) != 1 || checked.Levels[0].Level != policy.Regional || !slices.Equal(tree.Written()[0].Delegation.Regions, []string{"east"}) {
		t.Errorf("%+v, %v", checked, err)
	}
	for _, pair := range [][2]*Tree{{folder, tree}, {tree, folder}} {
		d, err := Diff(t.Context(), pair[0], pair[1], folder.Inputs())
		if err != nil || len(d.Rules)+len(d.Data) != 0 {
			t.Errorf("%+v, %v", d, err)
		}
	}
	text := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(text, []byte("a note"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{put("record", nil), text, filepath.Join(t.TempDir(), "nothing"), filepath.Join(text, "below")} {
		if _, err := Open(path); !errors.Is(err, ErrTree) || strings.Count(err.Error(), path) != 1 || !strings.Contains(err.Error(), "signed policy file") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestFormat(t *testing.T) {
	dir := write(t, "regional/connect.rego", strings.Replace(opening, `"all" if`, `"all"   if`, 1), "regional/bad.rego", "package bailiwick.regional.lib\nx := {")
	tree, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	layouts, err := tree.Format()
	if !errors.Is(err, policy.ErrCompile) || !strings.Contains(err.Error(), "bad.rego") {
		t.Errorf("a module that does not parse: %v", err)
	}
	if len(layouts) != 1 || layouts[0].After != opening || !strings.Contains(layouts[0].Diff(), `-allow contains "all"   if`) {
		t.Errorf("%+v", layouts)
	}
}

func FuzzParsePlan(f *testing.F) {
	f.Add([]byte(`{"region": "east", "trust_domain": "east.example.org", "delegations": {"local": {"kinds": ["connect"], "services": ["web*"]}}}`))
	f.Add([]byte(`{"delegations": {"global": {}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePlan("tree.json", b)
		if err != nil {
			if !errors.Is(err, ErrTree) {
				t.Errorf("%q: %v", b, err)
			}
			return
		}
		for name, c := range p.Delegations {
			for _, k := range c.Kinds {
				if !slices.Contains(policy.Kinds, k) || name == policy.Global {
					t.Errorf("%q delegates %s of %s", b, k, name)
				}
			}
		}
	})
}
