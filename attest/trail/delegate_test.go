package trail

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

func TestDelegation(t *testing.T) {
	key, other := newKey(t), newKey(t)
	origin, err := Origin(testNode, 1)
	if err != nil {
		t.Fatal(err)
	}
	vkey, _ := VerifierKey(origin, key.Public())
	theirs, _ := VerifierKey(origin, other.Public())
	since := time.Unix(1_795_262_400, 0).UTC()
	raw, err := Delegate(key, origin, "east/witness/n1+aa+BB=", since)
	if err != nil {
		t.Fatal(err)
	}
	d, err := OpenDelegation(raw, vkey)
	if err != nil || d != (Delegation{origin, "east/witness/n1+aa+BB=", since}) {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := OpenDelegation(raw, theirs); !errors.Is(err, ErrDelegation) {
		t.Errorf("by another key: %v", err)
	}
	for _, to := range []string{"", "two words", "two\nlines", string(make([]byte, 2<<10))} {
		if _, err := Delegate(key, origin, to, since); !errors.Is(err, ErrDelegation) {
			t.Errorf("%.20q: %v", to, err)
		}
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if got, err := OpenDelegation(bad, vkey); err == nil && got != d {
			t.Errorf("byte %d may be anything: %+v", i, got)
		}
	}
	// A head is no delegation, and the other way round.
	s, _ := newSigner(origin, key)
	head, err := s.head(3, [32]byte{1}, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDelegation(head.Raw, vkey); !errors.Is(err, ErrDelegation) {
		t.Errorf("a head is a delegation: %v", err)
	}
	if _, err := OpenCheckpoint(raw, vkey); !errors.Is(err, ErrCheckpoint) {
		t.Errorf("a delegation is a head: %v", err)
	}
}

func FuzzOpenDelegation(f *testing.F) {
	key := newKey(f)
	origin, _ := Origin(testNode, 1)
	vkey, _ := VerifierKey(origin, key.Public())
	raw, err := Delegate(key, origin, "k", time.Unix(1, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := OpenDelegation(b, vkey); err == nil && d.To != "k" {
			t.Errorf("%+v was never signed", d)
		}
	})
}
