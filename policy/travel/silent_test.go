package travel

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

var errDisk = errors.New("the disk fails")

// signEast makes a record of a region, by the global key.
func signEast(t *testing.T, content []byte) []byte {
	t.Helper()
	now := time.Now()
	pub, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	d, err := bundle.Certify(key, bundle.Delegation{Level: east.Level, Scope: east.Scope, Key: pub, NotBefore: now.Unix(), NotAfter: now.Add(time.Hour).Unix(),
		Kinds: []policy.Kind{policy.Connect}, Regions: []string{"east"}, Services: []string{"web"}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Sign(key, bundle.Record{
		Level: east.Level, Scope: east.Scope, Version: 1, Mode: bundle.Enforce, StaleMode: bundle.StaleContinue,
		NotBefore: now.Unix(), NotAfter: now.Add(time.Hour).Unix(), Author: "spiffe://east.dev.example/operator", Delegations: [][]byte{d},
	}, content)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// running runs a desk until the end of the test, and returns how long it took until so many were
// taken, or the limit.
func (n *node) running(t *testing.T) (until func(taken int, limit time.Duration) time.Duration) {
	begun := time.Now()
	go func() { _ = n.Run(t.Context()) }()
	return func(taken int, limit time.Duration) time.Duration {
		for {
			n.mu.Lock()
			is := len(n.taken)
			n.mu.Unlock()
			if is >= taken || time.Since(begun) >= limit {
				return time.Since(begun)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// Peers that do not answer cost little time, once; one that is slow is heard out when nobody else
// is left.
func TestSilentPeers(t *testing.T) {
	c := []byte(nil)
	for _, tt := range []struct {
		name   string
		silent int
		takes  time.Duration // of the one that answers
		within time.Duration
	}{
		{"one answers", 5, 0, 16 * time.Second},
		{"the only one is slow", 0, 8 * time.Second, 25 * time.Second},
		{"one is slow", 1, 8 * time.Second, 70 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, openStore(t, filepath.Join(t.TempDir(), "db")))
				c = content(t, "a")
				for i := range tt.silent {
					n.peer(spiffeid.RequireFromString(fmt.Sprintf("spiffe://east.dev.example/node/a%d", i)), nil)
				}
				n.peer(n2, func(q []byte) ([]byte, error) {
					time.Sleep(tt.takes)
					return has(c)(q)
				})
				if err := n.Offer(sign(t, 1, c, time.Now()), time.Now()); err != nil {
					t.Fatal(err)
				}
				if took := n.running(t)(1, time.Hour); took > tt.within {
					t.Errorf("%d bytes of content took %s, want %s; asked %v", len(c), took, tt.within, n.asked)
				}
			})
		})
	}
}

// Who answers over a link that is known to be thin has as long as that takes, and no longer.
func TestThinLinksTakeLonger(t *testing.T) {
	for _, tt := range []struct {
		budget uint64
		takes  time.Duration
		comes  bool
	}{
		{0, 40 * time.Second, false},
		{2 << 10, 40 * time.Second, true}, // a chunk is 64 KiB
		{1 << 20, 40 * time.Second, false},
	} {
		t.Run(fmt.Sprint(tt.budget), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, openStore(t, filepath.Join(t.TempDir(), "db")))
				n.cfg.Budget = func(spiffeid.ID) uint64 { return tt.budget }
				c := content(t, "a")
				n.peer(n2, func(q []byte) ([]byte, error) {
					time.Sleep(tt.takes)
					return has(c)(q)
				})
				if err := n.Offer(sign(t, 1, c, time.Now()), time.Now()); err != nil {
					t.Fatal(err)
				}
				if took := n.running(t)(1, 10*time.Minute); took < 10*time.Minute != tt.comes {
					t.Errorf("it came after %s", took)
				}
			})
		})
	}
}

// A record that is stuck keeps neither a newer one of its slot waiting, nor another level.
func TestStuckAlone(t *testing.T) {
	for _, tt := range []struct {
		name  string
		stuck func(t *testing.T, content []byte) []byte
	}{
		{"an older version", func(t *testing.T, c []byte) []byte { return sign(t, 1, c, time.Now()) }},
		{"another level", signEast},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, openStore(t, filepath.Join(t.TempDir(), "db")))
				old, c := content(t, "old"), content(t, "new")
				n.peer(n1, nil)
				if err := n.Offer(tt.stuck(t, old), time.Now()); err != nil {
					t.Fatal(err)
				}
				until := n.running(t)
				until(1, time.Second)
				n.peer(n2, has(c))
				if err := n.Offer(sign(t, 2, c, time.Now()), time.Now()); err != nil {
					t.Fatal(err)
				}
				if took := until(1, time.Hour); took > 5*time.Second || !slices.Equal(n.taken, []uint64{2}) {
					t.Errorf("took %v after %s", n.taken, took)
				}
			})
		})
	}
}

// A store that fails is no refusal of the record, and does not mean that nobody has its content.
func TestTheStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails := false
		st, err := store.OpenFaulty(filepath.Join(t.TempDir(), "db"), func(int) store.Fault {
			if fails {
				return store.FaultBefore
			}
			return store.NoFault
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		n := newNode(t, st)
		c := content(t, "a")
		raw := sign(t, 1, c, time.Now())
		judge := n.cfg.Judge
		n.cfg.Judge = func(*bundle.Verified) (bool, error) { return false, errDisk }
		if err := n.Offer(raw, time.Now()); !errors.Is(err, errDisk) || len(n.Refused()) != 0 {
			t.Errorf("offered: %v, refused %v", err, n.Refused())
		}
		n.cfg.Judge = judge
		if err := n.Offer(raw, time.Now()); err != nil || len(n.Waiting()) != 1 {
			t.Fatalf("offered again: %v, waits for %v", err, n.Waiting())
		}

		if err := n.parts.put(bundle.ChunksDigest(bundle.ChunkList(c)), 0, []byte("damaged")); err != nil {
			t.Fatal(err)
		}
		fails = true
		if err := n.run(t, time.Second); err == nil || errors.Is(err, ErrNoContent) {
			t.Errorf("a damaged list that cannot be dropped: %v", err)
		}
	})
}

// For one content too many, the one that was asked for longest ago goes, and no other.
func TestTheOldestMakesRoom(t *testing.T) {
	n := newNode(t, openStore(t, filepath.Join(t.TempDir(), "db")))
	ask := func(digest byte) {
		t.Helper()
		if err := n.makeRoom([32]byte{digest}); err != nil {
			t.Fatal(err)
		}
		if err := n.parts.put([32]byte{digest}, 0, []byte("list")); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.parts.put([32]byte{7}, 0, []byte("of before the start")); err != nil {
		t.Fatal(err)
	}
	for _, digest := range []byte{9, 2, 5, 9, 6, 1} {
		ask(digest)
	}
	left, err := n.parts.digests()
	want := [][32]byte{{1}, {5}, {6}, {9}}
	if err != nil || !slices.EqualFunc(left, want, func(a, b [32]byte) bool { return bytes.Equal(a[:], b[:]) }) {
		t.Errorf("left are %x, %v", left, err)
	}
}
