package feed

import (
	"bytes"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

func FuzzParse(f *testing.F) {
	l := newLife(f, n1, 1, true)
	for _, r := range write(f, l, t0, 2) {
		f.Add(r.Bytes())
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		again, err := statement.Marshal(wireRecord{r.Statement(), r.Body()})
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x parses and re-encodes as %x", b, again)
		}
		header, err := statement.Marshal(r.Header)
		if err != nil || statement.Digest(header) != r.ID() {
			t.Fatalf("header re-encodes as %x", header)
		}
		ops, err := r.Ops()
		if err != nil {
			return
		}
		if body, err := encodeBody(ops); err != nil || !bytes.Equal(body, r.Body()) {
			t.Fatalf("body %x re-encodes as %x", r.Body(), body)
		}
	})
}

func FuzzVerifyProof(f *testing.F) {
	l := newLife(f, n1, 1, true)
	n := newNode(f, n1, l)
	n.admit(t0, forge(f, l, Header{Seq: 1, HLC: NewHLC(t0)}, put(svc, "a")))
	f.Add(n.admit(t0, forge(f, l, Header{Seq: 1, HLC: NewHLC(t0)}, put(svc, "b"))).Proof)
	f.Add(newNode(f, n1, l).admit(t0, forge(f, l, Header{Seq: 1, HLC: NewHLC(t0)}, put(KeyOf(n2, "node", "x"), ""))).Proof)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := VerifyProof(b, keyFunc)
		if err != nil {
			return
		}
		p, err := parseProof(b)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := statement.Marshal(p.proof); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x re-encodes as %x", b, again)
		}
		if got.Accused.IsZero() || got.Class == "" {
			t.Fatalf("finding %+v", got)
		}
	})
}

func FuzzParseSeal(f *testing.F) {
	l := newLife(f, n1, 1, true)
	b, err := SignSeal(l.priv, l.Feed(), 7, ID{1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSeal(b)
		if err != nil {
			return
		}
		again, err := statement.Marshal(headEntry{s.Feed.Origin.String(), s.Feed.Epoch, s.Seq, s.ID})
		if err != nil || !bytes.Equal(again, s.env.Payload()) {
			t.Fatalf("%x re-encodes as %x", s.env.Payload(), again)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{svc, "/a/b/c", "//", "", "/node/n1/x-y/../z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKey(s); err == nil && k.String() != s {
			t.Fatalf("%q parses as %q", s, k)
		}
	})
}
