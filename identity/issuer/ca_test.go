package issuer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/identity/internal/root"
)

var (
	td = spiffeid.RequireTrustDomainFromString("east.dev.example")
	t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

func testCSR(t testing.TB, key crypto.Signer, uris ...string) []byte {
	t.Helper()
	tmpl := &x509.CertificateRequest{}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.URIs = append(tmpl.URIs, u)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestCheckIssue(t *testing.T) {
	ca, err := NewCA(td, t0)
	if err != nil {
		t.Fatal(err)
	}
	key := ecKey(t, elliptic.P256())
	big, _ := rsa.GenerateKey(rand.Reader, 2048)
	_, edwards, _ := ed25519.GenerateKey(rand.Reader)
	shop := spiffeid.RequireFromPath(td, "/workload/shop")
	flipped := testCSR(t, key)
	flipped[len(flipped)-1] ^= 1
	for _, c := range []struct {
		name string
		req  Request
		want error
	}{
		{"no name in the CSR", Request{ID: shop, CSR: testCSR(t, key)}, nil},
		{"its own name", Request{ID: shop, CSR: testCSR(t, key, shop.String())}, nil},
		{"RSA", Request{ID: shop, CSR: testCSR(t, big)}, nil},
		{"bound", Request{ID: shop, CSR: testCSR(t, key), Bound: &key.PublicKey}, nil},
		{"bound to another", Request{ID: shop, CSR: testCSR(t, key), Bound: &ecKey(t, elliptic.P256()).PublicKey}, ErrUnboundKey},
		{"another name", Request{ID: shop, CSR: testCSR(t, key, "spiffe://east.dev.example/workload/admin")}, ErrForeignID},
		{"two names", Request{ID: shop, CSR: testCSR(t, key, shop.String(), "spiffe://east.dev.example/x")}, ErrForeignID},
		{"another region", Request{ID: spiffeid.RequireFromString("spiffe://west.dev.example/x"), CSR: testCSR(t, key)}, ErrForeignID},
		{"no ID", Request{CSR: testCSR(t, key)}, ErrForeignID},
		{"2048 bytes", Request{ID: spiffeid.RequireFromPath(td, "/"+strings.Repeat("a", maxID-len(td.IDString())-1)), CSR: testCSR(t, key)}, nil},
		{"2049 bytes", Request{ID: spiffeid.RequireFromPath(td, "/"+strings.Repeat("a", maxID-len(td.IDString()))), CSR: testCSR(t, key)}, ErrForeignID},
		{"the region itself", Request{ID: td.ID(), CSR: testCSR(t, key)}, ErrForeignID},
		{"signature", Request{ID: shop, CSR: flipped}, ErrCSR},
		{"empty", Request{ID: shop}, ErrCSR},
		{"large", Request{ID: shop, CSR: make([]byte, MaxCSR+1)}, ErrCSR},
		{"curve", Request{ID: shop, CSR: testCSR(t, ecKey(t, elliptic.P224()))}, ErrCSR},
		{"Ed25519", Request{ID: shop, CSR: testCSR(t, edwards)}, ErrCSR},
		{"lifetime", Request{ID: shop, CSR: testCSR(t, key), Lifetime: maxLifetime + 1}, ErrCSR},
	} {
		c.req.Now = t0
		a, err := ca.Check(c.req)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
			continue
		}
		if err != nil {
			continue
		}
		cert, err := ca.Issue(a)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if id, _, err := x509svid.Verify([]*x509.Certificate{cert}, ca.Bundle(), x509svid.WithTime(t0)); err != nil || id != c.req.ID {
			t.Errorf("%s: %v, %v", c.name, id, err)
		}
		if !cert.NotBefore.Equal(t0.Add(-10*time.Second)) || !cert.NotAfter.Equal(t0.Add(time.Hour)) {
			t.Errorf("%s: valid %s to %s", c.name, cert.NotBefore, cert.NotAfter)
		}
	}
}

func TestApprovalIsSpentOnce(t *testing.T) {
	ca, _ := NewCA(td, t0)
	other, _ := NewCA(td, t0)
	req := Request{ID: spiffeid.RequireFromPath(td, "/x"), CSR: testCSR(t, ecKey(t, elliptic.P256())), Now: t0}
	a, err := ca.Check(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Issue(a); !errors.Is(err, ErrSpent) {
		t.Errorf("another CA: %v", err)
	}
	if _, err := ca.Issue(a); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*Approved{a, {}, {by: ca}, nil} {
		if _, err := ca.Issue(a); !errors.Is(err, ErrSpent) {
			t.Errorf("%v, want ErrSpent", err)
		}
	}
	req.Now = t0.Add(caLifetime - time.Minute)
	a, _ = ca.Check(req)
	if cert, err := ca.Issue(a); err != nil || cert.NotAfter.After(ca.Certificate().NotAfter) {
		t.Errorf("outlives its CA: %v", err)
	}
	req.Now = t0.Add(caLifetime + time.Hour)
	a, _ = ca.Check(req)
	if _, err := ca.Issue(a); !errors.Is(err, root.ErrOutlived) {
		t.Errorf("CA expired: %v", err)
	}
}

func TestCAOnDisk(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadCA(dir); !errors.Is(err, ErrNoCA) {
		t.Fatal(err)
	}
	ca, _ := NewCA(td, t0)
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(filepath.Join(dir, caFile)); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
	back, err := LoadCA(dir)
	if err != nil || back.TrustDomain() != td || !back.Bundle().Equal(ca.Bundle()) {
		t.Fatal(back, err)
	}
}

func FuzzCSR(f *testing.F) {
	key := ecKey(f, elliptic.P256())
	f.Add(testCSR(f, key))
	f.Add(testCSR(f, key, "spiffe://east.dev.example/workload/shop"))
	ca, err := NewCA(td, t0)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		a, err := ca.Check(Request{ID: spiffeid.RequireFromPath(td, "/workload/shop"), CSR: der, Bound: &key.PublicKey, Now: t0})
		if err != nil {
			return
		}
		if _, err := ca.Issue(a); err != nil {
			t.Errorf("approved, not issued: %v", err)
		}
	})
}
