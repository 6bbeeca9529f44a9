package trail

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"

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
			if err := Append(tx, RecordOut, map[string]uint64{"n": uint64(from + i)}); err != nil {
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

// numbers returns the n of every record.out leaf, in order.
func (b *bench) numbers() []uint64 {
	b.Helper()
	var out []uint64
	_, err := Verify(context.Background(), b.folder(), Options{Node: testNode, Leaf: func(l Indexed) {
		if l.Kind == RecordOut.Name() {
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

func TestTrail(t *testing.T) {
	b := newBench(t)
	b.cfg.Metrics = prometheus.NewRegistry()
	b.cfg.Endorsement = []byte("word of the issuer")
	tr := b.open()
	if h := tr.Head(); h.Size != 2 || !h.Unwitnessed || time.Since(h.At) > time.Minute {
		t.Fatalf("new head %+v", h)
	}
	b.put(0, 1)
	b.flush(tr)
	b.put(1, 699)
	if n := testutil.CollectAndCount(b.cfg.Metrics.(*prometheus.Registry), "bailiwick_trail_size", "bailiwick_trail_outbox_depth", "bailiwick_trail_checkpoint_age_seconds", "bailiwick_trail_gap_events_total"); n != 4 {
		t.Errorf("%d metrics", n)
	}
	b.flush(tr)
	r := b.wantGood(702)
	b.wantNumbers(700)
	if r.Kinds["record.out"] != 700 || r.Kinds["genesis"] != 1 || r.Protection != "software" || !r.OwnWord || r.Node != testNode.String() {
		t.Errorf("report %+v", r)
	}
	if n, err := b.s.Pending(); n != 0 || err != nil {
		t.Errorf("%d leaves still wait: %v", n, err)
	}
	if r, err := Verify(t.Context(), b.folder(), Options{VerifierKey: tr.VerifierKey()}); err != nil || !r.Good() || r.OwnWord {
		t.Errorf("with a key: %+v, %v", r, err)
	}
	g, err := ReadGenesis(tr.Dir())
	if err != nil || string(g.Endorsement) != "word of the issuer" {
		t.Errorf("genesis %+v, %v", g, err)
	}

	last, err := Tail(t.Context(), tr.Dir(), 3)
	if err != nil || len(last) != 3 || last[2].Index != 701 || last[0].Kind != "record.out" {
		t.Errorf("tail %+v, %v", last, err)
	}
	if js, err := last[2].MarshalJSON(); err != nil || !strings.Contains(string(js), `"body":{"n":699}`) {
		t.Errorf("json %s, %v", js, err)
	}
	all, err := List(t.Context(), tr.Dir(), 0, 10_000)
	if err != nil || len(all) != 702 {
		t.Errorf("%d leaves listed, %v", len(all), err)
	}
	if none, err := List(t.Context(), tr.Dir(), 702, 10); err != nil || len(none) != 0 {
		t.Errorf("past the end: %v, %v", none, err)
	}
	b.close(tr)
	if n, _ := testutil.GatherAndCount(b.cfg.Metrics.(*prometheus.Registry)); n != 0 {
		t.Errorf("%d metrics after Close", n)
	}
	if err := tr.Flush(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("flush after close: %v", err)
	}
}

// The format is the standard's: its own checker agrees.
func TestStandardReader(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tr := b.open()
	for _, n := range []int{1, 254, 3, 600, 65_536} {
		b.put(0, n)
		b.flush(tr)
	}
	v, err := newVerifier(tr.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	hash := func(raw []byte) (out [][]byte, err error) {
		var eb api.EntryBundle
		if err := eb.UnmarshalText(raw); err != nil {
			return nil, err
		}
		for _, e := range eb.Entries {
			out = append(out, hasher.HashLeaf(e))
		}
		return out, nil
	}
	if err := fsck.New(v.Name(), v, client.FileFetcher{Root: tr.Dir()}, hash, fsck.Opts{N: 2}).Check(t.Context()); err != nil {
		t.Error(err)
	}
	b.wantGood(2 + 1 + 254 + 3 + 600 + 65_536)
	// What became full has no partial versions left.
	for _, p := range []string{"tile/entries/000.p", "tile/0/000.p", "tile/0/255.p", "tile/1/000.p"} {
		if _, err := os.Stat(filepath.Join(tr.Dir(), p)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestReopen(t *testing.T) {
	b := newBench(t)
	for i := range 5 {
		tr := b.open()
		b.put(10*i, 10)
		b.close(tr)
		_ = b.s.Close()
		b.openStore()
	}
	b.wantGood(52)
	b.wantNumbers(50)
}

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
						return Append(tx, RecordOut, map[string]uint64{"n": uint64(acked)})
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

func TestFailingKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tr := b.open()
	broken := errors.New("TPM_RC_FAILURE")
	b.key.fail(broken)
	for i := range 3 {
		b.put(i, 1)
		if err := tr.Flush(t.Context()); !errors.Is(err, ErrSigner) || !errors.Is(err, broken) {
			t.Fatalf("flush with a failing key: %v", err)
		}
	}
	if n, _ := b.s.Pending(); n != 3 || tr.Head().Size != 2 || tr.Err() == nil {
		t.Fatalf("%d leaves wait, head %d", n, tr.Head().Size)
	}
	if r := b.verify(); !r.Integrity.Good || r.Completeness.Good || !errors.Is(r.Completeness.Err, ErrBeyond) {
		t.Errorf("unsigned tail: %v %v", r.Integrity, r.Completeness)
	}

	_ = tr.Close()
	tr = b.open() // a restart does not need the key to sign
	b.key.fail(nil)
	b.flush(tr)
	b.wantGood(5)
	b.wantNumbers(3)
	if n, _ := b.s.Pending(); n != 0 || tr.Err() != nil {
		t.Errorf("%d leaves wait, %v", n, tr.Err())
	}
	b.key.fail(broken)
	b.cfg.Epoch++
	if _, err := Open(b.cfg); !errors.Is(err, ErrSigner) {
		t.Errorf("a new trail whose key does not sign: %v", err)
	}
}

func TestGap(t *testing.T) {
	b := newBench(t)
	tr := b.open()
	b.put(0, 1)
	tr.Gap(2, "standing: store full")
	tr.Gap(1, "standing: store full")
	tr.Gap(4, "tunnel: store full")
	tr.Gap(0, "nothing")
	b.flush(tr)
	b.flush(tr)
	b.put(1, 1)
	b.close(tr)
	if r := b.wantGood(6); r.Lost != 7 || r.Kinds["gap"] != 2 {
		t.Errorf("lost %d, kinds %v", r.Lost, r.Kinds)
	}
	b.wantNumbers(2)
}

// What an outbox leaf cannot be is replaced by a gap that says so; a jump in
// the sequence is one too. Nothing stands in the way of what follows.
func TestOddLeaves(t *testing.T) {
	b := newBench(t)
	tr := b.open()
	for _, kind := range []string{"Not A Kind", "genesis", "gap", "x.unregistered"} {
		if err := b.s.Update(func(tx *store.Tx) error { return tx.Leaf(kind, []byte{0xa0}) }); err != nil {
			t.Fatal(err)
		}
	}
	b.put(0, 1)
	b.flush(tr)
	if r := b.wantGood(7); r.Lost != 3 || r.Kinds["x.unregistered"] != 1 {
		t.Errorf("lost %d, kinds %v", r.Lost, r.Kinds)
	}
	_ = tr.Close()

	b.put(1, 3)
	waiting, err := b.s.Outbox(0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.s.Trim(waiting[1].Seq); err != nil {
		t.Fatal(err)
	}
	b.close(b.open())
	if r := b.wantGood(9); r.Lost != 5 {
		t.Errorf("lost %d after two leaves went from the outbox", r.Lost)
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

func TestIdleWritesNothing(t *testing.T) {
	b := newBench(t)
	tr := b.open()
	b.put(0, 5)
	b.flush(tr)
	before := b.files()
	s, err := os.Stat(filepath.Join(b.dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		b.flush(tr)
	}
	after, err := os.Stat(filepath.Join(b.dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(before, b.files()) || !after.ModTime().Equal(s.ModTime()) {
		t.Error("a drain of nothing wrote something")
	}
}

func TestAtMostOnceASecond(t *testing.T) {
	dir, key := t.TempDir(), newKey(t)
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(filepath.Join(dir, "store"))
		if err != nil {
			t.Fatal(err)
		}
		tr, err := Open(Config{Dir: dir, Node: testNode, Epoch: 1, Key: key, Store: s})
		if err != nil {
			t.Fatal(err)
		}
		heads := map[uint64]bool{}
		for i := range 100 { // ten seconds
			if err := s.Update(func(tx *store.Tx) error { return Append(tx, RecordOut, map[string]int{"n": i}) }); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			heads[tr.Head().Size] = true
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if h := tr.Head(); h.Size != 102 {
			t.Errorf("%d leaves under the head after two quiet seconds", h.Size)
		}
		if len(heads) < 8 || len(heads) > 12 {
			t.Errorf("%d heads in ten seconds", len(heads))
		}
		if err := errors.Join(tr.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	})
}

func TestOrigin(t *testing.T) {
	for id, want := range map[string]string{
		"spiffe://east.dev.example/node/east-n1":         "east.dev.example/trail/east-n1/7",
		"spiffe://east.dev.example/zone/z1/node/east-n1": "east.dev.example/trail/z1/east-n1/7",
		"spiffe://east.dev.example/zone/z1/host/east-n1": "",
		"spiffe://east.dev.example":                      "",
		"spiffe://east.dev.example/node/a/b":             "",
	} {
		got, err := Origin(spiffeid.RequireFromString(id), 7)
		if got != want || (want == "") != errors.Is(err, ErrNode) {
			t.Errorf("%s: %q, %v", id, got, err)
		}
	}
}
