package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var _ x509bundle.Source = (*Set)(nil)

var (
	east = spiffeid.RequireTrustDomainFromString("east.dev.example")
	west = spiffeid.RequireTrustDomainFromString("west.dev.example")
	now  = time.Now().Truncate(time.Second)
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func record(t testing.TB, label string, td spiffeid.TrustDomain, version uint64) Record {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: label}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: now, NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, _ := x509.ParseCertificate(der)
	root, err := epoch.NewRoot(td, now)
	if err != nil {
		t.Fatal(err)
	}
	return Record{Region: label, TrustDomain: td, X509Roots: []*x509.Certificate{ca}, RecordRoots: []*x509.Certificate{root.Certificate()},
		AuthorityKey: &newKey(t).PublicKey, PolicyKey: &newKey(t).PublicKey, Version: version, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour)}
}

func sign(t testing.TB, r Record, keys ...*ecdsa.PrivateKey) []byte {
	t.Helper()
	var all [][]byte
	for _, k := range keys {
		b, err := Sign(r, k)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	b, err := Join(all...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func publics(keys ...*ecdsa.PrivateKey) (out []*ecdsa.PublicKey) {
	for _, k := range keys {
		if k == nil {
			out = append(out, nil)
			continue
		}
		out = append(out, &k.PublicKey)
	}
	return out
}

func TestVerifyThreshold(t *testing.T) {
	a, b, c, stranger := newKey(t), newKey(t), newKey(t), newKey(t)
	r := record(t, "east", east, 3)
	for _, tc := range []struct {
		name      string
		signed    []byte
		global    []*ecdsa.PublicKey
		threshold int
		want      error
	}{
		{"1 of 1", sign(t, r, a), publics(a), 1, nil},
		{"2 of 3", sign(t, r, c, a), publics(a, b, c), 2, nil},
		{"all and a stranger", sign(t, r, stranger, a, b), publics(a, b, c), 2, nil},
		{"1, 2 wanted", sign(t, r, a), publics(a, b, c), 2, ErrUnsigned},
		{"the same key twice", sign(t, r, a, a), publics(a, b, c), 2, ErrUnsigned},
		{"the same key listed twice", sign(t, r, a, a), publics(a, a), 2, ErrUnsigned},
		{"a stranger", sign(t, r, stranger), publics(a), 1, ErrUnsigned},
		{"no threshold", sign(t, r, a), publics(a), 0, ErrUnsigned},
		{"no keys", sign(t, r, a), nil, 1, ErrUnsigned},
	} {
		got, err := Verify(tc.signed, tc.global, tc.threshold, now)
		if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		if err == nil && (got.Region != "east" || got.TrustDomain != east || got.Version != 3 || !got.X509Roots[0].Equal(r.X509Roots[0]) ||
			!got.RecordRoots[0].Equal(r.RecordRoots[0]) || !got.AuthorityKey.Equal(r.AuthorityKey) || !got.PolicyKey.Equal(r.PolicyKey) || !got.NotAfter.Equal(r.NotAfter)) {
			t.Errorf("%s: got %+v", tc.name, got)
		}
	}
	for _, at := range []time.Time{{}, now.Add(-time.Hour), r.NotAfter} {
		if _, err := Verify(sign(t, r, a), publics(a), 1, at); !errors.Is(err, ErrExpired) {
			t.Errorf("at %s: %v, want ErrExpired", at, err)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	other := record(t, "west", west, 1)
	for name, change := range map[string]func(*Record){
		"label":                    func(r *Record) { r.Region = "East" },
		"no label":                 func(r *Record) { r.Region = "" },
		"trust domain":             func(r *Record) { r.TrustDomain = spiffeid.TrustDomain{} },
		"version":                  func(r *Record) { r.Version = 0 },
		"validity":                 func(r *Record) { r.NotAfter = r.NotBefore },
		"no root":                  func(r *Record) { r.X509Roots = nil },
		"no record root":           func(r *Record) { r.RecordRoots = nil },
		"record root of another":   func(r *Record) { r.RecordRoots = other.RecordRoots },
		"SVID root as record root": func(r *Record) { r.RecordRoots = r.X509Roots },
		"no authority key":         func(r *Record) { r.AuthorityKey = nil },
		"JWT key without ID":       func(r *Record) { r.JWTKeys = []JWTKey{{Key: r.PolicyKey}} },
		"JWT key with a space":     func(r *Record) { r.JWTKeys = []JWTKey{{ID: "a b", Key: r.PolicyKey}} },
		"long JWT key ID":          func(r *Record) { r.JWTKeys = []JWTKey{{ID: strings.Repeat("k", maxKeyID+1), Key: r.PolicyKey}} },
		"JWT key ID twice":         func(r *Record) { r.JWTKeys = []JWTKey{{ID: "k", Key: r.PolicyKey}, {ID: "k", Key: r.AuthorityKey}} },
		"no JWT key":               func(r *Record) { r.JWTKeys = []JWTKey{{ID: "k"}} },
		"JWT key on other curve": func(r *Record) {
			k, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			r.JWTKeys = []JWTKey{{ID: "k", Key: &k.PublicKey}}
		},
		"policy key on other curve": func(r *Record) { k, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader); r.PolicyKey = &k.PublicKey },
	} {
		r := record(t, "east", east, 1)
		change(&r)
		if _, err := Sign(r, newKey(t)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
	many := record(t, "east", east, 1)
	for i := range maxJWTKeys + 1 {
		many.JWTKeys = append(many.JWTKeys, JWTKey{ID: fmt.Sprint(i), Key: many.PolicyKey, NotAfter: now})
	}
	if _, err := Sign(many, newKey(t)); !errors.Is(err, ErrMalformed) {
		t.Errorf("%d JWT keys: %v", len(many.JWTKeys), err)
	}
	key := newKey(t)
	many.JWTKeys = many.JWTKeys[1:]
	got, err := Verify(sign(t, many, key), publics(key), 1, now)
	if err != nil || len(got.JWTKeys) != maxJWTKeys || got.JWTKeys[0].ID != "1" || !got.JWTKeys[0].Key.Equal(many.PolicyKey) || !got.JWTKeys[0].NotAfter.Equal(now) {
		t.Errorf("JWT keys: %+v, %v", got.JWTKeys, err)
	}
	a, _ := Sign(record(t, "east", east, 1), newKey(t))
	b, _ := Sign(other, newKey(t))
	if _, err := Join(a, b); !errors.Is(err, ErrMalformed) {
		t.Errorf("joined two records: %v", err)
	}
	if _, err := Join(); !errors.Is(err, ErrMalformed) {
		t.Errorf("joined nothing: %v", err)
	}
}

// TestMalformed: what nobody here would have signed, and a global key did.
func TestMalformed(t *testing.T) {
	key := newKey(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	big, err := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	good := record(t, "east", east, 1)
	leaf := *good.X509Roots[0]
	leaf.IsCA, leaf.PublicKey = false, &key.PublicKey
	der, err := x509.CreateCertificate(rand.Reader, &leaf, &leaf, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*wire)
		want   error
	}{
		"nothing": {func(*wire) {}, nil},
		"as many as there may be": {func(w *wire) {
			w.X509Roots, w.RecordRoots = slices.Repeat(w.X509Roots, maxRoots), slices.Repeat(w.RecordRoots, maxRecordRoots)
		}, nil},
		"trust domain with scheme":  {func(w *wire) { w.TrustDomain = "spiffe://east.dev.example" }, ErrMalformed},
		"trust domain in capitals":  {func(w *wire) { w.TrustDomain = "EAST.dev.example" }, ErrMalformed},
		"many roots":                {func(w *wire) { w.X509Roots = slices.Repeat(w.X509Roots, maxRoots+1) }, ErrMalformed},
		"many record roots":         {func(w *wire) { w.RecordRoots = slices.Repeat(w.RecordRoots, maxRecordRoots+1) }, ErrMalformed},
		"a leaf as root":            {func(w *wire) { w.X509Roots = append(w.X509Roots, der) }, ErrMalformed},
		"no certificate as root":    {func(w *wire) { w.X509Roots = append(w.X509Roots, []byte{1}) }, ErrMalformed},
		"RSA as authority key":      {func(w *wire) { w.AuthorityKey = big }, ErrMalformed},
		"no key as policy key":      {func(w *wire) { w.PolicyKey = []byte{1} }, ErrMalformed},
		"an authority key on P-384": {func(w *wire) { w.AuthorityKey = p384(t) }, ErrMalformed},
	} {
		payload, err := encode(good)
		if err != nil {
			t.Fatal(err)
		}
		var w wire
		if err := statement.Unmarshal(payload, &w); err != nil {
			t.Fatal(err)
		}
		c.change(&w)
		if payload, err = statement.Marshal(w); err != nil {
			t.Fatal(err)
		}
		signed, err := statement.Sign(key, recordType, w.TrustDomain, payload)
		if err != nil {
			t.Fatal(err)
		}
		b, err := statement.Marshal([][]byte{signed})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(b, publics(nil, key), 1, now); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if _, err := readDraft(payload); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s, as a draft: %v, want %v", name, err, c.want)
		}
	}
	many := make([]*ecdsa.PrivateKey, maxSignatures+1)
	for i := range many {
		many[i] = newKey(t)
	}
	var all [][]byte
	for _, k := range many {
		one, err := Sign(good, k)
		if err != nil {
			t.Fatal(err)
		}
		var alone [][]byte
		if err := statement.Unmarshal(one, &alone); err != nil {
			t.Fatal(err)
		}
		all = append(all, alone...)
	}
	for n, want := range map[int]error{maxSignatures: nil, maxSignatures + 1: ErrMalformed} {
		b, err := statement.Marshal(all[:n])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(b, publics(many...), 1, now); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%d signatures: %v, want %v", n, err, want)
		}
	}
	large, tmpl := good, *good.X509Roots[0]
	tmpl.PublicKey, tmpl.ExtraExtensions = &key.PublicKey, []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, MaxSize/5)}}
	if der, err = x509.CreateCertificate(rand.Reader, &tmpl, &tmpl, &key.PublicKey, key); err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	large.X509Roots = []*x509.Certificate{root}
	all = nil
	for _, k := range many[:5] {
		one, err := Sign(large, k)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(one, publics(k), 1, now); err != nil {
			t.Errorf("%d bytes: %v", len(one), err)
		}
		var alone [][]byte
		if err := statement.Unmarshal(one, &alone); err != nil {
			t.Fatal(err)
		}
		all = append(all, alone...)
	}
	b, err := statement.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(b, publics(many...), 1, now); !errors.Is(err, ErrMalformed) {
		t.Errorf("%d bytes: %v", len(b), err)
	}
	for _, threshold := range []int{-1, 0, 2} {
		if _, err := NewSet(publics(key), threshold); !errors.Is(err, ErrNoGlobal) {
			t.Errorf("%d of 1: %v", threshold, err)
		}
	}
}

func p384(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestSet(t *testing.T) {
	key := newKey(t)
	if _, err := NewSet(publics(key), 2); !errors.Is(err, ErrNoGlobal) {
		t.Error(err)
	}
	s, err := NewSet(publics(key), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetX509BundleForTrustDomain(east); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	changed := s.Changed()
	e2 := record(t, "east", east, 2)
	apply := func(name string, r Record, changes bool, want error) {
		t.Helper()
		_, did, err := s.Apply(sign(t, r, key), now)
		if did != changes || !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s: changed %v, %v; want %v, %v", name, did, err, changes, want)
		}
	}
	apply("first", e2, true, nil)
	<-changed
	apply("again, other signature", e2, false, nil)
	apply("older", record(t, "east", east, 1), false, ErrOld)
	apply("same version, other content", record(t, "east", east, 2), false, ErrConflict)
	apply("other label", record(t, "west", east, 3), false, ErrConflict)
	apply("label taken", record(t, "east", west, 1), false, ErrConflict)
	apply("second region", record(t, "west", west, 1), true, nil)
	e3 := record(t, "east", east, 3)
	apply("newer", e3, true, nil)
	if _, _, err := s.Apply(sign(t, record(t, "east", east, 4), newKey(t)), now); !errors.Is(err, ErrUnsigned) {
		t.Error(err)
	}

	b, err := s.GetX509BundleForTrustDomain(east)
	if err != nil || !b.HasX509Authority(e3.X509Roots[0]) || b.HasX509Authority(e2.X509Roots[0]) {
		t.Error(b, err)
	}
	if roots := s.RecordRoots(east); len(roots) != 1 || !roots[0].Equal(e3.RecordRoots[0]) {
		t.Error(roots)
	}
	if r, ok := s.ByLabel("west"); !ok || r.TrustDomain != west {
		t.Error(r, ok)
	}
	if all := s.Regions(); len(all) != 2 || all[0].Region != "east" || all[1].Region != "west" {
		t.Error(all)
	}
	again, _ := NewSet(publics(key), 1)
	for _, b := range s.Export() {
		if _, did, err := again.Apply(b, now); !did || err != nil {
			t.Error(did, err)
		}
	}
	if !bytes.Equal(bytes.Join(again.Export(), nil), bytes.Join(s.Export(), nil)) {
		t.Error("export, apply, export differ")
	}
}

func TestExpiredRecordVerifiesNothing(t *testing.T) {
	key := newKey(t)
	s, _ := NewSet(publics(key), 1)
	r := record(t, "east", east, 1)
	r.NotBefore, r.NotAfter = now.Add(-2*time.Hour), now.Add(-time.Hour)
	if _, _, err := s.Apply(sign(t, r, key), r.NotBefore); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetX509BundleForTrustDomain(east); !errors.Is(err, ErrExpired) {
		t.Error(err)
	}
	if s.RecordRoots(east) != nil {
		t.Error("record roots of an expired record")
	}
	if got, ok := s.Record(east); !ok || got.ValidAt(now) {
		t.Error("it stays to be shown")
	}
	again, _ := NewSet(publics(key), 1)
	for _, b := range s.Export() {
		if err := again.Restore(b); err != nil {
			t.Error(err)
		}
	}
	older := record(t, "east", east, 1)
	if _, _, err := again.Apply(sign(t, older, key), now); !errors.Is(err, ErrConflict) {
		t.Errorf("after a restart another content took the expired version's place: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	a, b := newKey(f), newKey(f)
	f.Add(sign(f, record(f, "east", east, 1), a, b))
	f.Add(sign(f, record(f, "west", west, 1), a))
	f.Add([]byte{0x80})
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := Verify(in, publics(a, b), 1, now)
		if err == nil && (r.TrustDomain.IsZero() || len(r.X509Roots) == 0) {
			t.Errorf("verified %+v", r)
		}
		if payload, all, err := split(in); err == nil {
			raw := make([][]byte, len(all))
			for i, e := range all {
				raw[i] = e.Bytes()
			}
			joined, err := Join(in)
			if err == nil && len(raw) == 1 && !bytes.Equal(joined, in) {
				t.Errorf("%x parses but re-encodes as %x", in, joined)
			}
			read(payload)
		}
	})
}
