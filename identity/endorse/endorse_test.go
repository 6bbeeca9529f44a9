package endorse

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

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
		{"large", make([]byte, MaxSize+1), &authority.PublicKey, east, t0, ErrMalformed},
	} {
		if _, err := Verify(c.b, c.key, c.td, c.now); !errors.Is(err, c.want) {
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
