package trail

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/transparency-dev/merkle/proof"
)

func (b *bench) prune(tr *Trail, before time.Time) uint64 {
	b.Helper()
	n, err := tr.Prune(b.Context(), before)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// inclusion proves a leaf under the present head.
func (b *bench) inclusion(tr *Trail, index uint64) (uint64, [32]byte, [][]byte) {
	b.Helper()
	h := tr.Head()
	nodes, err := proof.Inclusion(index, h.Size)
	if err != nil {
		b.Fatal(err)
	}
	var hashes [][]byte
	for _, id := range nodes.IDs {
		n, err := tiles{dir: b.folder(), size: h.Size}.node(id)
		if err != nil {
			b.Fatal(err)
		}
		hashes = append(hashes, n)
	}
	if hashes, err = nodes.Rehash(hashes, hasher.HashChildren); err != nil {
		b.Fatal(err)
	}
	return h.Size, h.Root, hashes
}

// What is old goes by whole bundles, and every proof stays: those made before, and new ones of
// what is gone.
func TestPrune(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testPrune)
}

func testPrune(t *testing.T) {
	b := newBench(t)
	tr := b.open()
	b.put(0, 1500)
	b.flush(tr)
	old, err := rawLeaf(b.folder(), 600)
	if err != nil {
		t.Fatal(err)
	}
	size, root, before := b.inclusion(tr, 600)
	head := tr.Head()
	time.Sleep(time.Minute)
	limit := time.Now()
	if n := b.prune(tr, head.At.Add(-time.Hour)); n != 0 {
		t.Errorf("%d leaves went, and none is old", n)
	}
	b.put(1500, 500)
	b.flush(tr)
	if n := b.prune(tr, limit); n != 1502/256*256-256 {
		t.Fatalf("%d leaves are gone", n)
	}
	r := b.wantGood(2003)
	if r.Pruned != 1024 || r.Kinds["trail.prune"] != 1 || r.Kinds["genesis"] != 1 {
		t.Errorf("%d pruned, %v", r.Pruned, r.Kinds)
	}
	if err := proof.VerifyInclusion(hasher, 600, size, hasher.HashLeaf(old), before, root[:]); err != nil {
		t.Errorf("a proof of before: %v", err)
	}
	size, root, now := b.inclusion(tr, 600)
	if err := proof.VerifyInclusion(hasher, 600, size, hasher.HashLeaf(old), now, root[:]); err != nil {
		t.Errorf("a new proof of a leaf that is gone: %v", err)
	}
	if _, err := Consistency(b.folder(), head.Size, size); err != nil {
		t.Errorf("consistency: %v", err)
	}
	known, err := OpenCheckpoint(head.Raw, tr.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(t.Context(), b.folder(), Options{Node: testNode, Known: &known}); err != nil || !r.Good() {
		t.Errorf("against a head of before: %v %v %v", r.Integrity, r.Completeness, err)
	}
	all, err := List(t.Context(), b.folder(), 0, 10_000)
	if err != nil || len(all) != 2003-1024 || all[256].Index != 1280 {
		t.Errorf("%d leaves listed, %v", len(all), err)
	}
	snapshot, err := OpenSnapshot(b.folder())
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []uint64{0, 300} {
		var seen []uint64
		for l, err := range snapshot.Leaves(t.Context(), from) {
			if err != nil {
				t.Fatal(err)
			}
			seen = append(seen, l.Index)
		}
		if want := 2003 - 1280 + int(256-min(from, 256)); len(seen) != want || !slices.IsSorted(seen) || seen[len(seen)-1] != 2002 {
			t.Errorf("from %d: %d leaves, want %d", from, len(seen), want)
		}
	}
	if _, err := snapshot.Raw(600); !errors.Is(err, ErrPruned) {
		t.Errorf("a leaf that is gone: %v", err)
	}
	if n := b.prune(tr, limit); n != 1024 || tr.Head().Size != 2003 {
		t.Errorf("again: %d are gone, head of %d", n, tr.Head().Size)
	}

	// A copy that is begun now has what there is, and says what is not; one of before keeps all.
	dir := filepath.Join(t.TempDir(), "1")
	c := b.copyAt(dir)
	if err := b.mirror(c, 5000); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(t.Context(), dir, Options{Node: testNode}); err != nil || !r.Good() || r.Pruned != 1024 || r.Size != 2003 {
		t.Errorf("a copy: %+v %v", r, err)
	}
	b.put(2000, 300)
	b.flush(tr)
	if err := b.mirror(b.copyAt(dir), 5000); err != nil {
		t.Errorf("it goes on: %v", err)
	}
	b.close(tr)
	tr = b.open()
	b.put(2300, 10)
	b.flush(tr)
	b.wantGood(2313)
}

// Only what the trail says may be gone is: whoever deletes one bundle more is found.
func TestDeletedIsNotPruned(t *testing.T) {
	t.Parallel()
	bundle := func(b *bench, n string) string { return filepath.Join(b.folder(), "tile/entries", n) }
	for name, spoil := range map[string]func(*bench){
		"the next one":              func(b *bench) { _ = os.Remove(bundle(b, "003")) },
		"one with a hole before it": func(b *bench) { _ = os.Remove(bundle(b, "004")) },
		"the first":                 func(b *bench) { _ = os.Remove(bundle(b, "000")) },
		"one, and its tile":         func(b *bench) { _, _ = os.Remove(bundle(b, "003")), os.Remove(filepath.Join(b.folder(), "tile/0/003")) },
		"the hashes of what is gone": func(b *bench) {
			b.change("tile/0/001", func(raw []byte) []byte { raw[77] ^= 1; return raw })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				tr := b.open()
				b.put(0, 800)
				b.flush(tr)
				time.Sleep(time.Minute)
				limit := time.Now()
				b.put(800, 700)
				b.flush(tr)
				if n := b.prune(tr, limit); n != 512 {
					t.Fatalf("%d gone", n)
				}
				b.close(tr)
				b.wantGood(1503)
				spoil(b)
				r, err := Verify(t.Context(), b.folder(), Options{VerifierKey: tr.VerifierKey()})
				if err != nil || r.Integrity.Good || !errors.Is(r.Integrity.Err, ErrTile) && !errors.Is(r.Integrity.Err, ErrRoot) && !errors.Is(r.Integrity.Err, ErrLeaf) {
					t.Errorf("%+v, %v", r.Integrity, err)
				}
			})
		})
	}
}

// A disk that fails between the leaf and the removal loses nothing: what is left over goes later.
func TestPruneAfterACrash(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testPruneAfterACrash)
}

func testPruneAfterACrash(t *testing.T) {
	b := newBench(t)
	tr := b.open()
	b.put(0, 1000)
	b.flush(tr)
	time.Sleep(time.Minute)
	kept := contents(b, b.folder())
	limit := time.Now()
	b.prune(tr, limit)
	for _, name := range []string{"tile/entries/001", "tile/entries/002"} { // as if they had not gone yet
		if err := os.WriteFile(filepath.Join(b.folder(), name), []byte(kept[name]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r := b.wantGood(1003); r.Pruned != 0 {
		t.Errorf("%d pruned", r.Pruned)
	}
	if n := b.prune(tr, limit); n != 512 || tr.Head().Size != 1003 {
		t.Errorf("%d gone, head of %d", n, tr.Head().Size)
	}
	if r := b.wantGood(1003); r.Pruned != 512 {
		t.Errorf("%d pruned", r.Pruned)
	}
}

// The trail of an ended epoch is pruned by what the newest one says, and by nothing else.
func TestPruneAnEndedEpoch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testPruneAnEndedEpoch)
}

func testPruneAnEndedEpoch(t *testing.T) {
	b := newBench(t)
	tr := b.open()
	b.put(0, 900)
	b.flush(tr)
	ended := tr.Head()
	b.close(tr)
	time.Sleep(time.Minute)
	b.cfg.Epoch = 2
	tr = b.open()
	b.put(900, 100)
	b.flush(tr)
	first := EpochDir(b.cfg.Dir, 1)
	judge := func(later string) Report {
		t.Helper()
		r, err := Verify(t.Context(), first, Options{Node: testNode, Later: later})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	dir := filepath.Join(t.TempDir(), "copies")
	c, err := OpenCopy(EpochDir(dir, 1), testNode, 1)
	if err == nil {
		head, leaves, rerr := ReadRaw(first, 0, 1<<20)
		err = errors.Join(rerr, c.Add(leaves), c.Seal(head))
	}
	if err != nil {
		t.Fatal(err)
	}
	limit := time.Now().Add(-time.Second)
	if n := b.prune(tr, limit); n != 512 {
		t.Fatalf("%d gone", n)
	}
	if n := b.prune(tr, limit); n != 512 || b.wantGood(103).Kinds["trail.prune"] != 1 {
		t.Errorf("again: %d are gone", n)
	}
	if r := judge(b.cfg.Dir); !r.Good() || r.Pruned != 512 || r.Size != ended.Size {
		t.Errorf("%+v, %+v, %d pruned", r.Integrity, r.Completeness, r.Pruned)
	}
	if r := judge(""); r.Integrity.Good {
		t.Error("leaves are gone, and no trail says why")
	}
	allowed, err := laterRemoval(t.Context(), b.cfg.Dir, 1)
	if err != nil || allowed != 768 {
		t.Fatalf("up to %d, %v", allowed, err)
	}
	for _, tt := range []struct {
		before  time.Time
		allowed uint64
		want    int
	}{{limit, 0, 0}, {limit.Add(-time.Hour), allowed, 0}, {limit, 600, 256}, {limit, allowed, 256}, {limit, allowed, 0}} {
		went := 0
		if err := c.Prune(tt.before, tt.allowed, func(Indexed) error { went++; return nil }); err != nil || went != tt.want {
			t.Errorf("a copy, up to %d: %d went, want %d, %v", tt.allowed, went, tt.want, err)
		}
	}
	if c, err = OpenCopy(EpochDir(dir, 1), testNode, 1); err != nil || c.Head().Size != ended.Size {
		t.Errorf("the copy opens with %d leaves, %v", c.Head().Size, err)
	}
	if r, err := Verify(t.Context(), EpochDir(dir, 1), Options{Node: testNode, Later: b.cfg.Dir}); err != nil || !r.Good() || r.Pruned != 512 {
		t.Errorf("the copy: %+v, %d pruned, %v", r.Integrity, r.Pruned, err)
	}
	if err := os.Remove(filepath.Join(first, "tile/entries/000")); err != nil {
		t.Fatal(err)
	}
	if r := judge(b.cfg.Dir); r.Integrity.Good {
		t.Error("the genesis may not go")
	}
}

// rawLeaf returns the bytes of one leaf.
func rawLeaf(dir string, index uint64) ([]byte, error) {
	_, leaves, err := ReadRaw(dir, index, 1)
	if err != nil {
		return nil, err
	}
	return leaves[0], nil
}
