package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
)

func openStore(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // closing twice is no error
	return s
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "feed.pem")
	first, err := keyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := keyFile(path)
	if err != nil || !again.Equal(first) {
		t.Errorf("the key changed: %v", err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	for _, damage := range []string{"", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if err := os.WriteFile(path, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := keyFile(path); !errors.Is(err, ErrKeyFile) {
			t.Errorf("%q: got %v, want %v", damage, err, ErrKeyFile)
		}
		if after, _ := os.ReadFile(path); string(after) != damage {
			t.Errorf("%q: a damaged key file was replaced", damage)
		}
	}
}

func TestBootLogBounds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if _, err := bootLog(path); !errors.Is(err, ErrBootLog) {
		t.Errorf("missing: %v", err)
	}
	if err := os.WriteFile(path, make([]byte, maxBootLog+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := bootLog(path); !errors.Is(err, ErrBootLog) {
		t.Errorf("too large: %v", err)
	}
}

// TestStartsAreCounted starts a node on a real software TPM again and again,
// kills it between the two writes of a start, and puts an old disk back.
func TestStartsAreCounted(t *testing.T) {
	dir := t.TempDir()
	ca, err := maker.OpenCA(filepath.Join(dir, "maker"))
	if err != nil {
		t.Fatal(err)
	}
	soft, err := ca.Manufacture(context.Background(), filepath.Join(dir, "tpm"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := soft.Stop(); err != nil {
			t.Error(err)
		}
	}()
	device, err := tpm.Open(soft.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	path := filepath.Join(dir, "state.db")
	start := func() epoch.Disk {
		t.Helper()
		s := openStore(t, path)
		defer s.Close()
		disk, err := countStart(device, s)
		if err != nil {
			t.Fatal(err)
		}
		return disk
	}
	for range 3 {
		if got := start(); got != epoch.Same {
			t.Fatalf("a clean start: %s", got)
		}
	}
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	broken, err := store.OpenFaulty(path, func(int) store.Fault { return store.FaultAfter })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := countStart(device, broken); err == nil {
		t.Fatal("a broken commit went unnoticed")
	}
	if err := broken.Close(); err != nil {
		t.Fatal(err)
	}
	if got := start(); got != epoch.Same {
		t.Errorf("after a crash between the two writes: %s", got)
	}

	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if got := start(); got != epoch.Restored {
			t.Errorf("start %d on a restored disk: %s, want restored until a new epoch begins", i+1, got)
		}
	}
}
