package trail

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

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
	if r.Kinds["state.out"] != 700 || r.Kinds["genesis"] != 1 || r.Protection != "software" || !r.OwnWord || r.Node != testNode.String() {
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
	if err != nil || len(last) != 3 || last[2].Index != 701 || last[0].Kind != "state.out" {
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
// What a transaction takes away it tells itself, in its place in the sequence.
func TestGapOfATransaction(t *testing.T) {
	b := newBench(t)
	tr := b.open()
	b.put(0, 2)
	if err := b.s.Update(func(tx *store.Tx) error {
		return errors.Join(AppendGap(tx, 0, "nothing"), AppendGap(tx, 7, "the oldest segment was removed"), tx.Delete("x", []byte("y")))
	}); err != nil {
		t.Fatal(err)
	}
	b.put(2, 1)
	b.flush(tr)
	if r := b.wantGood(6); r.Lost != 7 || r.Kinds["gap"] != 1 {
		t.Errorf("%d lost, %v", r.Lost, r.Kinds)
	}
}

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

	b.put(1, 3)
	waiting, err := b.s.Outbox(0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.s.Trim(waiting[1].Seq); err != nil {
		t.Fatal(err)
	}
	b.close(tr)
	if r := b.wantGood(9); r.Lost != 5 {
		t.Errorf("lost %d after two leaves went from the outbox", r.Lost)
	}
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
			if err := s.Update(func(tx *store.Tx) error { return Append(tx, AdminAction, map[string]int{"n": i}) }); err != nil {
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

// A trail must contain the heads that others keep of it: those of its past, by its own key.
func TestHeadsOfOthers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tr := b.open()
	b.put(0, 300)
	b.flush(tr)
	past := tr.Head().Raw
	b.close(tr)
	older := filepath.Join(t.TempDir(), "older")
	if err := os.CopyFS(older, os.DirFS(b.folder())); err != nil {
		t.Fatal(err)
	}
	tr = b.open()
	b.put(300, 10)
	b.flush(tr)
	stranger := newBench(t)
	foreign := stranger.open().Head().Raw
	for name, tt := range map[string]struct {
		dir  string
		head []byte
		want error
	}{
		"of its past":    {b.folder(), past, nil},
		"its own":        {b.folder(), tr.Head().Raw, nil},
		"of its future":  {older, tr.Head().Raw, ErrRollback},
		"by another key": {b.folder(), foreign, ErrCheckpoint},
		"of nothing":     {b.folder(), []byte("x"), ErrCheckpoint},
	} {
		r, err := Verify(t.Context(), tt.dir, Options{Node: testNode, Heads: [][]byte{tt.head}})
		if err != nil || !r.Integrity.Good || r.Completeness.Good != (tt.want == nil) || !errors.Is(r.Completeness.Err, tt.want) {
			t.Errorf("a head %s: %+v, %+v, %v", name, r.Integrity, r.Completeness, err)
		}
	}
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

// The bytes of a leaf are frozen: trails are read years later.
func TestLeafVector(t *testing.T) {
	l := Leaf{Seq: 300, Kind: "state.out", At: time.UnixMilli(1790000000123).UTC(), Body: []byte{0xa1, 0x61, 'n', 0x05}}
	const want = "a401" + "19012c" + "02" + "6973746174652e6f7574" + "03" + "1b000001a0c4506c7b" + "04" + "44a1616e05"
	b, err := l.encode()
	if got := fmt.Sprintf("%x", b); got != want || err != nil {
		t.Errorf("leaf is %s, %v\nfrozen %s", got, err, want)
	}
	if again, err := ParseLeaf(b); err != nil || !again.equal(l) {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestKinds(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds() {
		if seen[k.Name()] || !validKind(k.Name()) || k.About() == "" || k.Class() != Each && k.Class() != Counted ||
			k.Unrecorded() != Closed && k.Unrecorded() != Gapped {
			t.Errorf("kind %+v", k)
		}
		seen[k.Name()] = true
		if got, ok := LookupKind(k.Name()); !ok || got != k {
			t.Errorf("%s is looked up as %+v", k, got)
		}
	}
	if _, ok := LookupKind("x.unregistered"); ok {
		t.Error("an unregistered kind is known")
	}
	b := newBench(t)
	if err := b.s.Update(func(tx *store.Tx) error { return Append(tx, Kind{}, nil) }); !errors.Is(err, ErrLeaf) {
		t.Errorf("a leaf without a kind: %v", err)
	}
}
