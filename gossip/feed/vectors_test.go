package feed

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write new vectors: only when the version of the format grows")

// vectors are testdata/vectors.json: everything a second implementation needs to
// check itself. Certificates in proofs are JSON stand-ins: verifying a certificate
// is no part of the format. All byte strings are hex.
type vectors struct {
	Key          string // PKIX of the epoch key of every record
	Records      []recordVector
	Seal         string // of the last record
	FrontierRoot string // of a frontier with the last record's feed alone
	Proofs       []proofVector
	Malformed    []malformedVector
}

type recordVector struct {
	Record, Statement, Header, Body, ID, Root string
	Seq, HLC                                  uint64
	Kind                                      uint8
	Leaves                                    []string
	Paths                                     [][]string // audit path of each leaf
	Ops                                       []opVector
}

type opVector struct {
	Key, Action, Value, Scope string
}

type proofVector struct {
	Proof, Accused, Class, Digest string
	Attested                      bool
	Epoch, LastGood               uint64
}

type malformedVector struct{ Why, Record string }

const vectorFile = "testdata/vectors.json"

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	raw, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	pub, err := x509.ParsePKIXPublicKey(unhex(t, v.Key))
	if err != nil {
		t.Fatal(err)
	}
	key := EpochKey{Origin: n1, Epoch: 1, Key: pub.(*ecdsa.PublicKey), Class: "node", NotAfter: t0.Add(time.Hour)}
	chain := newNode(t, n1, life{EpochKey: key})
	var last Record
	for _, want := range v.Records {
		if last, err = Parse(unhex(t, want.Record)); err != nil {
			t.Fatal(err)
		}
		if res := chain.admit(t0.Add(time.Minute), last); res.Verdict != Admitted {
			t.Fatalf("record %d: %s: %v", want.Seq, res.Verdict, res.Err)
		}
		got := describe(t, last)
		if g, w := toJSON(t, got), toJSON(t, want); g != w {
			t.Errorf("record differs\n got %s\nwant %s", g, w)
		}
	}
	seal, err := ParseSeal(unhex(t, v.Seal))
	if err != nil || seal.ID != last.ID() || seal.Verify(key) != nil {
		t.Errorf("seal %+v: %v", seal, err)
	}
	root := Frontier{key.Feed(): chain.Head(1)}.Root()
	if got := hex.EncodeToString(root[:]); got != v.FrontierRoot {
		t.Errorf("frontier root %s, want %s", got, v.FrontierRoot)
	}
	for _, want := range v.Proofs {
		if got := describeProof(t, unhex(t, want.Proof)); got != want {
			t.Errorf("finding %+v, want %+v", got, want)
		}
	}
	for _, m := range v.Malformed {
		if r, err := Parse(unhex(t, m.Record)); err == nil {
			if _, err = r.Ops(); err == nil {
				t.Errorf("%s: taken", m.Why)
			}
		}
	}
}

func describe(t *testing.T, r Record) recordVector {
	t.Helper()
	ops, err := r.Ops()
	if err != nil {
		t.Fatal(err)
	}
	ls, err := leaves(ops)
	if err != nil {
		t.Fatal(err)
	}
	hashes := make([][32]byte, len(ls))
	for i := range ls {
		hashes[i] = leafHash(ls[i])
	}
	id := r.ID()
	v := recordVector{
		Record: hex.EncodeToString(r.Bytes()), Statement: hex.EncodeToString(r.Statement()), Header: hex.EncodeToString(r.env.Payload()),
		Body: hex.EncodeToString(r.Body()), ID: hex.EncodeToString(id[:]), Root: hex.EncodeToString(r.Root[:]),
		Seq: r.Seq, HLC: uint64(r.HLC), Kind: uint8(r.Kind),
	}
	for i, op := range ops {
		v.Leaves = append(v.Leaves, hex.EncodeToString(ls[i]))
		var path []string
		for _, h := range treePath(hashes, i) {
			path = append(path, hex.EncodeToString(h[:]))
		}
		v.Paths = append(v.Paths, path)
		v.Ops = append(v.Ops, opVector{op.Key, op.Action.String(), hex.EncodeToString(op.Value), op.Scope.String()})
	}
	return v
}

func describeProof(t *testing.T, b []byte) proofVector {
	t.Helper()
	f := finding(t, b)
	return proofVector{hex.EncodeToString(b), f.Accused.String(), f.Class, hex.EncodeToString(f.Digest[:]), f.Attested, f.Epoch, f.LastGood}
}

func writeVectors(t *testing.T) {
	l := newLife(t, n1, 1, true)
	pub, err := x509.MarshalPKIXPublicKey(&l.priv.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	v := vectors{Key: hex.EncodeToString(pub)}
	n := newNode(t, n1, l)
	w, err := NewWriter(n.Chain, 1, l.priv)
	if err != nil {
		t.Fatal(err)
	}
	del := Op{Key: svc, Action: Del, Scope: ScopeZone}
	for i, d := range []Draft{
		{Ops: []Op{put(svc, "10.0.0.1:443")}, TTL: 300, Policy: "r1"},
		{Ops: []Op{put(KeyOf(n1, KindNode, "self"), ""), del, put(KeyOf(n1, "x-colour", "roof"), "red")}, Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		{TTL: 300},
		{Kind: Snapshot, Ops: []Op{put(KeyOf(n1, KindNode, "self"), "")}},
		{Kind: Leave},
	} {
		r, err := w.Next(t0.Add(time.Duration(i/2)*time.Second), d)
		if err != nil {
			t.Fatal(err)
		}
		want(t, n.admit(t0.Add(time.Minute), r), Admitted)
		v.Records = append(v.Records, describe(t, r))
	}
	seal, err := w.Seal()
	if err != nil {
		t.Fatal(err)
	}
	v.Seal = hex.EncodeToString(seal)
	root := Frontier{l.Feed(): n.Head(1)}.Root()
	v.FrontierRoot = hex.EncodeToString(root[:])

	head := n.Head(1)
	for _, r := range []Record{
		forge(t, l, Header{Seq: 5, Prev: n.records[l.Feed()][4].ID(), HLC: head.HLC}),
		forge(t, l, Header{Seq: 6, Prev: ID{6}, HLC: head.HLC + 1}),
		forge(t, l, Header{Seq: 6, Prev: head.ID, HLC: head.HLC}),
		forge(t, l, Header{Seq: 6, Prev: head.ID, HLC: head.HLC + 1}, put(svc, ""), put(svc, "x"), put(KeyOf(n2, KindService, "shop"), "mine")),
	} {
		v.Proofs = append(v.Proofs, describeProof(t, n.admit(t0.Add(time.Minute), r).Proof))
	}
	soft := newLife(t, n1, 3, false)
	n = newNode(t, n1, soft)
	want(t, n.admit(t0, forge(t, soft, Header{Seq: 1, HLC: NewHLC(t0)})), Admitted)
	v.Proofs = append(v.Proofs, describeProof(t, n.admit(t0, forge(t, soft, Header{Seq: 1, HLC: NewHLC(t0) + 1})).Proof))

	good := unhex(t, v.Records[0].Record)
	v.Malformed = []malformedVector{
		{"trailing byte", hex.EncodeToString(append(good[:len(good):len(good)], 0))},
		{"truncated", hex.EncodeToString(good[:len(good)-1])},
		{"longer head than needed", "b802" + hex.EncodeToString(good[1:])},
		{"empty", ""},
	}
	if err := os.WriteFile(vectorFile, []byte(toJSON(t, v)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
