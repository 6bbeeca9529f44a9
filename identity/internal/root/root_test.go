package root

import (
	"crypto/ecdsa"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newRoot(t *testing.T) *Root {
	t.Helper()
	r, err := New("test", &url.URL{Scheme: "spiffe", Host: "east.dev.example"}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSaveLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.pem")
	if _, err := Load(path); !errors.Is(err, ErrMissing) {
		t.Fatalf("got %v, want ErrMissing", err)
	}
	r := newRoot(t)
	if err := r.Save(path); err != nil {
		t.Fatal(err)
	}
	if err := newRoot(t).Save(path); !errors.Is(err, ErrExists) {
		t.Fatalf("got %v, want ErrExists", err)
	}
	back, err := Load(path)
	if err != nil || !back.cert.Equal(r.cert) || !back.key.(*ecdsa.PrivateKey).Equal(r.key) {
		t.Fatal(back, err)
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); !errors.Is(err, ErrExposed) {
		t.Fatalf("got %v, want ErrExposed", err)
	}
}

func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, p := range []string{a, b} {
		if err := newRoot(t).Save(p); err != nil {
			t.Fatal(err)
		}
	}
	whole, _ := os.ReadFile(a)
	other, _ := os.ReadFile(b)
	key, _, _ := strings.Cut(string(whole), "-----BEGIN CERT")
	_, cert, _ := strings.Cut(string(other), "-----BEGIN CERT")
	for name, text := range map[string]string{
		"empty": "", "half": string(whole[:len(whole)/2]), "twice": string(whole) + string(whole),
		"key of another": key + "-----BEGIN CERT" + cert, "huge": strings.Repeat("x", maxFile+1),
	} {
		path := filepath.Join(dir, "damaged")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v, want ErrDamaged", name, err)
		}
	}
}
