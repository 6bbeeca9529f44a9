package trail

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/tessera/api/layout"
)

// rebuild writes the files of a snapshot since from leaves, and its head, into a folder.
func (b *bench) rebuild(dir string, from uint64) uint64 {
	b.Helper()
	s, err := OpenSnapshot(b.folder())
	if err != nil {
		b.Fatal(err)
	}
	var named, read []string
	for p := range Paths(from, s.Head().Size) {
		named = append(named, p)
	}
	for f, err := range s.Files(from) {
		if err != nil {
			b.Fatal(err)
		}
		read = append(read, f.Path)
		b.write(filepath.Join(dir, f.Path), f.Data)
	}
	if s.tiles.firstKept() == width && !slices.Equal(named, read) {
		b.Errorf("from %d: named %v, read %v", from, named, read)
	}
	b.write(filepath.Join(dir, layout.CheckpointPath), s.Head().Raw)
	return s.Head().Size
}

func (b *bench) write(path string, data []byte) {
	b.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		b.Fatal(err)
	}
}

// What is new since each head is all that somebody needs who has the files of the heads before.
func TestFilesSinceEachHead(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tr := b.open()
	dir := t.TempDir()
	var from uint64
	for _, n := range []int{0, 1, 200, 53, 1, 255, 256, 600} {
		b.put(0, n)
		b.flush(tr)
		from = b.rebuild(dir, from)
		r, err := Verify(t.Context(), dir, Options{Node: testNode})
		if err != nil || !r.Good() || r.Size != from {
			t.Fatalf("%d leaves: %d, %v, %v, %v", from, r.Size, r.Integrity, r.Completeness, err)
		}
	}
	if more := slices.Collect(Paths(from, from)); more != nil {
		t.Errorf("nothing is new, and yet %v", more)
	}
	whole := map[string]bool{}
	for p := range Paths(0, from) {
		whole[p] = true
	}
	for name := range published(b, dir) {
		if !strings.Contains(name, ".p/") && name != layout.CheckpointPath && !whole[name] {
			t.Errorf("%s is not named", name)
		}
	}
}

// Whatever the sizes between, the edges of the last and all full ones before are named, and nothing twice.
func TestPathsOfLargeTrails(t *testing.T) {
	for _, size := range []uint64{1, 255, 256, 257, 65_535, 65_536, 65_537, 70_000, 200_000} {
		need := map[string]bool{}
		for p := range Paths(0, size) {
			if need[p] {
				t.Fatalf("%d leaves: %s is named twice", size, p)
			}
			need[p] = true
		}
		for _, step := range []uint64{1000, 65_536, 100_000} {
			have := map[string]bool{}
			for from := uint64(0); from < size; from += step {
				for p := range Paths(from, min(from+step, size)) {
					have[p] = true
				}
			}
			for p := range need {
				if !have[p] {
					t.Fatalf("%d leaves by %d: %s is never named", size, step, p)
				}
			}
		}
	}
	if !slices.Contains(slices.Collect(Paths(65_535, 65_537)), "tile/2/000.p/1") {
		t.Error("a tree of 65,537 leaves has a third level")
	}
}

// What was removed by age is left out, and an edge that has grown since is cut back.
func TestFilesOfAPrunedTrail(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tr := b.open()
	b.put(0, 1500)
	b.flush(tr)
	old, err := OpenSnapshot(b.folder())
	if err != nil {
		t.Fatal(err)
	}
	before := map[string]string{}
	for f, err := range old.Files(0) {
		if err != nil {
			t.Fatal(err)
		}
		before[f.Path] = string(f.Data)
	}
	b.put(0, 500) // the edges of before are collected
	b.flush(tr)
	again := map[string]string{}
	for f, err := range old.Files(0) {
		if err != nil {
			t.Fatal(err)
		}
		again[f.Path] = string(f.Data)
	}
	if !maps.Equal(before, again) {
		t.Error("the files of an older head changed")
	}
	if b.prune(tr, time.Now().Add(time.Hour)) == 0 {
		t.Fatal("nothing was removed")
	}
	dir := t.TempDir()
	size := b.rebuild(dir, 0)
	r, err := Verify(t.Context(), dir, Options{Node: testNode})
	if err != nil || !r.Good() || r.Size != size || r.Pruned == 0 {
		t.Errorf("%d leaves, %d removed: %v, %v, %v", r.Size, r.Pruned, r.Integrity, r.Completeness, err)
	}
	if err := os.Remove(filepath.Join(b.folder(), layout.TilePath(0, 1, 0))); err != nil {
		t.Fatal(err)
	}
	s, _ := OpenSnapshot(b.folder())
	var failed error
	for _, failed = range s.Files(0) {
	}
	if failed == nil {
		t.Error("a tile that is missing is not told of")
	}
}
