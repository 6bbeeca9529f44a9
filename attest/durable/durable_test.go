package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestReplaceAndCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := Create(path, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, []byte("2"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made twice: %v", err)
	}
	holds(t, path, "1", 0o600)
	if err := Replace(path, []byte("3"), 0o644); err != nil {
		t.Fatal(err)
	}
	holds(t, path, "3", 0o644)
}

// What fails changes nothing and leaves nothing behind.
func TestFailure(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, write := range []func(string, []byte, fs.FileMode) error{Replace, Create} {
		if err := write(path, []byte("1"), 0o600); err == nil {
			t.Error("a folder was written over")
		}
		if err := write(filepath.Join(dir, "nowhere", "f"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("in a folder that is not there: %v", err)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left %v, %v", names, err)
	}
}

func holds(t *testing.T, path, want string, mode fs.FileMode) {
	t.Helper()
	b, err := os.ReadFile(path)
	info, _ := os.Stat(path)
	if err != nil || string(b) != want || info.Mode().Perm() != mode {
		t.Errorf("%s: %q, %v, %v", path, b, info.Mode(), err)
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
		t.Errorf("beside it: %v, %v", names, err)
	}
}

func TestMissing(t *testing.T) {
	if err := Missing(os.Remove(filepath.Join(t.TempDir(), "none"))); err != nil {
		t.Error(err)
	}
	if Missing(nil) != nil || Missing(fs.ErrPermission) == nil {
		t.Error("another error is none, or none is one")
	}
}
