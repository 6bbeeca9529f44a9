package bundle

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

func TestPack(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("connect.rego", "package a")
	write("teams/web/connect.rego", "package b")
	write("data.json", `{"b": 1e2, "a": [true, "<"]}`)
	write("README.md", "words")
	write("schemas/orders/data.json", "{}")
	write("schemas/README.md", "words")
	write(".git/config", "ignored")
	first, err := Pack(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Unpack(first)
	if err != nil || len(c.Modules) != 2 || c.Modules["teams/web/connect.rego"] != "package b" || len(c.Data) != 2 || len(c.Schemas) != 1 || c.Schemas["schemas/orders/data.json"] != "{}" {
		t.Errorf("%v, %v", c, err)
	}
	if again, err := Pack(dir); err != nil || !bytes.Equal(first, again) {
		t.Error("packing is not deterministic")
	}
	if _, err := Pack(filepath.Join(dir, "nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	for name, fsys := range map[string]fstest.MapFS{
		"data.yaml":        {"data.yaml": {}},
		"teams/data.json":  {"teams/data.json": {Data: []byte("{}")}},
		"not an object":    {"data.json": {Data: []byte("[]")}},
		"null":             {"data.json": {Data: []byte("null")}},
		"two documents":    {"data.json": {Data: []byte("{}{}")}},
		"not JSON":         {"data.json": {Data: []byte("{")}},
		"a key twice":      {"data.json": {Data: []byte(`{"a": {"b": [{"c": 1}, "c"], "d": "d"}, "a": 2}`)}},
		"a key twice deep": {"data.json": {Data: []byte(`{"b": [[], {"a": "a", "\u0061": {}}]}`)}},
		"a named pipe":     {"a.rego": {Mode: fs.ModeNamedPipe}},
		"not UTF-8":        {"a.rego": {Data: []byte("\xff")}},
		"schema elsewhere": {"teams/schemas/a.json": {Data: []byte("{}")}},
		"no schema":        {"schemas/a.yaml": {}},
		"binary.rego/file": {"binary.exe": {}},
	} {
		if _, err := PackFS(fsys); !errors.Is(err, ErrContent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := PackFS(fstest.MapFS{"a.rego": {Data: []byte(strings.Repeat("#", policy.MaxSource+1))}}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("large: %v", err)
	}
}

// Trap: in OPA's bundles a data.json in a folder lands below the names of its folders, where no rule
// looks for it, and nobody is told. Here there is one, and any other file is refused with what to do.
func TestDataHasOnePlace(t *testing.T) {
	for name, want := range map[string]string{"teams/data.json": "move its keys there", "teams/data.yaml": "is neither *.rego nor data.json", "notes.txt": "is neither"} {
		_, err := PackFS(fstest.MapFS{"a.rego": {Data: []byte("package a")}, name: {Data: []byte("{}")}})
		if !errors.Is(err, ErrContent) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	b, err := PackFS(fstest.MapFS{"teams/a.rego": {Data: []byte("package a")}, "data.json": {Data: []byte(`{"teams": {"n": 1}}`)}})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := Unpack(b); err != nil || c.Data["teams"] == nil {
		t.Errorf("%v, %v", c.Data, err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(content(f))
	empty, _ := Content{}.Encode()
	f.Add(empty)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Unpack(b)
		if err != nil {
			return
		}
		if again, err := c.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x re-encodes as %x, %v", b, again, err)
		}
	})
}

// What cannot be packed is told with its file and line, and is an error that has a code.
func TestPackSaysWhere(t *testing.T) {
	for text, want := range map[string]string{
		"{\n\"a\": 1,\n\"b\": 2,\n\"a\": 3}": `data.json:4: the key "a" is there twice in one object` + "\n   4 | \"a\": 3}\n     | ^^^",
		"{\n\"a\": 1,\n}":                    "data.json:3: it is no JSON: invalid character",
	} {
		if _, err := PackFS(fstest.MapFS{"data.json": {Data: []byte(text)}}); !errors.Is(err, ErrContent) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	same := `{"a": {"x": 1}, "b": {"x": 1}, "x": ["x", "x", {"x": "x"}]}`
	if _, err := PackFS(fstest.MapFS{"data.json": {Data: []byte(same)}}); err != nil {
		t.Errorf("the same key in different objects: %v", err)
	}
	dir := t.TempDir()
	if err := os.Symlink("/etc/hosts", filepath.Join(dir, "a.rego")); err != nil {
		t.Fatal(err)
	}
	if _, err := Pack(dir); !errors.Is(err, ErrContent) || !strings.Contains(err.Error(), "a.rego") {
		t.Errorf("a link that leads out: %v", err)
	}
}
