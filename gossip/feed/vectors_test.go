package feed

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var update = flag.Bool("update", false, "write new vectors: only when the version of the format grows")

// vectors are testdata/vectors.json: with rest.json, everything a second implementation needs to
// check itself. Certificates in proofs are JSON stand-ins: verifying a certificate
// is no part of the format. All byte strings are hex.
type vectors struct {
	Key          string // PKIX of the epoch key of every record
	Records      []recordVector
	Seal         string // of the last record
	FrontierRoot string // of a frontier with the last record's feed alone
	Proofs       []proofVector
	Cover        coverVector
	Malformed    []malformedVector
}

// coverVector is a cover of the last record's feed in a frontier of three.
type coverVector struct {
	Cover, Checkpoint, Root, Origin, ID string
	Feeds, Epoch, Seq, Index            uint64
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
	joiner := newNode(t, n1, life{EpochKey: key}) // begins with the snapshot among the records
	joiner.Witness(t0.Add(time.Minute), last.Signed)
	for joiner.Missing(1, last.Seq) > 0 {
		r, err := Parse(unhex(t, v.Records[joiner.Next(1)-1].Record))
		if err != nil {
			t.Fatal(err)
		}
		joiner.admit(t0.Add(time.Minute), r)
	}
	if joiner.Head(1) != chain.Head(1) || joiner.Start(1) != last.Base {
		t.Errorf("a joiner's head %+v from %d, want %+v from %d", joiner.Head(1), joiner.Start(1), chain.Head(1), last.Base)
	}
	if got := describeCover(t, unhex(t, v.Cover.Cover), v.Cover); got != v.Cover {
		t.Errorf("cover %+v, want %+v", got, v.Cover)
	}
	classes := map[string]bool{}
	for _, want := range v.Proofs {
		classes[want.Class] = true
		if got := describeProof(t, unhex(t, want.Proof)); got != want {
			t.Errorf("finding %+v, want %+v", got, want)
		}
	}
	if len(classes) != 4 {
		t.Errorf("there are proofs of %v, want one of each class", classes)
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
	for i, leaf := range ls {
		v.Leaves = append(v.Leaves, hex.EncodeToString(leaf))
		var path []string
		for _, h := range treePath(hashes, i) {
			path = append(path, hex.EncodeToString(h[:]))
		}
		v.Paths = append(v.Paths, path)
	}
	for _, op := range ops {
		v.Ops = append(v.Ops, opVector{op.Key, op.Action.String(), hex.EncodeToString(op.Value), op.Scope.String()})
	}
	return v
}

func describeProof(t *testing.T, b []byte) proofVector {
	t.Helper()
	f := finding(t, b)
	return proofVector{hex.EncodeToString(b), f.Accused.String(), f.Class, hex.EncodeToString(f.Digest[:]), f.Attested, f.Epoch, f.LastGood}
}

// describeCover verifies a cover under the checkpoint that v names.
func describeCover(t *testing.T, b []byte, v coverVector) coverVector {
	t.Helper()
	c, err := VerifyCover(b, func(signed []byte, _ spiffeid.TrustDomain) (Checkpoint, error) {
		if hex.EncodeToString(signed) != v.Checkpoint {
			return Checkpoint{}, ErrCover
		}
		return Checkpoint{Root: [32]byte(unhex(t, v.Root)), Feeds: v.Feeds, At: t0}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := parseCover(b)
	if err != nil {
		t.Fatal(err)
	}
	v.Cover, v.Origin, v.ID = hex.EncodeToString(b), c.Feed.Origin.String(), hex.EncodeToString(c.ID[:])
	v.Epoch, v.Seq, v.Index = c.Feed.Epoch, c.Seq, p.Index
	return v
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
	many := []Op{put(KeyOf(n1, KindNode, "self"), ""), del, put(KeyOf(n1, "x-colour", "roof"), "red")}
	for i := range headsPerLeaf {
		many = append(many, put(KeyOf(n1, "x-colour", fmt.Sprint("wall-", i)), "white"))
	}
	for i, d := range []Draft{
		{Ops: []Op{put(svc, "10.0.0.1:443")}, TTL: 300, Policy: "r1"},
		{Ops: many, Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		{TTL: 300},
		{Kind: Snapshot, Ops: []Op{restated(KeyOf(n1, KindNode, "self"), "")}, Parts: 2},
		{Kind: Snapshot, Ops: []Op{restated(KeyOf(n1, "x-colour", "roof"), "red")}, Part: 1, Parts: 2},
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

	three := Frontier{l.Feed(): n.Head(1), {n1, 2}: {Seq: 1, ID: ID{2}}, {n2, 1}: {Seq: 7, ID: ID{7}}}
	signed := []byte("as the authority signed it")
	covers, err := MakeCovers(signed, three, everything)
	if err != nil {
		t.Fatal(err)
	}
	top := three.Root()
	v.Cover = describeCover(t, covers[l.Feed()], coverVector{Checkpoint: hex.EncodeToString(signed), Root: hex.EncodeToString(top[:]), Feeds: three.Size()})

	head := n.Head(1)
	for _, r := range []Record{
		forge(t, l, Header{Seq: 5, Prev: n.records[l.Feed()][4].ID(), HLC: head.HLC}),
		forge(t, l, Header{Seq: 6, Prev: ID{6}, HLC: head.HLC + 1}),
		forge(t, l, Header{Seq: head.Seq + 1, Prev: head.ID, HLC: head.HLC}),
		forge(t, l, Header{Seq: head.Seq + 1, Prev: head.ID, HLC: head.HLC + 1}, append(slices.Repeat([]Op{put(svc, "")}, headsPerLeaf), put(svc, "x"), put(KeyOf(n2, KindService, "shop"), "mine"))...),
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
