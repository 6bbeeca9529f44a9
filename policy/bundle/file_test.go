package bundle

import (
	"bytes"
	"errors"
	"testing"
)

func TestJoinSplit(t *testing.T) {
	b, err := Join([]byte("signed"), []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	signed, content, err := Split(b)
	if err != nil || string(signed) != "signed" || string(content) != "content" {
		t.Errorf("%q %q %v", signed, content, err)
	}
	for name, bad := range map[string][]byte{"empty": nil, "cut": b[:len(b)-1], "longer": append(bytes.Clone(b), 0), "huge": make([]byte, MaxFile+1)} {
		if _, _, err := Split(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v, want %v", name, err, ErrMalformed)
		}
	}
}

func FuzzSplit(f *testing.F) {
	b, err := Join([]byte("signed"), []byte("content"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		signed, content, err := Split(in)
		if err != nil {
			return
		}
		if again, err := Join(signed, content); err != nil || !bytes.Equal(in, again) {
			t.Errorf("%x splits but joins as %x (%v)", in, again, err)
		}
	})
}
