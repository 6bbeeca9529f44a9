package authority

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

func TestEpochsAreGivenOnce(t *testing.T) {
	st := openStore(t, filepath.Join(t.TempDir(), "store.db"))
	e := NewEpochs(st)
	ask := func(r EpochRequest) Grant {
		t.Helper()
		g, err := e.Allocate(t0, r)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	n1 := EpochRequest{Node: self, FeedKey: []byte("k1"), Attested: true}
	first := ask(n1)
	if first != (Grant{1, 2, ClassNode}) || ask(n1) != first {
		t.Errorf("first %+v, then %+v", first, ask(n1))
	}
	used := n1
	used.Used = 1
	if ask(used) != first {
		t.Errorf("in use: %+v", ask(used))
	}
	used.Used = 2
	if got := ask(used); got.Epoch != 3 {
		t.Errorf("spare spent: %+v", got)
	}
	other := n1
	other.FeedKey, other.Class = []byte("k2"), ClassGateway
	if got := ask(other); got != (Grant{5, 6, ClassGateway}) {
		t.Errorf("another key: %+v", got)
	}
	floor := n1
	floor.FeedKey, floor.Floor = []byte("k3"), 40
	if got := ask(floor); got.Epoch != 41 {
		t.Errorf("above a floor: %+v", got)
	}
	for _, class := range []string{"", ClassGateway, ClassUnattested} {
		plain := EpochRequest{Node: spiffeid.RequireFromPath(td, "/node/x"), FeedKey: []byte("k"), Class: class}
		if got := ask(plain); got != (Grant{1, 2, ClassUnattested}) {
			t.Errorf("unattested, class %q: %+v", class, got)
		}
	}
	for name, r := range map[string]EpochRequest{
		"no node":   {FeedKey: []byte("k")},
		"no key":    {Node: self},
		"own class": {Node: self, FeedKey: []byte("k"), Class: "admin"},
		"far floor": {Node: self, FeedKey: []byte("k9"), Floor: ^uint64(0)},
	} {
		if _, err := e.Allocate(t0, r); !errors.Is(err, ErrEpochRequest) {
			t.Errorf("%s: %v, want %v", name, err, ErrEpochRequest)
		}
	}
	leaves, err := st.Outbox(0, 100)
	if err != nil || len(leaves) != 5 || leaves[0].Kind != "authority.epoch" {
		t.Errorf("%d leaves, %v", len(leaves), err)
	}
}

// TestOldDiskGetsFreshEpochs puts the same old disk back again and again. It knows
// of nothing that was given out since; only the TPM's counter tells.
func TestOldDiskGetsFreshEpochs(t *testing.T) {
	e := NewEpochs(openStore(t, filepath.Join(t.TempDir(), "store.db")))
	old := EpochRequest{Node: self, FeedKey: []byte("k1"), Attested: true, Floor: 1}
	spent := map[uint64]bool{}
	for i := range 5 {
		g, err := e.Allocate(t0, old)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := e.Allocate(t0, old); err != nil || again != g {
			t.Errorf("the counter is the same, the epochs are not: %+v, %+v, %v", g, again, err)
		}
		if spent[g.Epoch] || spent[g.Spare] {
			t.Fatalf("restore %d was given %+v, of which one was spent before", i, g)
		}
		spent[g.Spare] = true // as a restored disk does, with
		old.Floor++
	}
}

// A node that says again and again that its spare is spent, or comes with another key,
// gets new epochs only so often, also from an authority that was started anew.
func TestNewEpochsAreGivenSlowly(t *testing.T) {
	type step struct {
		after time.Duration // since the step before
		times int
		wait  time.Duration // until more are given, when the last of the times is refused
	}
	for name, c := range map[string]struct {
		steps   []step
		release bool
	}{
		"the first and four":      {steps: []step{{0, 5, 0}}},
		"a fifth":                 {steps: []step{{0, 6, time.Hour}}},
		"almost an hour later":    {steps: []step{{0, 5, 0}, {time.Hour - time.Second, 1, time.Second}}},
		"an hour later":           {steps: []step{{0, 5, 0}, {time.Hour, 4, 0}}},
		"over time":               {steps: []step{{0, 3, 0}, {30 * time.Minute, 2, 0}, {29 * time.Minute, 1, time.Minute}}},
		"twelve a day":            {steps: []step{{0, 5, 0}, {time.Hour, 4, 0}, {time.Hour, 4, 0}, {time.Hour, 1, 21 * time.Hour}}},
		"the day after":           {steps: []step{{0, 5, 0}, {time.Hour, 4, 0}, {time.Hour, 4, 0}, {22 * time.Hour, 4, 0}}},
		"a clock that is behind":  {steps: []step{{0, 5, 0}, {-48 * time.Hour, 4, 0}}},
		"a release starts afresh": {steps: []step{{0, 5, 0}, {0, 4, 0}}, release: true},
	} {
		for _, newKey := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, new key %v", name, newKey), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "store.db")
				now, r, asked := t0, EpochRequest{Node: self, FeedKey: []byte("k"), Attested: true}, 0
				highest := uint64(0)
				for i, s := range c.steps {
					st, err := store.Open(path)
					if err != nil {
						t.Fatal(err)
					}
					if c.release && i > 0 {
						if err := st.Update(func(tx *store.Tx) error { _, err := retire(tx, self, now); return err }); err != nil {
							t.Fatal(err)
						}
					}
					now = now.Add(s.after)
					for n := range s.times {
						asked++
						if r.Used = highest; newKey {
							r.Used, r.FeedKey = 0, fmt.Append(nil, asked)
						}
						g, err := NewEpochs(st).Allocate(now, r)
						if n == s.times-1 && s.wait > 0 {
							if !errors.Is(err, ErrEpochRate) || !strings.Contains(err.Error(), now.Add(s.wait).Format(time.RFC3339)) {
								t.Errorf("asked %d times: %+v, %v, want a wait of %s", asked, g, err, s.wait)
							}
						} else if err != nil || g.Epoch <= highest {
							t.Fatalf("asked %d times: %+v after %d, %v", asked, g, highest, err)
						}
						highest = max(highest, g.Spare)
					}
					r.Used = 0 // what it has it may always have again
					if g, err := NewEpochs(st).Allocate(now, r); !newKey && (err != nil || g.Spare != highest) {
						t.Errorf("its own: %+v, %v", g, err)
					}
					if g, err := NewEpochs(st).Allocate(now, EpochRequest{Node: spiffeid.RequireFromPath(td, "/node/other"), FeedKey: []byte("k")}); err != nil || g.Epoch != 1 {
						t.Errorf("another node pays for it: %+v, %v", g, err)
					}
					if err := st.Close(); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

// TestEpochsSurviveCrashes breaks every commit twice, once lost and once landed
// but reported lost, restarts, and asks again.
func TestEpochsSurviveCrashes(t *testing.T) {
	for _, fault := range []store.Fault{store.FaultBefore, store.FaultAfter} {
		for broken := 1; broken <= 4; broken++ {
			t.Run(fmt.Sprintf("fault %d at commit %d", fault, broken), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "store.db")
				st, err := store.OpenFaulty(path, func(op int) store.Fault {
					if op == broken {
						return fault
					}
					return store.NoFault
				})
				if err != nil {
					t.Fatal(err)
				}
				ask := func(i int) (Grant, error) {
					return NewEpochs(st).Allocate(t0, EpochRequest{Node: self, FeedKey: fmt.Append(nil, i), Attested: true})
				}
				given := map[int]Grant{}
				failed := -1
				for i := range 4 {
					g, err := ask(i)
					if err != nil {
						if g != (Grant{}) {
							t.Fatalf("failed, and gave %+v", g)
						}
						failed = i
						break
					}
					given[i] = g
				}
				if failed != broken-1 {
					t.Fatalf("request %d failed, want %d", failed, broken-1)
				}
				st.Close()
				st = openStore(t, path)
				owner := map[uint64]int{}
				for i := range 5 {
					g, err := ask(i)
					if err != nil {
						t.Fatal(err)
					}
					if before, ok := given[i]; ok && before != g {
						t.Errorf("key %d got %+v, now %+v", i, before, g)
					}
					for _, n := range []uint64{g.Epoch, g.Spare} {
						if k, taken := owner[n]; taken {
							t.Errorf("epoch %d was given to keys %d and %d", n, k, i)
						}
						owner[n] = i
					}
				}
			})
		}
	}
}
