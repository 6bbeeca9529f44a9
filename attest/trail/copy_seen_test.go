package trail

import (
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// A copy takes over the heads that its owner kept with cosignatures, in pieces, and no others.
func TestCopySeen(t *testing.T) {
	t.Parallel()
	b, other := newBench(t), newBench(t)
	tr, foreign := b.open(), other.open()
	began := time.Now()
	var heads [][]byte
	for i := range 5 {
		b.put(10*i, 10)
		b.flush(tr)
		other.put(10*i, 11)
		other.flush(foreign)
		heads = append(heads, tr.Head().Raw)
		if err := replaceWitnessed(b.folder(), tr.Head().Raw, began.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "1")
	c := b.copyAt(dir)
	if err := b.mirror(c, 1000); err != nil {
		t.Fatal(err)
	}
	asked := 0
	for above := uint64(0); ; asked++ {
		got, err := ReadSeen(b.folder(), above, 1)
		if err != nil || len(got) > 1 {
			t.Fatalf("%d heads in one byte: %v", len(got), err)
		}
		if len(got) == 0 {
			break
		}
		if err := c.KeepSeen(got); err != nil {
			t.Fatal(err)
		}
		if above, err = NewestSeen(dir); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 4 {
		t.Errorf("%d heads were kept before the newest", asked)
	}
	for i, raw := range heads[:4] {
		want, err := PeekCheckpoint(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok, err := SeenAfter(dir, want.Size-1); err != nil || !ok || got.Root != want.Root {
			t.Errorf("head %d: %+v, %t, %v", i, got, ok, err)
		}
	}
	b.put(50, 1)
	b.flush(tr)
	for name, tt := range map[string]struct {
		raw  []byte
		want error
	}{
		"of more leaves": {tr.Head().Raw, ErrRollback},
		"by another key": {foreign.Head().Raw, ErrCheckpoint},
		"no head":        {[]byte("x"), ErrCheckpoint},
	} {
		if err := c.KeepSeen([][]byte{tt.raw}); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if all, err := ReadSeen(dir, 0, 1<<20); err != nil || len(all) != 4 {
		t.Errorf("%d heads are kept: %v", len(all), err)
	}
	b.close(tr)
	other.close(foreign)
}
