package feed

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	t0  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	n1  = spiffeid.RequireFromString("spiffe://east.dev.example/node/n1")
	n2  = spiffeid.RequireFromString("spiffe://east.dev.example/node/n2")
	svc = KeyOf(n1, KindService, "shop")
)

// life is an epoch with its private key; its "certificate" is readable JSON,
// which keyFunc takes back.
type life struct {
	EpochKey
	priv *ecdsa.PrivateKey
}

type fakeCert struct {
	Origin   string
	Epoch    uint64
	Class    string
	Attested bool
	From, To int64
	Key      []byte
}

func newLife(tb testing.TB, origin spiffeid.ID, epoch uint64, attested bool) life {
	tb.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return certify(tb, origin, epoch, attested, priv, t0.Add(7*24*time.Hour))
}

func certify(tb testing.TB, origin spiffeid.ID, epoch uint64, attested bool, priv *ecdsa.PrivateKey, to time.Time) life {
	tb.Helper()
	pub, err := x509.MarshalPKIXPublicKey(&priv.PublicKey)
	if err != nil {
		tb.Fatal(err)
	}
	der, err := json.Marshal(fakeCert{origin.String(), epoch, "node", attested, t0.Add(-time.Hour).Unix(), to.Unix(), pub})
	if err != nil {
		tb.Fatal(err)
	}
	key, err := keyFunc(der)
	if err != nil {
		tb.Fatal(err)
	}
	return life{key, priv}
}

func keyFunc(der []byte) (EpochKey, error) {
	var c fakeCert
	if err := json.Unmarshal(der, &c); err != nil {
		return EpochKey{}, err
	}
	pub, err := x509.ParsePKIXPublicKey(c.Key)
	if err != nil {
		return EpochKey{}, err
	}
	origin, err := spiffeid.FromString(c.Origin)
	if err != nil {
		return EpochKey{}, err
	}
	return EpochKey{
		Origin: origin, Epoch: c.Epoch, Key: pub.(*ecdsa.PublicKey), Class: c.Class, Attested: c.Attested,
		NotBefore: time.Unix(c.From, 0), NotAfter: time.Unix(c.To, 0), Cert: der,
	}, nil
}

// node is a chain with the records it holds, as a store would.
type node struct {
	*Chain
	records map[FeedID]map[uint64]Record
}

func newNode(tb testing.TB, origin spiffeid.ID, lives ...life) *node {
	tb.Helper()
	n := &node{records: map[FeedID]map[uint64]Record{}}
	n.Chain = NewChain(origin, DefaultKinds(), func(f FeedID, seq uint64) []byte { return n.records[f][seq].Statement() })
	for _, l := range lives {
		if err := n.SetKey(l.EpochKey); err != nil {
			tb.Fatal(err)
		}
	}
	return n
}

func (n *node) admit(now time.Time, rec Record) Result {
	res := n.Admit(now, rec)
	n.keep(res)
	if res.Verdict == Admitted {
		for _, r := range n.Ready(now) {
			n.keep(r)
		}
	}
	return res
}

func (n *node) keep(res Result) {
	if res.Verdict == Admitted {
		f := res.Record.Feed()
		if n.records[f] == nil {
			n.records[f] = map[uint64]Record{}
		}
		for _, rec := range append(res.Parts, res.Record) {
			n.records[f][rec.Seq] = rec
		}
	}
}

// write makes count records of an honest writer over its own chain.
func write(tb testing.TB, l life, from time.Time, count int, ops ...Op) []Record {
	tb.Helper()
	n := newNode(tb, l.Origin, l)
	return n.write(tb, l, from, count, ops...)
}

func (n *node) write(tb testing.TB, l life, from time.Time, count int, ops ...Op) []Record {
	tb.Helper()
	w, err := NewWriter(n.Chain, l.Epoch, l.priv)
	if err != nil {
		tb.Fatal(err)
	}
	var out []Record
	for i := range count {
		now := from.Add(time.Duration(i) * 20 * time.Millisecond)
		these := ops
		if these == nil {
			these = []Op{put(svc, fmt.Sprint("v", i))}
		}
		rec, err := w.Next(now, Draft{Ops: these, TTL: 60, Policy: "r1"})
		if err != nil {
			tb.Fatal(err)
		}
		if res := n.admit(now, rec); res.Verdict != Admitted {
			tb.Fatalf("own record %d: %s: %v", rec.Seq, res.Verdict, res.Err)
		}
		out = append(out, rec)
	}
	return out
}

func put(key, value string) Op {
	return Op{Key: key, Action: Put, Value: []byte(value), Scope: ScopeRegion}
}

// forge signs whatever header a dishonest holder of the key likes.
func forge(tb testing.TB, l life, h Header, ops ...Op) Record {
	tb.Helper()
	if h.Kind == 0 {
		h.Kind = Ops
	}
	h.Origin, h.Epoch = l.Origin.String(), l.Epoch
	rec, err := sign(l.priv, h, ops)
	if err != nil {
		tb.Fatal(err)
	}
	return rec
}

// signHeader is the statement of a header whose root need not be that of any body.
func signHeader(tb testing.TB, l life, h Header) []byte {
	tb.Helper()
	h.Kind, h.Origin, h.Epoch, h.Size = Ops, l.Origin.String(), l.Epoch, 1
	return signBytes(tb, l, mustMarshal(tb, h))
}

func want(tb testing.TB, res Result, v Verdict) {
	tb.Helper()
	if res.Verdict != v {
		tb.Fatalf("verdict %s (%v), want %s", res.Verdict, res.Err, v)
	}
	if (v == Admitted || v == Duplicate) != (res.Err == nil) {
		tb.Fatalf("verdict %s with error %v", v, res.Err)
	}
	if v.Proves() != (res.Proof != nil) {
		tb.Fatalf("verdict %s with a proof of %d bytes", v, len(res.Proof))
	}
}

func finding(tb testing.TB, proof []byte) Finding {
	tb.Helper()
	f, err := VerifyProof(proof, keyFunc)
	if err != nil {
		tb.Fatalf("own proof: %v", err)
	}
	return f
}
