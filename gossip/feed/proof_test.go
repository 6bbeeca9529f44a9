package feed

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// fork returns two records with one seq that an equivocator signed, and what came before.
func fork(t *testing.T, l life) (before []Record, a, b Record) {
	t.Helper()
	before = write(t, l, t0, 3)
	h := Header{Seq: 4, Prev: before[2].ID(), HLC: NewHLC(t0.Add(time.Second))}
	return before, forge(t, l, h, put(svc, "a")), forge(t, l, h, put(svc, "b"))
}

func TestEquivocationIsTheSameFindingEverywhere(t *testing.T) {
	l := newLife(t, n1, 1, true)
	before, a, b := fork(t, l)
	now := t0.Add(2 * time.Second)
	var findings []Finding
	for _, order := range [][2]Record{{a, b}, {b, a}} {
		n := newNode(t, n1, l)
		for _, r := range before {
			want(t, n.admit(now, r), Admitted)
		}
		want(t, n.admit(now, order[0]), Admitted)
		res := n.admit(now, order[1])
		want(t, res, Fork)
		findings = append(findings, finding(t, res.Proof))
		f := findings[0]
		if !n.FreezeAt(f.Epoch, f.LastGood) || n.FreezeAt(f.Epoch, f.LastGood) {
			t.Error("freezing is news once")
		}
		if h := n.Head(1); h.Seq != 3 {
			t.Errorf("head %d after the freeze, want the last common record 3", h.Seq)
		}
		want(t, n.admit(now, order[0]), Frozen)
		if !n.Suspect() {
			t.Error("frozen and not suspect")
		}
	}
	parked := newNode(t, n1, l) // two that are both ahead of a gap
	want(t, parked.admit(now, b), ParkedGap)
	res := parked.admit(now, a)
	want(t, res, Fork)
	findings = append(findings, finding(t, res.Proof))
	for _, f := range findings {
		if f != findings[0] {
			t.Errorf("findings differ: %+v, %+v", f, findings[0])
		}
	}
	if f := findings[0]; f.Accused != n1 || f.Class != ClassEquivocation || !f.Attested || !f.Convicts() || f.LastGood != 3 {
		t.Errorf("finding %+v", f)
	}
}

func TestDigestIgnoresSignatureBytes(t *testing.T) {
	l := newLife(t, n1, 1, true)
	before, a, b := fork(t, l)
	n := newNode(t, n1, l)
	for _, r := range before {
		want(t, n.admit(t0.Add(time.Minute), r), Admitted)
	}
	want(t, n.admit(t0.Add(time.Minute), a), Admitted)
	first := finding(t, n.admit(t0.Add(time.Minute), b).Proof)
	other := reSign(t, b)
	if bytes.Equal(other.Statement(), b.Statement()) {
		t.Fatal("same signature")
	}
	res := n.admit(t0.Add(time.Minute), other)
	want(t, res, Fork)
	if f := finding(t, res.Proof); f != first {
		t.Errorf("malleated signature gave %+v, want %+v", f, first)
	}
}

// reSign turns (r, s) into (r, n-s), which verifies as well.
func reSign(t *testing.T, r Record) Record {
	t.Helper()
	order, _ := new(big.Int).SetString("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
	st := bytes.Clone(r.Statement())
	s := new(big.Int).SetBytes(st[len(st)-32:])
	s.Sub(order, s).FillBytes(st[len(st)-32:])
	raw, err := statement.Marshal(wireRecord{st, r.Body()})
	if err != nil {
		t.Fatal(err)
	}
	out, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestForkWithoutTPMNeverConvicts(t *testing.T) {
	l := newLife(t, n1, 1, false)
	_, a, b := fork(t, l)
	n := newNode(t, n1, l)
	want(t, n.admit(t0.Add(time.Minute), a), ParkedGap)
	res := n.admit(t0.Add(time.Minute), b)
	want(t, res, Fork)
	if f := finding(t, res.Proof); f.Class != ClassForkUnattested || f.Attested || f.Convicts() {
		t.Errorf("finding %+v", f)
	}
}

func TestForeignKeyProofIsShort(t *testing.T) {
	l := newLife(t, n1, 1, true)
	for _, count := range []int{1, 2, 3, 8, 9, 100, MaxOps} {
		for _, at := range []int{0, count / 2, count - 1} {
			var ops []Op
			for i := range count {
				ops = append(ops, put(fmt.Sprint(svc, i), "v"))
			}
			ops[at].Key = KeyOf(n2, KindService, "shop")
			ops[at].Value = make([]byte, 2000)
			n := newNode(t, n1, l)
			res := n.admit(t0, forge(t, l, Header{Seq: 1, HLC: NewHLC(t0)}, ops...))
			want(t, res, ForeignKey)
			if key, op, ok := ForeignKeyOf(res.Proof); key != ops[at].Key || op != at || !ok {
				t.Errorf("the proof is about op %d, %s, want %d", op, key, at)
			}
			if len(res.Proof) > 2<<10 {
				t.Errorf("proof of %d bytes", len(res.Proof))
			}
			if f := finding(t, res.Proof); f.Class != ClassForeignKey || f.LastGood != 0 || !f.Convicts() {
				t.Errorf("finding %+v", f)
			}
			if err := DefaultKinds()[KindEvidence](EvidenceName(finding(t, res.Proof).Digest), res.Proof); err != nil {
				t.Error(err)
			}
		}
	}
}

// The largest proof about a key has eight keys as long as they may be, of a snapshot.
func TestForeignKeyProofFits(t *testing.T) {
	l := newLife(t, n1, 1, true)
	var ops []Op
	for i := range 3 * headsPerLeaf {
		op := restated("", "v")
		op.Written.Epoch, op.Written.Seq, op.Written.HLC = 1<<40, 1<<40, 1<<63
		op.Key = KeyOf(n2, "x-"+strings.Repeat("k", maxKind-2), fmt.Sprintf("%0*d", maxName, i))
		op.Key = "/" + strings.Repeat("o", MaxKey-len(op.Key)-1) + op.Key
		ops = append(ops, op)
	}
	l.Epoch = 1<<40 + 1
	n := newNode(t, n1, l)
	res := n.admit(t0, forge(t, l, Header{Kind: Snapshot, Seq: 1, Base: 1, Parts: 1, HLC: NewHLC(t0)}, ops...))
	want(t, res, ForeignKey)
	p, err := parseProof(res.Proof)
	if err != nil {
		t.Fatal(err)
	}
	most := len(res.Proof) - len(p.First) + MaxHeader - len(p.Cert) + MaxCert + 4*34 // of eight times the leaves
	if most > MaxProof || most < MaxProof-1<<10 {
		t.Errorf("a proof may have %d bytes, and MaxProof is %d", most, MaxProof)
	}
}

// Whatever a liar on the path does with an honest node's records and name, no
// proof comes of it.
func TestFraming(t *testing.T) {
	l, thief := newLife(t, n1, 1, true), newLife(t, n1, 1, true)
	recs := write(t, l, t0, 4)
	now := t0.Add(time.Second)
	swap := func(r Record, body []byte) Record {
		raw, err := statement.Marshal(wireRecord{r.Statement(), body})
		if err != nil {
			t.Fatal(err)
		}
		out, err := Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	foreign, err := encodeBody([]Op{put(KeyOf(n2, KindService, "shop"), "x")})
	if err != nil {
		t.Fatal(err)
	}
	nine := slices.Repeat([]head{{Key: KeyOf(n2, KindService, "x"), Action: Put, Scope: ScopeZone}}, 9)
	one, err := statement.Marshal(nine[:1])
	if err != nil {
		t.Fatal(err)
	}
	crowded, err := statement.Marshal(nine)
	if err != nil {
		t.Fatal(err)
	}
	forged := forge(t, thief, Header{Seq: 3, Prev: recs[1].ID(), HLC: recs[2].HLC + 9}, put(svc, "evil"))
	for _, tc := range []struct {
		name string
		bad  Record
		want Verdict
	}{
		{"garbage body under an honest header", swap(recs[2], []byte("garbage")), BodyMismatch},
		{"another record's body", swap(recs[2], recs[1].Body()), BodyMismatch},
		{"foreign key in the body", swap(recs[2], foreign), BodyMismatch},
		{"forged header with its name", forged, BadSignature},
		{"garbage body ahead of a gap", swap(recs[3], foreign), BodyMismatch},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t, n1, l)
			for _, r := range recs[:2] {
				want(t, n.admit(now, r), Admitted)
			}
			res := n.admit(now, tc.bad)
			want(t, res, tc.want)
			if !res.Verdict.RelayFault() {
				t.Error("must be the relay's fault")
			}
			for _, r := range recs[2:] { // and the honest records are not hurt by it
				want(t, n.admit(now, r), Admitted)
			}
		})
	}
	t.Run("a bad signature first", func(t *testing.T) {
		n := newNode(t, n1, l)
		bad := recs[0]
		st := bytes.Clone(bad.Statement())
		st[len(st)-1] ^= 1
		raw, err := statement.Marshal(wireRecord{st, bad.Body()})
		if err != nil {
			t.Fatal(err)
		}
		if bad, err = Parse(raw); err != nil {
			t.Fatal(err)
		}
		want(t, n.admit(now, bad), BadSignature)
		want(t, n.admit(now, recs[0]), Admitted)
	})
	t.Run("a restored disk with a new epoch", func(t *testing.T) {
		second := newLife(t, n1, 2, true)
		n := newNode(t, n1, l, second)
		for _, r := range recs {
			want(t, n.admit(now, r), Admitted)
		}
		for i, r := range write(t, second, t0.Add(100*time.Millisecond), 4) {
			if i == 0 && r.Prev != (ID{}) {
				t.Fatal("this disk had nothing left")
			}
			want(t, n.admit(now, r), Admitted)
		}
	})
	t.Run("made-up proofs", func(t *testing.T) {
		_, a, b := fork(t, thief)
		cert, heads := l.Cert, func(op Op) []byte { x, _ := leaves([]Op{op}); return x[1] }
		if bytes.Compare(a.id[:], b.id[:]) > 0 {
			a, b = b, a
		}
		for name, p := range map[string]proof{
			"another key's headers":         {Form: formPair, Cert: cert, First: a.Statement(), Second: b.Statement()},
			"one header twice":              {Form: formPair, Cert: cert, First: recs[2].Statement(), Second: recs[2].Statement()},
			"honest neighbours":             {Form: formPair, Cert: cert, First: recs[1].Statement(), Second: recs[2].Statement()},
			"honest and far apart":          {Form: formPair, Cert: cert, First: recs[0].Statement(), Second: recs[2].Statement()},
			"an op it never wrote":          {Form: formKey, Cert: cert, First: recs[1].Statement(), Leaf: heads(put(KeyOf(n2, KindService, "x"), "")), Index: 1},
			"its own key":                   {Form: formKey, Cert: cert, First: recs[1].Statement(), Leaf: heads(put(svc, "v1")), Index: 1},
			"more heads than a leaf has":    {Form: formKey, Cert: cert, First: signHeader(t, l, Header{Seq: 1, HLC: 1, Count: 1, Root: treeRoot([][]byte{{0x80}, crowded})}), Leaf: crowded, Index: 1, Path: [][32]byte{leafHash([]byte{0x80})}},
			"a leaf no deeper than another": {Form: formKey, Cert: cert, First: signHeader(t, l, Header{Seq: 1, HLC: 1, Count: 9, Root: treeRoot([][]byte{{0x80}, one})}), Leaf: one, Index: 1, Path: [][32]byte{leafHash([]byte{0x80})}},
			"a form nobody knows":           {Form: 9, Cert: cert, First: recs[1].Statement()},
			"two epochs":                    {Form: formPair, Cert: cert, First: recs[1].Statement(), Second: write(t, newLife(t, n1, 2, true), t0, 2)[1].Statement()},
			"two origins":                   {Form: formPair, Cert: cert, First: recs[1].Statement(), Second: forge(t, newLife(t, n2, 1, true), Header{Seq: 2, HLC: 1}).Statement()},
			"no certificate":                {Form: formPair, First: a.Statement(), Second: b.Statement()},
			"the thief's own header":        {Form: formPair, Cert: cert, First: recs[2].Statement(), Second: forged.Statement()},
		} {
			raw, err := statement.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			if f, err := VerifyProof(raw, keyFunc); !errors.Is(err, ErrProof) {
				t.Errorf("%s: finding %+v, error %v", name, f, err)
			}
		}
	})
}

func TestUncheckableProofBlamesNobody(t *testing.T) {
	l := newLife(t, n1, 1, true)
	_, a, b := fork(t, l)
	n := newNode(t, n1, l)
	n.admit(t0.Add(time.Minute), a)
	res := n.admit(t0.Add(time.Minute), b)
	_, err := VerifyProof(res.Proof, func([]byte) (EpochKey, error) { return EpochKey{}, errors.New("no such root") })
	if !errors.Is(err, ErrUncheckable) || errors.Is(err, ErrProof) {
		t.Errorf("error %v", err)
	}
}
