package trail

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Of the heads that are witnessed one in ten minutes is kept, and the last before a pause;
// each is shown to lie in the past of the newest, and no other is.
func TestSeenHeads(t *testing.T) {
	b := newBench(t)
	tr := b.open()
	began := time.Now()
	var sizes []uint64
	for i, minutes := range []int{0, 4, 8, 12, 60, 61} {
		b.put(10*i, 10)
		b.flush(tr)
		if err := replaceWitnessed(b.folder(), tr.Head().Raw, began.Add(time.Duration(minutes)*time.Minute)); err != nil {
			t.Fatal(err)
		}
		if i != 1 { // within ten minutes of the one kept before, and replaced within them
			sizes = append(sizes, tr.Head().Size)
		}
	}
	entries, err := os.ReadDir(filepath.Join(b.folder(), SeenDir))
	if err != nil || len(entries) != len(sizes)-1 {
		t.Fatalf("%d heads kept beside the newest, want %d: %v", len(entries), len(sizes)-1, err)
	}
	newest, err := OpenCheckpoint(tr.Head().Raw, tr.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	for i, size := range sizes {
		c, ok, err := SeenAfter(b.folder(), size-1)
		if err != nil || !ok || c.Size != size {
			t.Fatalf("leaf %d: a head of %d leaves, %t, %v", size-1, c.Size, ok, err)
		}
		proof, err := Consistency(b.folder(), c.Size, newest.Size)
		if err != nil {
			t.Fatal(err)
		}
		raw := Earlier{proof, c.Raw}.Encode()
		if got, err := VerifyEarlier(raw, newest, tr.VerifierKey()); err != nil || got.Root != c.Root {
			t.Errorf("%d leaves: %v", size, err)
		}
		for at := range raw {
			bad := bytes.Clone(raw)
			bad[at] ^= 1
			if _, err := VerifyEarlier(bad, newest, tr.VerifierKey()); err == nil {
				t.Errorf("%d leaves: byte %d may be anything", size, at)
			}
		}
		other, _, _ := SeenAfter(b.folder(), sizes[(i+1)%len(sizes)]-1)
		if _, err := VerifyEarlier(Earlier{proof, other.Raw}.Encode(), newest, tr.VerifierKey()); len(proof) > 0 && !errors.Is(err, ErrEarlier) {
			t.Errorf("with another's proof: %v", err)
		}
	}
	if _, ok, err := SeenAfter(b.folder(), newest.Size); ok || err != nil {
		t.Errorf("a leaf that is not there was seen: %v", err)
	}
	b.close(tr)
	b.wantGood(62)
}

func FuzzVerifyEarlier(f *testing.F) {
	f.Add([]byte("\n"))
	f.Add([]byte("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\nx\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := parseEarlier(b); err == nil && !bytes.Equal(e.Encode(), b) {
			t.Error("two spellings")
		}
	})
}
