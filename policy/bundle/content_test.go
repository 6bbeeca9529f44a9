package bundle

import (
	"bytes"
	"errors"
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
	write(".git/config", "ignored")
	first, err := Pack(dir)
	if err != nil {
		t.Fatal(err)
	}
	modules, data, err := Unpack(first)
	if err != nil || len(modules) != 2 || modules["teams/web/connect.rego"] != "package b" || len(data) != 2 {
		t.Errorf("%v %v %v", modules, data, err)
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
		"not UTF-8":        {"a.rego": {Data: []byte("\xff")}},
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

func FuzzUnpack(f *testing.F) {
	f.Add(content(f))
	empty, _ := Encode(nil, nil)
	f.Add(empty)
	f.Fuzz(func(t *testing.T, b []byte) {
		modules, data, err := Unpack(b)
		if err != nil {
			return
		}
		if again, err := Encode(modules, data); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x re-encodes as %x, %v", b, again, err)
		}
	})
}
