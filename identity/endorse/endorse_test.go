package endorse

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	east = spiffeid.RequireTrustDomainFromString("east.dev.example")
	west = spiffeid.RequireTrustDomainFromString("west.dev.example")
	t0   = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

func newKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func endorsement(t testing.TB) Endorsement {
	return Endorsement{ID: spiffeid.RequireFromPath(east, "/node/n1"), EKHash: [32]byte{1}, AK: &newKey(t, elliptic.P256()).PublicKey,
		NodeKey: [32]byte{2}, TrailKey: bytes.Repeat([]byte{3}, 32), Maker: "id:53575450", ResetCount: 4, Expires: t0.Add(time.Hour)}
}

func TestSignVerify(t *testing.T) {
	authority, stranger := newKey(t, elliptic.P256()), newKey(t, elliptic.P256())
	e := endorsement(t)
	b, err := Sign(authority, e)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Verify(b, &authority.PublicKey, east, t0)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != e.ID || got.EKHash != e.EKHash || !got.AK.Equal(e.AK) || got.NodeKey != e.NodeKey || !bytes.Equal(got.TrailKey, e.TrailKey) ||
		got.Maker != e.Maker || got.ResetCount != 4 || !got.Expires.Equal(e.Expires) {
		t.Errorf("got %+v", got)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	big, err := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	raw := func(change func(*wire)) []byte { // as the authority signs it, whatever it is
		payload, err := Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		var w wire
		if err := statement.Unmarshal(payload, &w); err != nil {
			t.Fatal(err)
		}
		change(&w)
		if payload, err = statement.Marshal(w); err != nil {
			t.Fatal(err)
		}
		b, err := statement.Sign(authority, endorsementType, east.Name(), payload)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name string
		b    []byte
		key  *ecdsa.PublicKey
		td   spiffeid.TrustDomain
		now  time.Time
		want error
	}{
		{"stranger", b, &stranger.PublicKey, east, t0, ErrUntrusted},
		{"no key", b, nil, east, t0, ErrUntrusted},
		{"other region", b, &authority.PublicKey, west, t0, ErrUntrusted},
		{"expired", b, &authority.PublicKey, east, e.Expires, ErrExpired},
		{"empty", nil, &authority.PublicKey, east, t0, ErrMalformed},
		{"large", raw(func(w *wire) { w.Maker = strings.Repeat("x", MaxSize) }), &authority.PublicKey, east, t0, ErrMalformed},
		{"as it was", raw(func(*wire) {}), &authority.PublicKey, east, t0, nil},
		{"EK hash", raw(func(w *wire) { w.EKHash = w.EKHash[:20] }), &authority.PublicKey, east, t0, ErrMalformed},
		{"node key hash", raw(func(w *wire) { w.NodeKey = nil }), &authority.PublicKey, east, t0, ErrMalformed},
		{"RSA as AK", raw(func(w *wire) { w.AK = big }), &authority.PublicKey, east, t0, ErrMalformed},
		{"AK is no key", raw(func(w *wire) { w.AK = w.EKHash }), &authority.PublicKey, east, t0, ErrMalformed},
		{"west's name, signed in east", raw(func(w *wire) { w.ID = "spiffe://west.dev.example/node/n1" }), &authority.PublicKey, east, t0, ErrUntrusted},
	} {
		if _, err := Verify(c.b, c.key, c.td, c.now); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for name, change := range map[string]func(*Endorsement){
		"not a node": func(e *Endorsement) { e.ID = spiffeid.RequireFromPath(east, "/workload/x") },
		"no AK":      func(e *Endorsement) { e.AK = nil },
		"AK curve":   func(e *Endorsement) { e.AK = &newKey(t, elliptic.P384()).PublicKey },
		"trail key":  func(e *Endorsement) { e.TrailKey = []byte{1} },
		"maker":      func(e *Endorsement) { e.Maker = strings.Repeat("x", 65) },
	} {
		e := endorsement(t)
		change(&e)
		if _, err := Sign(authority, e); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	authority := newKey(f, elliptic.P256())
	b, err := Sign(authority, endorsement(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Fuzz(func(t *testing.T, in []byte) {
		if e, err := Verify(in, &authority.PublicKey, east, t0); err == nil && (e.AK == nil || e.ID.TrustDomain() != east) {
			t.Errorf("verified %+v", e)
		}
	})
}

func TestVerifyTrailKey(t *testing.T) {
	authority := newKey(t, elliptic.P256())
	e, key := endorsement(t), []byte("a key in PKIX")
	hash := statement.Digest(key)
	e.TrailKey = hash[:]
	b, err := Sign(authority, e)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		path string
		key  []byte
		at   time.Time
		want error
	}{
		{"it", "/node/n1", key, t0, nil},
		{"it, whenever", "/node/n1", key, time.Time{}, nil},
		{"too late", "/node/n1", key, e.Expires, ErrExpired},
		{"another node", "/node/n2", key, t0, ErrOther},
		{"another key", "/node/n1", []byte("another"), time.Time{}, ErrOther},
	} {
		if _, err := VerifyTrailKey(b, &authority.PublicKey, spiffeid.RequireFromPath(east, c.path), c.key, c.at); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := VerifyTrailKey(b, &newKey(t, elliptic.P256()).PublicKey, e.ID, key, time.Time{}); !errors.Is(err, ErrUntrusted) {
		t.Errorf("by a stranger: %v", err)
	}
	if _, err := VerifyTrailKey(nil, &authority.PublicKey, e.ID, key, time.Time{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("nothing: %v", err)
	}
}
