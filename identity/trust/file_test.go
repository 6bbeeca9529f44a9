package trust

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestDraftIsSignedByOneAfterTheOther(t *testing.T) {
	a, b := newKey(t), newKey(t)
	r := record(t, "east", east, 1)
	draft, err := Draft(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(draft, publics(a, b), 1, now); !errors.Is(err, ErrUnsigned) || !strings.Contains(err.Error(), "it is a draft that nobody has signed: bailiwick trust sign") {
		t.Errorf("a draft verifies: %v", err)
	}
	file := draft
	for i, step := range []struct {
		key  *ecdsa.PrivateKey
		want int
	}{{a, 1}, {a, 1}, {b, 2}} {
		if file, err = Add(file, step.key); err != nil {
			t.Fatal(err)
		}
		if got, n, err := Read(file); err != nil || n != step.want || got.Region != "east" {
			t.Fatalf("after step %d: %d signatures, %v, want %d", i, n, err, step.want)
		}
	}
	if _, err := Verify(file, publics(a, b), 2, now); err != nil {
		t.Error(err)
	}
	if _, _, err := Read(draft[:len(draft)-1]); !errors.Is(err, ErrMalformed) {
		t.Errorf("half a draft: %v", err)
	}
	if _, err := Add([]byte("no record"), a); !errors.Is(err, ErrMalformed) {
		t.Errorf("added to no record: %v", err)
	}
}

func TestNoRecordIsSignedByAKeyItNames(t *testing.T) {
	r := record(t, "east", east, 1)
	for name, key := range map[string]*ecdsa.PrivateKey{"authority": newKey(t), "policy": newKey(t)} {
		own := r
		if name == "policy" {
			own.PolicyKey = &key.PublicKey
		} else {
			own.AuthorityKey = &key.PublicKey
		}
		if b, err := Sign(own, key); !errors.Is(err, ErrOwnKey) || b != nil {
			t.Errorf("signed by its %s key: %v", name, err)
		}
	}
}

func TestCut(t *testing.T) {
	a := newKey(t)
	one, two := sign(t, record(t, "east", east, 1), a), sign(t, record(t, "west", west, 1), a)
	got, err := Cut(slices.Concat(one, two))
	if err != nil || len(got) != 2 || !bytes.Equal(got[0], one) || !bytes.Equal(got[1], two) {
		t.Errorf("%d records, %v", len(got), err)
	}
	for name, file := range map[string][]byte{
		"empty": {}, "half of the second": slices.Concat(one, two[:len(two)/2]), "rubbish behind": append(bytes.Clone(one), 0),
		"too large": bytes.Repeat(one, MaxFile/len(one)+1),
	} {
		if got, err := Cut(file); !errors.Is(err, ErrMalformed) || got != nil {
			t.Errorf("%s: %d records, %v", name, len(got), err)
		}
	}
}

func TestJudgeChangesNothing(t *testing.T) {
	a := newKey(t)
	s, err := NewSet(publics(a), 1)
	if err != nil {
		t.Fatal(err)
	}
	changed := s.Changed()
	first := sign(t, record(t, "east", east, 1), a)
	if r, news, err := s.Judge(first, now); err != nil || !news || r.Region != "east" {
		t.Fatalf("%+v, %v, %v", r, news, err)
	}
	if _, known := s.Record(east); known {
		t.Error("judging took the record in")
	}
	select {
	case <-changed:
		t.Error("judging announced a change")
	default:
	}
	if _, _, err := s.Apply(first, now); err != nil {
		t.Fatal(err)
	}
	if _, news, err := s.Judge(first, now); err != nil || news {
		t.Errorf("the same again: %v, %v", news, err)
	}
	if _, _, err := s.Judge(sign(t, record(t, "east", east, 1), a), now); !errors.Is(err, ErrConflict) {
		t.Errorf("another content: %v", err)
	}
	if _, _, err := s.Judge(sign(t, record(t, "east", east, 2), newKey(t)), now); !errors.Is(err, ErrUnsigned) {
		t.Errorf("a stranger's: %v", err)
	}
}

func FuzzCut(f *testing.F) {
	a := newKey(f)
	one := sign(f, record(f, "east", east, 1), a)
	draft, err := Draft(record(f, "west", west, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(slices.Concat(one, draft))
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, in []byte) {
		records, err := Cut(in)
		if err == nil && !bytes.Equal(slices.Concat(records...), in) {
			t.Errorf("the parts of %x are not the whole", in)
		}
	})
}
