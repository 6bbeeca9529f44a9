package trail

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// filled returns a closed trail of 602 leaves.
func filled(t testing.TB) *bench {
	b := newBench(t)
	tr := b.open()
	for i := range 6 {
		b.put(100*i, 100)
		b.flush(tr)
	}
	b.close(tr)
	b.wantGood(602)
	return b
}

func (b *bench) change(name string, f func([]byte) []byte) (undo func()) {
	b.Helper()
	path := filepath.Join(b.folder(), name)
	raw, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, f(bytes.Clone(raw)), 0o644); err != nil {
		b.Fatal(err)
	}
	return func() {
		if err := os.WriteFile(path, raw, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

// Whichever bit of whichever file under the head is flipped, it shows, and a
// leaf that was changed is named.
func TestEveryFlipShows(t *testing.T) {
	t.Parallel()
	b := filled(t)
	start := map[string][]int{} // offsets of the leaves of each bundle
	for i, name := range []string{"tile/entries/000", "tile/entries/001", "tile/entries/002.p/90"} {
		raw, err := tiles{dir: b.folder(), size: 602}.bundle(uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		at := 0
		for _, l := range raw {
			start[name] = append(start[name], at)
			at += 2 + len(l)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{
		"checkpoint", "tile/entries/000", "tile/entries/001", "tile/entries/002.p/90",
		"tile/0/000", "tile/0/001", "tile/0/002.p/90", "tile/1/000.p/2",
	} {
		for range 60 {
			var pos, bit int
			undo := b.change(name, func(raw []byte) []byte {
				pos, bit = rnd.IntN(len(raw)), rnd.IntN(8)
				raw[pos] ^= 1 << bit
				return raw
			})
			r := b.verify()
			undo()
			if r.Integrity.Good || r.Completeness.Good || r.Integrity.Err == nil {
				t.Fatalf("%s: byte %d, bit %d: not found", name, pos, bit)
			}
			leaves, isBundle := start[name]
			if !isBundle {
				continue
			}
			var index, base int
			_, _ = fmt.Sscanf(name, "tile/entries/%03d", &base)
			for i, at := range leaves {
				if at <= pos {
					index = i
				}
			}
			if got := r.Integrity.Leaf; got != int64(256*base+index) && !(base == 0 && index == 0) {
				t.Fatalf("%s: byte %d, bit %d: leaf %d blamed, not %d: %v", name, pos, bit, got, 256*base+index, r.Integrity)
			}
			if index > 0 && r.Integrity.At.IsZero() {
				t.Fatalf("%s: no time with leaf %d", name, index)
			}
		}
	}
	b.wantGood(602)
}

func TestTampering(t *testing.T) {
	t.Parallel()
	b := filled(t)
	old, err := os.ReadFile(filepath.Join(b.folder(), "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	vkey := b.verify().VerifierKey
	remembered, err := OpenCheckpoint(old, vkey)
	if err != nil {
		t.Fatal(err)
	}
	origin := remembered.Origin
	forge := func(key *switchKey, size uint64, change byte) func([]byte) []byte {
		return func([]byte) []byte {
			s, err := newSigner(origin, key)
			if err != nil {
				t.Fatal(err)
			}
			root, err := tiles{dir: b.folder(), size: 602}.root(size)
			if err != nil {
				t.Fatal(err)
			}
			root[0] ^= change
			c, err := s.head(size, root, [32]byte{})
			if err != nil {
				t.Fatal(err)
			}
			return c.Raw
		}
	}
	cut := func(n int) func([]byte) []byte { return func(raw []byte) []byte { return raw[:len(raw)-n] } }
	for name, tc := range map[string]struct {
		file      string
		change    func([]byte) []byte
		integrity error
		complete  error
		leaf      int64
	}{
		"tail cut inside a leaf": {"tile/entries/002.p/90", cut(3), ErrTile, ErrUnjudged, 601},
		"tail cut off":           {"tile/entries/002.p/90", cut(1000), ErrTile, ErrUnjudged, -2},
		"something appended":     {"tile/entries/002.p/90", func(raw []byte) []byte { return append(raw, 0) }, ErrTile, ErrUnjudged, 602},
		"tile too short":         {"tile/0/001", cut(32), ErrTile, ErrUnjudged, 256},
		"head of another key":    {"checkpoint", forge(newKey(t), 602, 0), ErrCheckpoint, ErrUnjudged, -1},
		"head of another tree":   {"checkpoint", forge(b.key, 602, 1), ErrRoot, ErrUnjudged, -1},
		"older head":             {"checkpoint", forge(b.key, 402, 0), nil, ErrBeyond, 402},
		"head signed again":      {"checkpoint", forge(b.key, 602, 0), nil, nil, 0},
		"empty head":             {"checkpoint", forge(b.key, 0, 0), ErrLeaf, ErrUnjudged, -1},
		"head of two lines":      {"checkpoint", func(raw []byte) []byte { return raw[:20] }, ErrCheckpoint, ErrUnjudged, -1},
	} {
		undo := b.change(tc.file, tc.change)
		r := b.verify()
		undo()
		if !errors.Is(r.Integrity.Err, tc.integrity) || !errors.Is(r.Completeness.Err, tc.complete) ||
			r.Integrity.Good != (tc.integrity == nil) || r.Completeness.Good != (tc.complete == nil) {
			t.Errorf("%s: integrity %v, completeness %v", name, r.Integrity, r.Completeness)
		}
		v := r.Integrity
		if tc.integrity == nil {
			v = r.Completeness
		}
		if tc.leaf != -2 && v.Leaf != tc.leaf {
			t.Errorf("%s: leaf %d, want %d", name, v.Leaf, tc.leaf)
		}
	}

	for _, missing := range []string{"tile/entries/001", "tile/0/001", "tile/1/000.p/2", "checkpoint"} {
		path := filepath.Join(b.folder(), missing)
		if err := os.Rename(path, path+"~"); err != nil {
			t.Fatal(err)
		}
		if r := b.verify(); r.Integrity.Good || r.Completeness.Good {
			t.Errorf("%s is missing and nobody saw", missing)
		}
		if err := os.Rename(path+"~", path); err != nil {
			t.Fatal(err)
		}
	}

	// Everything was put back as it was at 402 leaves, and went on otherwise.
	for _, k := range []Checkpoint{remembered, {Origin: origin, Size: 700}, {Origin: origin, Size: 300, Root: sha256.Sum256(nil)}} {
		r, err := Verify(t.Context(), b.folder(), Options{VerifierKey: vkey, Known: &k})
		if err != nil || r.Good() != (k.Size == 602) || !r.Good() && !errors.Is(r.Completeness.Err, ErrRollback) {
			t.Errorf("known head of %d: %v %v %v", k.Size, r.Integrity, r.Completeness, err)
		}
	}
}

// A node that holds the key can sign what it likes; what it cannot do is leave
// something out, repeat it, or take over a foreign leaf.
func TestForeignLeaves(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	leaf := func(seq uint64, kind Kind) Leaf { return Leaf{Seq: seq, Kind: kind.name, At: at, Body: []byte{0xa0}} }
	gap := func(seq, from uint64) Leaf { return gapLeaf(seq, at, Gap{Count: 1, Why: "test", From: from}) }
	last := uint64(4) // sequence of the last leaf of the trail made below
	for name, tc := range map[string]struct {
		leaves    []Leaf
		integrity error
		complete  error
		index     int64
	}{
		"next":             {[]Leaf{leaf(last+1, StateOut)}, nil, nil, 0},
		"gap of none":      {[]Leaf{gap(last, 0), leaf(last+1, StateOut)}, nil, nil, 0},
		"gap of two":       {[]Leaf{gap(last+2, last+1), leaf(last+3, StateOut)}, nil, nil, 0},
		"hole":             {[]Leaf{leaf(last+1, StateOut), leaf(last+3, StateOut)}, nil, ErrSequence, 6},
		"twice":            {[]Leaf{leaf(last, StateOut)}, nil, ErrSequence, 5},
		"back":             {[]Leaf{leaf(1, StateOut)}, nil, ErrSequence, 5},
		"gap elsewhere":    {[]Leaf{gap(last+2, last+2)}, nil, ErrSequence, 5},
		"gap backwards":    {[]Leaf{gap(last-1, last+1)}, nil, ErrSequence, 5},
		"second genesis":   {[]Leaf{leaf(last+1, genesisKind)}, ErrLeaf, ErrUnjudged, 5},
		"gap without body": {[]Leaf{leaf(last+1, gapKind)}, nil, nil, 0},
	} {
		b := newBench(t)
		tr := b.open()
		b.put(0, 3)
		b.close(tr)
		s, err := newSigner(tr.w.signer.origin, b.key)
		if err != nil {
			t.Fatal(err)
		}
		w, err := openWriter(b.folder(), s, func() [32]byte { return [32]byte{} })
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.grow(tc.leaves), w.publish()); err != nil {
			t.Fatal(err)
		}
		r := b.verify()
		if name == "gap without body" { // an empty map has neither count nor reason
			tc.integrity, tc.complete, tc.index = ErrLeaf, ErrUnjudged, 5
		}
		v := r.Completeness
		if tc.integrity != nil {
			v = r.Integrity
		}
		if !errors.Is(r.Integrity.Err, tc.integrity) || !errors.Is(r.Completeness.Err, tc.complete) || (r.Good() != (tc.complete == nil)) || v.Leaf != tc.index && !v.Good {
			t.Errorf("%s: integrity %v, completeness %v", name, r.Integrity, r.Completeness)
		}
	}
}

func TestTrust(t *testing.T) {
	b := filled(t)
	for name, o := range map[string]Options{
		"another node": {Node: spiffeid.RequireFromString("spiffe://east.dev.example/node/east-n2")},
		"another key":  {VerifierKey: must(VerifierKey("east.dev.example/trail/east-n1/1", newKey(t).Public()))(t)},
		"another name": {VerifierKey: must(VerifierKey("east.dev.example/trail/east-n2/1", b.key.Public()))(t)},
	} {
		if r, err := Verify(t.Context(), b.folder(), o); err != nil || r.Integrity.Good || r.Good() {
			t.Errorf("%s: %v, %v", name, r.Integrity, err)
		}
	}
	if _, err := Verify(t.Context(), b.folder(), Options{}); !errors.Is(err, ErrNoTrust) {
		t.Errorf("no trust: %v", err)
	}
	if _, err := Verify(t.Context(), t.TempDir(), Options{Node: testNode}); !errors.Is(err, ErrNoTrail) {
		t.Errorf("no trail: %v", err)
	}
	if _, err := Verify(t.Context(), b.folder(), Options{VerifierKey: "x"}); !errors.Is(err, ErrKey) {
		t.Errorf("no key: %v", err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(done, b.folder(), Options{Node: testNode}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if (Report{}).Good() || (Verdict{}).String() != "not judged" {
		t.Error("the zero report approves")
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestFork(t *testing.T) {
	key := newKey(t)
	s, err := newSigner("east.dev.example/trail/east-n1/1", key)
	if err != nil {
		t.Fatal(err)
	}
	head := func(size uint64, root string) []byte {
		c, err := s.head(size, sha256.Sum256([]byte(root)), [32]byte{})
		if err != nil {
			t.Fatal(err)
		}
		return c.Raw
	}
	for _, tc := range []struct {
		a, b []byte
		fork bool
	}{
		{head(5, "x"), head(5, "x"), false},
		{head(5, "x"), head(5, "y"), true},
		{head(5, "x"), head(6, "y"), false},
	} {
		if got, err := Fork(tc.a, tc.b, s.vkey); got != tc.fork || err != nil {
			t.Errorf("fork %v, %v; want %v", got, err, tc.fork)
		}
	}
	if got, err := Fork(head(5, "x"), bytes.Replace(head(5, "y"), []byte("5"), []byte("6"), 1), s.vkey); got || !errors.Is(err, ErrCheckpoint) {
		t.Errorf("an unsigned head: %v, %v", got, err)
	}
	if !strings.HasPrefix(s.vkey, s.origin+"+") {
		t.Errorf("verifier key %s", s.vkey)
	}
}

// A reader in step with a running writer never sees a broken trail.
func TestVerifyWhileWriting(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.cfg.Every = time.Millisecond
	tr := b.open()
	var writers sync.WaitGroup
	stop := make(chan struct{})
	writers.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := b.s.Update(func(tx *store.Tx) error { return Append(tx, AdminAction, map[string]int{"n": i}) }); err != nil {
				t.Error(err)
				return
			}
		}
	})
	sizes := map[uint64]bool{}
	for start := time.Now(); len(sizes) < 20 && time.Since(start) < time.Minute; {
		r := b.verify()
		if !r.Good() {
			t.Errorf("integrity %v, completeness %v", r.Integrity, r.Completeness)
			break
		}
		sizes[r.Size] = true
	}
	close(stop)
	writers.Wait()
	b.close(tr)
	if len(sizes) < 20 {
		t.Errorf("only %d heads seen", len(sizes))
	}
	b.wantNumbers(len(b.numbers()))
}

func FuzzParseLeaf(f *testing.F) {
	for _, l := range []Leaf{{Kind: "genesis"}, {Seq: 1 << 40, Kind: "x.y", At: time.UnixMilli(-1) /* a wrong clock */, Body: []byte{0xa0}}} {
		b, err := l.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("\xa4\x01\x00\x02e00000\x03;00000000\x04@")) // a time after the year 9999
	f.Add([]byte{0xa4, 1, 0x18, 1, 2, 0x61, 'a', 3, 0, 4, 0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLeaf(b)
		if err != nil {
			return
		}
		if again, err := l.encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x parses but re-encodes as %x, %v", b, again, err)
		}
		if _, err := (Indexed{0, l}).MarshalJSON(); err != nil {
			t.Errorf("%x: %v", b, err)
		}
	})
}

func FuzzOpenCheckpoint(f *testing.F) {
	const vkey = "rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLOC96l+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc="
	if _, err := newVerifier(vkey); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("rekor.sigstore.dev\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— rekor.sigstore.dev wNI9ajBFAiEA\n"))
	f.Add([]byte("a\n1\n\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := PeekCheckpoint(b); err != nil && !errors.Is(err, ErrCheckpoint) {
			t.Error(err)
		}
		if c, err := OpenCheckpoint(b, vkey); err == nil {
			t.Errorf("a head nobody signed: %+v", c)
		}
	})
}
