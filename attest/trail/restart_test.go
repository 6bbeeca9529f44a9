package trail

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// Whichever commit of the store breaks, before or after it landed, a restart
// finds every acknowledged leaf once.
func TestBrokenCommits(t *testing.T) {
	for _, fault := range []store.Fault{store.FaultBefore, store.FaultAfter} {
		for at := 1; at <= 9; at++ {
			b := newBench(t)
			_ = b.s.Close()
			s, err := store.OpenFaulty(filepath.Join(b.dir, "store"), func(op int) store.Fault {
				if op == at {
					return fault
				}
				return store.NoFault
			})
			if err != nil {
				t.Fatal(err)
			}
			b.cfg.Store = s
			acked, tried := 0, 0
			if tr, err := Open(b.cfg); err == nil {
				for range 4 {
					tried++
					if err := s.Update(func(tx *store.Tx) error {
						return Append(tx, StateOut, map[string]uint64{"n": uint64(acked)})
					}); err != nil {
						break
					}
					acked++
					_ = tr.Flush(t.Context())
				}
				_ = tr.Close()
			}
			_ = s.Close()
			b.openStore()
			b.close(b.open())
			r := b.verify()
			if got := len(b.numbers()); !r.Good() || got < acked || got > tried {
				t.Errorf("fault %d at commit %d: %d leaves, %d acknowledged of %d; %v %v", fault, at, got, acked, tried, r.Integrity, r.Completeness)
			}
			b.wantNumbers(len(b.numbers()))
		}
	}
}

func TestOtherStore(t *testing.T) {
	b := newBench(t)
	b.close(b.open())
	_ = b.s.Close()
	older, err := os.ReadFile(filepath.Join(b.dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	b.openStore()
	tr := b.open()
	b.put(0, 3)
	b.close(tr)
	_ = b.s.Close()

	// The store alone is put back, and goes on otherwise than the trail did.
	if err := os.WriteFile(filepath.Join(b.dir, "store"), older, 0o600); err != nil {
		t.Fatal(err)
	}
	b.openStore()
	b.put(7, 1)
	if _, err := Open(b.cfg); !errors.Is(err, ErrOtherStore) {
		t.Errorf("restored store: %v", err)
	}
	_ = b.s.Close()

	// The store is made anew.
	if err := os.Remove(filepath.Join(b.dir, "store")); err != nil {
		t.Fatal(err)
	}
	b.openStore()
	if _, err := Open(b.cfg); !errors.Is(err, ErrOtherStore) {
		t.Errorf("new store: %v", err)
	}
	// The next epoch begins with the head of this one.
	b.cfg.Epoch = 2
	b.close(b.open())
	b.wantGood(2)
	g, err := ReadGenesis(b.folder())
	if err != nil {
		t.Fatal(err)
	}
	one, err := os.ReadFile(filepath.Join(b.cfg.Dir, "1", "checkpoint"))
	if err != nil || g.Previous != string(one) {
		t.Errorf("previous head %q, %v", g.Previous, err)
	}
}

func TestDamagedFolder(t *testing.T) {
	b := newBench(t)
	tr := b.open()
	b.put(0, 3)
	b.close(tr)
	b.cfg.Key = newKey(t)
	if _, err := Open(b.cfg); !errors.Is(err, ErrCheckpoint) {
		t.Errorf("another key: %v", err)
	}
	b.cfg.Key = b.key
	tile := filepath.Join(b.folder(), "tile/0/000.p/5")
	raw, err := os.ReadFile(tile)
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range [][]byte{raw[:32], append([]byte{raw[0] ^ 1}, raw[1:]...)} {
		if err := os.WriteFile(tile, broken, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(b.cfg); !errors.Is(err, ErrDamaged) {
			t.Errorf("changed tile: %v", err)
		}
	}
	if err := os.WriteFile(tile, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(b.folder(), ".state"), filepath.Join(b.folder(), "gone")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(b.cfg); !errors.Is(err, ErrDamaged) {
		t.Errorf("storage that forgot its size: %v", err)
	}
	if err := os.Remove(filepath.Join(b.folder(), "checkpoint")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(b.cfg); !errors.Is(err, ErrDamaged) {
		t.Errorf("no head: %v", err)
	}
	b.cfg.Node = spiffeid.RequireFromString("spiffe://east.dev.example/workload/shop")
	if _, err := Open(b.cfg); !errors.Is(err, ErrNode) {
		t.Errorf("a workload's trail: %v", err)
	}
}

func TestSweep(t *testing.T) {
	b := newBench(t)
	tr := b.open()
	b.put(0, 300)
	b.close(tr)
	before := b.files()
	for _, orphan := range []string{"checkpoint123", ".state/treeState99", "tile/entries/001123", "tile/entries/001.p/4688", "tile/entries/001.p/200", "tile/0/001.p/46123456", "tile/1/00017"} {
		if err := os.WriteFile(filepath.Join(b.folder(), orphan), []byte("left"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.close(b.open())
	if after := b.files(); !maps.Equal(before, after) {
		t.Errorf("files before %v\nafter %v", before, after)
	}
	b.wantGood(302)
}
