package trail

import (
	"bytes"
	"errors"
	"testing"
)

// Every leaf has a proof that needs nothing else, and any other bit of leaf or
// proof is refused.
func TestProofOfEachLeaf(t *testing.T) {
	t.Parallel()
	b := filled(t)
	s, err := OpenSnapshot(b.folder())
	if err != nil {
		t.Fatal(err)
	}
	g, err := s.Genesis()
	if err != nil {
		t.Fatal(err)
	}
	var n uint64
	for l, err := range s.Leaves(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		raw, err := s.Raw(l.Index)
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Prove(l.Index)
		if err != nil {
			t.Fatal(err)
		}
		got, err := VerifyProof(raw, p, g.Verifier)
		if err != nil || got.Index != n || !got.equal(l.Leaf) || got.Head.Size != 602 {
			t.Fatalf("leaf %d: %+v, %v", l.Index, got, err)
		}
		n++
	}
	if n != 602 {
		t.Fatalf("%d leaves", n)
	}
	if _, err := s.Prove(602); !errors.Is(err, ErrTile) {
		t.Errorf("a leaf beyond the head: %v", err)
	}
	for _, index := range []uint64{0, 255, 256, 601} {
		raw, _ := s.Raw(index)
		p, _ := s.Prove(index)
		for name, b := range map[string][]byte{"leaf": raw, "proof": p} {
			for bit := range 8 * len(b) {
				b[bit/8] ^= 1 << (bit % 8)
				if _, err := VerifyProof(raw, p, g.Verifier); err == nil {
					t.Fatalf("leaf %d: bit %d of its %s flipped, and still good", index, bit, name)
				}
				b[bit/8] ^= 1 << (bit % 8)
			}
		}
	}
	// The root of a smaller tree is that of the head it had.
	if r, err := s.Root(602); err != nil || r != s.Head().Root {
		t.Errorf("root: %x, %v", r, err)
	}
	if _, err := s.Root(603); !errors.Is(err, ErrTile) {
		t.Errorf("root of more than there is: %v", err)
	}
}

func FuzzVerifyProof(f *testing.F) {
	b := filled(f)
	s, err := OpenSnapshot(b.folder())
	if err != nil {
		f.Fatal(err)
	}
	g, err := s.Genesis()
	if err != nil {
		f.Fatal(err)
	}
	want, _ := s.Raw(300)
	p, err := s.Prove(300)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(want, p)
	f.Fuzz(func(t *testing.T, leaf, b []byte) {
		if got, err := VerifyProof(leaf, b, g.Verifier); err == nil && (got.Index != 300 || !bytes.Equal(leaf, want)) {
			t.Errorf("proved leaf %d: %x", got.Index, leaf)
		}
	})
}
