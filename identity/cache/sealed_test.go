package cache

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// chip seals by turning bits round; another chip turns others.
type chip struct {
	mask   byte
	broken error
}

func (c chip) Seal(secret []byte) ([]byte, error) {
	if c.broken != nil {
		return nil, c.broken
	}
	out := []byte{c.mask}
	for _, b := range secret {
		out = append(out, b^c.mask)
	}
	return out, nil
}

func (c chip) Unseal(sealed []byte) ([]byte, error) {
	if c.broken != nil || len(sealed) == 0 || sealed[0] != c.mask {
		return nil, errors.New("not of this chip")
	}
	out, err := c.Seal(sealed[1:])
	return out[1:], err
}

func TestSealedKey(t *testing.T) {
	dir, mine := t.TempDir(), chip{mask: 0x55}
	plain, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := Contents{Class: "node"}
	if err := plain.Save(want, time.Now()); err != nil {
		t.Fatal(err)
	}
	// A TPM that does not seal changes nothing.
	if _, err := OpenSealed(dir, chip{broken: errors.New("broken")}); err == nil || IsSealed(dir) {
		t.Fatalf("sealed by a broken chip: %v", err)
	}
	for range 2 { // seals what is there, then opens it
		c, err := OpenSealed(dir, mine)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Load(); err != nil || got.Class != want.Class {
			t.Fatalf("%+v, %v", got, err)
		}
		if c.Derive("x") != plain.Derive("x") {
			t.Error("the key is another")
		}
		if _, err := os.Stat(filepath.Join(dir, "cache.key")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the plain key is still there: %v", err)
		}
	}
	if b, err := os.ReadFile(sealedPath(dir)); err != nil || bytes.Contains(b, plain.master[:]) {
		t.Errorf("the key shows: %v", err)
	}
	// Without the seal nobody opens it, and nothing is overwritten.
	if _, err := Open(dir); !errors.Is(err, ErrKeyMissing) {
		t.Errorf("opened without the chip: %v", err)
	}
	if _, err := OpenSealed(dir, chip{mask: 1}); !errors.Is(err, ErrUnsealed) {
		t.Fatalf("another chip: %v", err)
	}
	aside, err := SetAsideSealed(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(aside); err != nil {
		t.Error(err)
	}
	c, err := OpenSealed(dir, chip{mask: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Load(); !errors.Is(err, ErrNone) {
		t.Errorf("a new cache holds something: %v", err)
	}
}

// A crash between writing the sealed key and removing the plain one loses nothing.
func TestSealedKeyBesidePlain(t *testing.T) {
	dir, mine := t.TempDir(), chip{mask: 9}
	plain, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := mine.Seal(plain.master[:])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sealedPath(dir), sealed, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := OpenSealed(dir, mine)
	if err != nil || c.master != plain.master {
		t.Fatalf("another key, or %v", err)
	}
	for _, bad := range [][]byte{nil, {9}, append([]byte{9}, make([]byte, 5)...), make([]byte, maxSealed+1)} {
		if err := os.WriteFile(sealedPath(dir), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenSealed(dir, mine); !errors.Is(err, ErrUnsealed) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}
