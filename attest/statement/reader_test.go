package statement

import (
	"bytes"
	"math"
	"testing"
)

func TestReader(t *testing.T) {
	type inner struct {
		N uint64 `cbor:"1,keyasint"`
		B []byte `cbor:"2,keyasint"`
		T string `cbor:"3,keyasint"`
	}
	for _, n := range []uint64{0, 23, 24, 255, 256, 1<<16 - 1, 1 << 16, 1<<32 - 1, 1 << 32, math.MaxUint64} {
		size := min(n, 70_000)
		want := inner{n, bytes.Repeat([]byte{7}, int(size)), string(bytes.Repeat([]byte{'x'}, int(size)))}
		b, err := Marshal([]inner{want})
		if err != nil {
			t.Fatal(err)
		}
		read := func(b []byte) (got inner, ok bool) {
			r := NewReader(b)
			r.Require(r.Array() == 1)
			r.Require(r.Map() == 3)
			r.Label(1)
			got.N = r.Uint()
			r.Label(2)
			got.B = r.Bytes()
			r.Label(3)
			got.T = string(r.Text())
			return got, r.Done()
		}
		got, ok := read(b)
		if !ok || got.N != n || !bytes.Equal(got.B, want.B) || got.T != want.T {
			t.Errorf("%d: read %d, %d bytes, %d characters, %v", n, got.N, len(got.B), len(got.T), ok)
		}
		for _, cut := range []int{0, 1, 3, len(b) / 2, len(b) - 1} {
			if _, ok := read(b[:cut]); ok {
				t.Errorf("%d: read %d of %d bytes", n, cut, len(b))
			}
		}
		if _, ok := read(append(bytes.Clone(b), 0)); ok {
			t.Errorf("%d: a byte too many was taken", n)
		}
	}
}

// Whatever Unmarshal refuses as a number, Reader does too.
func FuzzReaderUint(f *testing.F) {
	for _, b := range [][]byte{{0}, {24, 23}, {24, 24}, {25, 0, 255}, {25, 1, 0}, {26, 0, 0, 255, 255}, {27, 0, 0, 0, 0, 255, 255, 255, 255}, {27, 0, 0, 0, 1, 0, 0, 0, 0}, {31}, {28}} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 16 {
			return
		}
		var want uint64
		err := Unmarshal(b, &want)
		r := NewReader(b)
		if got := r.Uint(); r.Done() != (err == nil) || err == nil && got != want {
			t.Fatalf("%x: read %d, %v; Unmarshal %d, %v", b, got, r.Done(), want, err)
		}
	})
}
