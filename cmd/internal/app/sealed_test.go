package app

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/identity/cache"
)

// A cache sealed to one TPM is of no use beside another, and stops nobody.
func TestSealedCache(t *testing.T) {
	mine, other := newBench(t), newBench(t)
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	open := func(seal bool, m *machine) (*cache.Cache, cache.Contents) {
		t.Helper()
		c, err := openCache(dir, seal, m, log)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Load()
		if err != nil && !errors.Is(err, cache.ErrNone) {
			t.Fatal(err)
		}
		return c, got
	}
	here, there := &machine{device: mine.device}, &machine{device: other.device}
	c, _ := open(false, here)
	if err := c.Save(cache.Contents{Class: "node"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, seal := range []bool{true, true, false} { // what is sealed stays so
		if _, got := open(seal, here); got.Class != "node" || !cache.IsSealed(dir) {
			t.Errorf("seal %v: %+v, sealed %v", seal, got, cache.IsSealed(dir))
		}
	}
	c, got := open(true, there)
	if got.Class != "" || !cache.IsSealed(dir) {
		t.Errorf("another TPM: %+v, sealed %v", got, cache.IsSealed(dir))
	}
	if err := c.Save(cache.Contents{Class: "again"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, got := open(true, &machine{}); got.Class != "" || cache.IsSealed(dir) {
		t.Errorf("no TPM: %+v, sealed %v", got, cache.IsSealed(dir))
	}
}
