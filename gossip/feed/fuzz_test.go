package feed

import (
	"bytes"
	"reflect"
	"strings"
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

// readHeader takes what Unmarshal takes, and reads the same.
func FuzzReadHeader(f *testing.F) {
	for _, h := range []Header{
		{},
		{Kind: Ops, Origin: n1.String(), Epoch: 1, Seq: 300, HLC: NewHLC(t0), Policy: "r1", TTL: 1 << 20, Count: 256, Size: 9000, Base: 24},
		{Kind: Snapshot, Origin: n1.String(), Epoch: 9, Seq: 2, Base: 1, Parts: 300, Since: []Place{{8, 24}, {7, 1}}, Traceparent: "00-x"},
		{Since: make([]Place, MaxSince), Policy: "\xff"},
	} {
		b, err := statement.Marshal(h)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > MaxHeader {
			return
		}
		var slowly Header
		want := statement.Unmarshal(b, &slowly) == nil && len(slowly.Since) <= MaxSince
		got, ok := readHeader(b)
		if ok != want || ok && !reflect.DeepEqual(got, slowly) {
			t.Fatalf("%x: %+v %v, slowly %+v %v", b, got, ok, slowly, want)
		}
	})
}

func FuzzVerifyProof(f *testing.F) {
	l := newLife(f, n1, 1, true)
	n := newNode(f, n1, l)
	n.admit(t0, forge(f, l, Header{Seq: 1, HLC: NewHLC(t0)}, put(svc, "a")))
	f.Add(n.admit(t0, forge(f, l, Header{Seq: 1, HLC: NewHLC(t0)}, put(svc, "b"))).Proof)
	f.Add(newNode(f, n1, l).admit(t0, forge(f, l, Header{Seq: 1, HLC: NewHLC(t0)}, put(KeyOf(n2, "node", "x"), ""))).Proof)
	accuser := newLife(f, n2, 3, true)
	recs := write(f, l, t0, 2)
	rec, at := accusing(f, accuser, encoded(f, proof{Form: formPair, Cert: l.Cert, First: recs[0].Statement(), Second: recs[1].Statement()}))
	accusation, _ := Accusation(rec, at, accuser.EpochKey, keyFunc)
	f.Add(accusation)
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

// readBodySlowly is readBody by decoding and encoding again.
func readBodySlowly(body []byte) (ops []Op, root [32]byte, err error) {
	if len(body) > MaxBody {
		return nil, root, ErrTooLarge
	}
	if err := statement.Unmarshal(body, &ops); err != nil {
		return nil, root, err
	}
	if len(ops) > MaxOps {
		return nil, root, ErrTooLarge
	}
	for _, op := range ops {
		if _, err := op.shape(Key{}); err != nil {
			return nil, root, err
		}
	}
	ls, err := leaves(ops)
	return ops, treeRoot(ls), err
}

func FuzzReadBody(f *testing.F) {
	written := Op{Key: svc, Action: Put, Value: []byte("x"), Scope: ScopeZone, Written: &Written{Epoch: 1, Seq: 300, Record: ID{7}, HLC: 1 << 40}}
	many := make([]Op, 30)
	for i := range many {
		many[i] = Op{Key: KeyOf(n2, "x-many", strings.Repeat("n", 1+i)), Action: Put, Value: make([]byte, 20*i), Scope: ScopeGlobal}
	}
	for _, ops := range [][]Op{nil, {put(svc, "v")}, {put(svc, ""), {Key: svc, Action: Del, Scope: ScopeRegion}}, {written, put(svc, "w")}, many} {
		body, err := encodeBody(ops)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		ops, root, err := readBody(body)
		want, wantRoot, wantErr := readBodySlowly(body)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%x: %v, slowly: %v", body, err, wantErr)
		}
		if err != nil {
			return
		}
		if root != wantRoot || len(ops) != len(want) || len(ops) > 0 && !reflect.DeepEqual(ops, want) {
			t.Fatalf("%x: %x %+v, slowly %x %+v", body, root, ops, wantRoot, want)
		}
	})
}
