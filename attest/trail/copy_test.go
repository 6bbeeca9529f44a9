package trail

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mirror brings a copy up to the trail's head, in pieces of at most limit bytes.
func (b *bench) mirror(c *Copy, limit int) error {
	b.Helper()
	for {
		head, leaves, err := ReadRaw(b.folder(), c.Added(), limit)
		if errors.Is(err, ErrPruned) {
			row, err := ReadHashes(b.folder(), c.Added())
			if err := errors.Join(err, c.AddHashes(row)); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Add(leaves); err != nil {
			return err
		}
		h, err := PeekCheckpoint(head)
		if err != nil {
			b.Fatal(err)
		}
		if c.Added() >= h.Size {
			return c.Seal(head)
		}
	}
}

func (b *bench) copyAt(dir string) *Copy {
	b.Helper()
	c, err := OpenCopy(dir, testNode, b.cfg.Epoch)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// files of a folder but the writer's own notes.
func published(b *bench, dir string) map[string]string {
	all := contents(b, dir)
	maps.DeleteFunc(all, func(name, _ string) bool { return strings.Contains(name, ".state") || strings.Contains(name, ".p/") })
	return all
}

// A copy is the trail, whatever the sizes between which it grew, and verifies as the trail does.
func TestCopy(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tr := b.open()
	dir := filepath.Join(t.TempDir(), "1")
	total := uint64(2)
	for i, n := range []int{0, 1, 200, 53, 1, 255, 600, 3000} {
		b.put(0, n)
		b.flush(tr)
		total += uint64(n)
		c := b.copyAt(dir) // each time as after a restart
		if err := b.mirror(c, 500+i*1000); err != nil {
			t.Fatalf("at %d: %v", total, err)
		}
		r, err := Verify(context.Background(), dir, Options{Node: testNode})
		if err != nil || !r.Good() || r.Size != total || c.Head().Size != total {
			t.Fatalf("copy of %d leaves: %d, %v, %v, %v", total, r.Size, r.Integrity, r.Completeness, err)
		}
		if want, got := published(b, b.folder()), published(b, dir); !maps.Equal(want, got) {
			t.Errorf("the copy of %d leaves has other files:\n%v\n%v", total, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)))
		}
		if err := b.mirror(c, 1<<20); err != nil {
			t.Errorf("again: %v", err)
		}
	}
}

// Full bundles that came before a crash are not asked for again.
func TestCopyResumes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tr := b.open()
	b.put(0, 1000)
	b.flush(tr)
	dir := filepath.Join(t.TempDir(), "1")
	_, leaves, err := ReadRaw(b.folder(), 0, 1<<20)
	if err != nil || len(leaves) != 1002 {
		t.Fatal(len(leaves), err)
	}
	if err := b.copyAt(dir).Add(leaves[:700]); err != nil {
		t.Fatal(err)
	}
	c := b.copyAt(dir)
	if c.Added() != 512 || c.Head().Size != 0 {
		t.Fatalf("%d leaves are there, head %d", c.Added(), c.Head().Size)
	}
	if err := b.mirror(c, 1<<20); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(t.Context(), dir, Options{Node: testNode}); err != nil || !r.Good() || r.Size != 1002 {
		t.Fatal(r, err)
	}
}

// What a liar offers leaves the copy as it was.
func TestCopyTakesOnlyWhatFits(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tr := b.open()
	b.put(0, 298)
	b.flush(tr)
	dir := filepath.Join(t.TempDir(), "1")
	c := b.copyAt(dir)
	if err := b.mirror(c, 1<<20); err != nil {
		t.Fatal(err)
	}
	before := contents(b, dir)
	old := c.Head().Raw
	b.put(298, 700)
	b.flush(tr)
	head, leaves, err := ReadRaw(b.folder(), c.Added(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	other := newBench(t) // the same node, another key and history
	ot := other.open()
	other.put(5, 998)
	other.flush(ot)
	otherHead, otherLeaves, err := ReadRaw(other.folder(), 300, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	changed := append([][]byte{}, leaves...)
	changed[3], changed[4] = changed[4], changed[3]
	for name, tt := range map[string]struct {
		leaves [][]byte
		head   []byte
		want   error
	}{
		"two leaves exchanged":   {changed, head, ErrRoot},
		"leaves of another":      {otherLeaves, head, ErrRoot},
		"the head of another":    {leaves, otherHead, ErrCheckpoint},
		"an older head":          {nil, old[:len(old)-3], ErrCheckpoint},
		"fewer leaves":           {leaves[:10], head, ErrRollback},
		"a head of fewer leaves": {leaves, old, ErrRollback},
	} {
		if err := c.Add(tt.leaves); err != nil {
			t.Fatal(err)
		}
		if err := c.Seal(tt.head); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if got := contents(b, dir); !maps.Equal(before, got) || c.Head().Size != 300 || c.Added() != 300 {
			t.Errorf("%s: the copy changed: %v", name, slices.Sorted(maps.Keys(got)))
		}
	}
	for name, tt := range map[string]struct {
		head []byte
		want error
	}{"its own": {old, nil}, "one of more leaves": {head, ErrRollback}, "that of another": {otherHead, ErrCheckpoint}} {
		if err := c.SetWitnessed(tt.head); !errors.Is(err, tt.want) {
			t.Errorf("a witnessed head, %s: %v", name, err)
		}
	}
	if got, err := ReadWitnessed(dir); err != nil || string(got) != string(old) {
		t.Errorf("witnessed %q, %v", got, err)
	}
	if err := c.Add([][]byte{{1, 2}}); !errors.Is(err, ErrLeaf) {
		t.Errorf("no leaf: %v", err)
	}
	if err := b.mirror(c, 1<<20); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tile/1/000.p/3"), make([]byte, 3*32), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCopy(dir, testNode, 1); !errors.Is(err, ErrDamaged) {
		t.Errorf("a damaged copy: %v", err)
	}
	if _, err := OpenCopy(filepath.Join(t.TempDir(), "2"), testNode, 2); err != nil {
		t.Fatal(err)
	}
	wrong, err := OpenCopy(filepath.Join(t.TempDir(), "2"), testNode, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.mirror(wrong, 1<<20); !errors.Is(err, ErrLeaf) {
		t.Errorf("the trail of another epoch: %v", err)
	}
}

// contents of all files of a folder, by their names in it.
func contents(b *bench, dir string) map[string]string {
	b.Helper()
	out := map[string]string{}
	if err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(filepath.Join(dir, path))
		out[path] = string(raw)
		return err
	}); err != nil {
		b.Fatal(err)
	}
	return out
}
