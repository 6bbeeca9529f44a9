package enrolling

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/identity/cache"
)

// A cache sealed to one TPM is of no use beside another, and stops nobody.
func TestSealedCache(t *testing.T) {
	mine, other := softDevice(t), softDevice(t)
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	open := func(seal bool, device *tpm.Device) (*cache.Cache, cache.Contents) {
		t.Helper()
		c, err := openCache(dir, seal, device, log)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Load()
		if err != nil && !errors.Is(err, cache.ErrNone) {
			t.Fatal(err)
		}
		return c, got
	}
	c, _ := open(false, mine)
	if err := c.Save(cache.Contents{Class: "node"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, seal := range []bool{true, true, false} { // what is sealed stays so
		if _, got := open(seal, mine); got.Class != "node" || !cache.IsSealed(dir) {
			t.Errorf("seal %v: %+v, sealed %v", seal, got, cache.IsSealed(dir))
		}
	}
	c, got := open(true, other)
	if got.Class != "" || !cache.IsSealed(dir) {
		t.Errorf("another TPM: %+v, sealed %v", got, cache.IsSealed(dir))
	}
	if err := c.Save(cache.Contents{Class: "again"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, got := open(true, nil); got.Class != "" || cache.IsSealed(dir) {
		t.Errorf("no TPM: %+v, sealed %v", got, cache.IsSealed(dir))
	}
}

// softDevice is an open TPM of its own.
func softDevice(t *testing.T) *tpm.Device {
	t.Helper()
	soft, _ := softTPM(t, t.TempDir())
	d, err := tpm.Open(soft.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}
