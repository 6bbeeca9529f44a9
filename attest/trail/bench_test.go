package trail

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

var testNode = spiffeid.RequireFromString("spiffe://east.dev.example/node/east-n1")

// switchKey is a trail key that can be told to fail.
type switchKey struct {
	*ecdsa.PrivateKey
	mu  sync.Mutex
	err error
}

func newKey(t testing.TB) *switchKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &switchKey{PrivateKey: k}
}

func (k *switchKey) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

func (k *switchKey) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return nil, k.err
	}
	return k.PrivateKey.Sign(r, digest, o)
}

// bench is one node's state folder.
type bench struct {
	testing.TB
	dir string
	key *switchKey
	s   *store.Store
	cfg Config
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{TB: t, dir: t.TempDir(), key: newKey(t)}
	b.cfg = Config{Dir: filepath.Join(b.dir, "trail"), Node: testNode, Epoch: 1, Key: b.key, Every: time.Hour}
	b.openStore()
	return b
}

func (b *bench) openStore() {
	b.Helper()
	s, err := store.Open(filepath.Join(b.dir, "store"))
	if err != nil {
		b.Fatal(err)
	}
	b.s, b.cfg.Store = s, s
	b.Cleanup(func() { _ = s.Close() })
}

func (b *bench) open() *Trail {
	b.Helper()
	t, err := Open(b.cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = t.Close() })
	return t
}

func (b *bench) put(from, n int) {
	b.Helper()
	err := b.s.Update(func(tx *store.Tx) error {
		for i := range n {
			if err := Append(tx, StateOut, map[string]uint64{"n": uint64(from + i)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) flush(t *Trail) {
	b.Helper()
	if err := t.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// close ends the writer as a stop in good order does.
func (b *bench) close(t *Trail) {
	b.Helper()
	if err := t.Close(); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) folder() string { return EpochDir(b.cfg.Dir, b.cfg.Epoch) }

func (b *bench) verify() Report {
	b.Helper()
	r, err := Verify(context.Background(), b.folder(), Options{Node: testNode})
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func (b *bench) wantGood(size uint64) Report {
	b.Helper()
	r := b.verify()
	if !r.Good() || r.Size != size {
		b.Fatalf("size %d, integrity %v, completeness %v; want a good trail of %d", r.Size, r.Integrity, r.Completeness, size)
	}
	return r
}

// numbers returns the n of every state.out leaf, in order.
func (b *bench) numbers() []uint64 {
	b.Helper()
	var out []uint64
	_, err := Verify(context.Background(), b.folder(), Options{Node: testNode, Leaf: func(l Indexed) {
		if l.Kind == StateOut.Name() {
			var body map[string]uint64
			if err := statement.Unmarshal(l.Body, &body); err != nil {
				b.Fatal(err)
			}
			out = append(out, body["n"])
		}
	}})
	if err != nil {
		b.Fatal(err)
	}
	return out
}

func (b *bench) wantNumbers(n int) {
	b.Helper()
	got := b.numbers()
	for i, v := range got {
		if v != uint64(i) {
			b.Fatalf("leaf %d of %d says %d: lost or doubled", i, len(got), v)
		}
	}
	if len(got) != n {
		b.Fatalf("%d leaves, want %d", len(got), n)
	}
}

// files maps each file to its size and the time of its last write.
func (b *bench) files() map[string]string {
	out := map[string]string{}
	err := filepath.WalkDir(b.cfg.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		out[path] = fmt.Sprint(info.Size(), info.ModTime())
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return out
}
