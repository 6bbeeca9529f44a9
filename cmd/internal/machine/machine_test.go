package machine

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
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

func TestBootLogBounds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	m := &Machine{bootLog: path}
	if _, err := m.BootLog(); !errors.Is(err, ErrBootLog) {
		t.Errorf("missing: %v", err)
	}
	if err := os.WriteFile(path, make([]byte, maxBootLog+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.BootLog(); !errors.Is(err, ErrBootLog) {
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

// TestNoTPM: without a TPM the mode says whether a node may join by something else.
func TestNoTPM(t *testing.T) {
	dir := t.TempDir()
	st := openStore(t, filepath.Join(dir, "state.db"))
	c := config.Config{State: config.Path(dir)}
	c.TPM.Mode, c.Enrol.TokenFile, c.TPM.Device = "auto", "token", "unix:"+filepath.Join(dir, "nothing")
	if m, err := Open(c, st, slog.New(slog.DiscardHandler)); err != nil || m.Attested() {
		t.Errorf("no TPM, and a token: %v", err)
	}
	c.Enrol.TokenFile = ""
	if _, err := Open(c, st, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrNoTPM) {
		t.Errorf("no TPM, and nothing else: %v", err)
	}
	c.TPM.Mode, c.Enrol.TokenFile = "required", "token"
	if _, err := Open(c, st, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrNoTPM) {
		t.Errorf("no TPM, and one is required: %v", err)
	}
}
