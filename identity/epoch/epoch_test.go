package epoch

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
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/identity/internal/root"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

var (
	east = spiffeid.RequireTrustDomainFromString("east.dev.example")
	west = spiffeid.RequireTrustDomainFromString("west.dev.example")
	n1   = spiffeid.RequireFromPath(east, "/zone/z1/node/n1")
	t0   = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

func newKey(t testing.TB, c elliptic.Curve) *ecdsa.PublicKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &k.PublicKey
}

func newRoot(t testing.TB, td spiffeid.TrustDomain) *Root {
	t.Helper()
	r, err := NewRoot(td, t0)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func request(t testing.TB) Request {
	return Request{ID: n1, Epoch: 7, Class: "node", Key: newKey(t, elliptic.P256()), PrevHead: bytes.Repeat([]byte{9}, 32), Now: t0}
}

func issue(t testing.TB, r *Root, req Request) []byte {
	t.Helper()
	a, err := r.Check(req)
	if err != nil {
		t.Fatal(err)
	}
	der, err := r.Issue(a)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestIssueVerify(t *testing.T) {
	r, req := newRoot(t, east), request(t)
	der := issue(t, r, req)
	c, err := Verify(der, []*x509.Certificate{newRoot(t, east).Certificate(), r.Certificate()}, east, t0)
	if err != nil {
		t.Fatal(err)
	}
	if c.ID != n1 || c.Epoch != 7 || c.Class != "node" || !c.Key.Equal(req.Key) || !bytes.Equal(c.PrevHead, req.PrevHead) || !c.Attested() {
		t.Errorf("got %+v", c)
	}
	if got := c.NotAfter.Sub(t0); got != DefaultLifetime {
		t.Errorf("valid for %s", got)
	}
	req.Class, req.PrevHead = "unattested", nil
	c, err = Verify(issue(t, r, req), []*x509.Certificate{r.Certificate()}, east, t0)
	if err != nil || c.Attested() || len(c.PrevHead) != 0 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	r, w := newRoot(t, east), newRoot(t, west)
	good := issue(t, r, request(t))
	authority, err := r.IssueAuthority(newKey(t, elliptic.P256()), t0)
	if err != nil {
		t.Fatal(err)
	}
	big, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	roots := []*x509.Certificate{r.Certificate(), nil, w.Certificate()}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	forge := func(change func(*x509.Certificate)) []byte {
		a, err := r.Check(request(t))
		if err != nil {
			t.Fatal(err)
		}
		tmpl := a.tmpl.Load()
		change(tmpl)
		der, err := r.root.Sign(tmpl, tmpl.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	extended := func(change func(*extension)) []byte {
		return forge(func(c *x509.Certificate) {
			e := extension{Epoch: 7, Class: "node", PrevHead: bytes.Repeat([]byte{9}, 32)}
			change(&e)
			value, err := statement.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			c.ExtraExtensions[0].Value = value
			c.URIs[0].RawQuery = fmt.Sprintf("epoch=%d", e.Epoch)
		})
	}
	for _, c := range []struct {
		name  string
		der   []byte
		td    spiffeid.TrustDomain
		roots []*x509.Certificate
		now   time.Time
		want  error
	}{
		{"good", good, east, roots, t0, nil},
		{"no roots", good, east, nil, t0, ErrUntrusted},
		{"another root of the region", good, east, []*x509.Certificate{newRoot(t, east).Certificate()}, t0, ErrUntrusted},
		{"signature", flipped, east, roots, t0, ErrUntrusted},
		{"another region", good, west, roots, t0, ErrForeign},
		{"no region", good, spiffeid.TrustDomain{}, roots, t0, ErrForeign},
		{"expired", good, east, roots, t0.Add(8 * 24 * time.Hour), ErrExpired},
		{"early", good, east, roots, t0.Add(-time.Minute), ErrExpired},
		{"no time", good, east, roots, time.Time{}, ErrExpired},
		{"authority", authority, east, roots, t0, ErrMalformed},
		{"the root itself", r.Certificate().Raw, east, roots, t0, ErrMalformed},
		{"empty", nil, east, roots, t0, ErrMalformed},
		{"large", forge(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, MaxSize)})
		}), east, roots, t0, ErrMalformed},
		{"another extension", forge(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, 8)})
		}), east, roots, t0, nil},
		{"RSA", forge(func(c *x509.Certificate) { c.PublicKey = &big.PublicKey }), east, roots, t0, ErrMalformed},
		{"another curve", forge(func(c *x509.Certificate) { c.PublicKey = newKey(t, elliptic.P384()) }), east, roots, t0, ErrMalformed},
		{"key usage", forge(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyAgreement }), east, roots, t0, ErrMalformed},
		{"second usage of ours", forge(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = append(c.UnknownExtKeyUsage, oidAuthority)
		}), east, roots, t0, ErrMalformed},
		{"as it was", extended(func(*extension) {}), east, roots, t0, nil},
		{"epoch 0", extended(func(e *extension) { e.Epoch = 0 }), east, roots, t0, ErrMalformed},
		{"class", extended(func(e *extension) { e.Class = "king" }), east, roots, t0, ErrMalformed},
		{"half a previous head", extended(func(e *extension) { e.PrevHead = e.PrevHead[:16] }), east, roots, t0, ErrMalformed},
		{"west's name from east's root", forge(func(c *x509.Certificate) { c.URIs[0].Host = "west.dev.example" }), west, roots, t0, ErrUntrusted},
		{"epoch differs", forge(func(c *x509.Certificate) { c.URIs[0].RawQuery = "epoch=8" }), east, roots, t0, ErrMalformed},
		{"epoch spelt otherwise", forge(func(c *x509.Certificate) { c.URIs[0].RawQuery = "epoch=07" }), east, roots, t0, ErrMalformed},
		{"user in the name", forge(func(c *x509.Certificate) { c.URIs[0].User = url.User("x") }), east, roots, t0, ErrMalformed},
		{"not a node", forge(func(c *x509.Certificate) { c.URIs[0].Path = "/workload/shop" }), east, roots, t0, ErrMalformed},
		{"two names", forge(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), east, roots, t0, ErrMalformed},
		{"DNS name", forge(func(c *x509.Certificate) { c.DNSNames = []string{"x"} }), east, roots, t0, ErrMalformed},
		{"second usage", forge(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), east, roots, t0, ErrMalformed},
		{"no extension", forge(func(c *x509.Certificate) { c.ExtraExtensions = nil }), east, roots, t0, ErrMalformed},
		{"not critical", forge(func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = false }), east, roots, t0, ErrMalformed},
		{"bad extension", forge(func(c *x509.Certificate) { c.ExtraExtensions[0].Value = []byte{0xa0} }), east, roots, t0, ErrMalformed},
		{"unknown critical extension", forge(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true})
		}), east, roots, t0, ErrMalformed},
		{"CA", forge(func(c *x509.Certificate) { c.IsCA = true }), east, roots, t0, ErrMalformed},
	} {
		_, err := Verify(c.der, c.roots, c.td, c.now)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	r := newRoot(t, east)
	for name, change := range map[string]func(*Request){
		"id of another region": func(q *Request) { q.ID = spiffeid.RequireFromPath(west, "/node/n1") },
		"not a node":           func(q *Request) { q.ID = spiffeid.RequireFromPath(east, "/workload/x") },
		"no id":                func(q *Request) { q.ID = spiffeid.ID{} },
		"epoch 0":              func(q *Request) { q.Epoch = 0 },
		"class":                func(q *Request) { q.Class = "king" },
		"no key":               func(q *Request) { q.Key = nil },
		"curve":                func(q *Request) { q.Key = newKey(t, elliptic.P384()) },
		"previous head":        func(q *Request) { q.PrevHead = []byte{1} },
		"negative lifetime":    func(q *Request) { q.Lifetime = -1 },
		"lifetime":             func(q *Request) { q.Lifetime = MaxLifetime + 1 },
	} {
		req := request(t)
		change(&req)
		if _, err := r.Check(req); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v, want ErrRequest", name, err)
		}
	}
	req := request(t)
	req.Now = t0.Add(11 * 365 * 24 * time.Hour)
	if _, err := r.Check(req); !errors.Is(err, root.ErrOutlived) {
		t.Errorf("outlived root: %v", err)
	}
	req.Now = t0.Add(rootLifetime - time.Hour)
	c, err := Verify(issue(t, r, req), []*x509.Certificate{r.Certificate()}, east, req.Now)
	if err != nil || c.NotAfter.After(r.Certificate().NotAfter) {
		t.Errorf("certificate outlives its root: %v, %v", c.NotAfter, err)
	}
}

func TestApprovalIsSpentOnce(t *testing.T) {
	r := newRoot(t, east)
	a, err := r.Check(request(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newRoot(t, east).Issue(a); !errors.Is(err, ErrSpent) {
		t.Errorf("another root: %v", err)
	}
	if _, err := r.Issue(a); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*Approved{a, {}, {by: r}, nil} {
		if _, err := r.Issue(a); !errors.Is(err, ErrSpent) {
			t.Errorf("got %v, want ErrSpent", err)
		}
	}
}

// Even a verifier that was given the record root as a SPIFFE root by mistake
// must not take an epoch certificate for an X509-SVID.
func TestNeverAnSVID(t *testing.T) {
	r := newRoot(t, east)
	bundle := x509bundle.FromX509Authorities(east, []*x509.Certificate{r.Certificate()})
	authority, _ := r.IssueAuthority(newKey(t, elliptic.P256()), t0)
	for _, der := range [][]byte{issue(t, r, request(t)), authority} {
		if id, _, err := x509svid.ParseAndVerify([][]byte{der}, bundle, x509svid.WithTime(t0)); err == nil {
			t.Errorf("go-spiffe took it for %s", id)
		}
	}
	// The critical extension alone is enough.
	a, err := r.Check(request(t))
	if err != nil {
		t.Fatal(err)
	}
	tmpl := a.tmpl.Load()
	tmpl.URIs = []*url.URL{n1.URL()}
	der, _ := r.root.Sign(tmpl, tmpl.PublicKey)
	if _, _, err := x509svid.ParseAndVerify([][]byte{der}, bundle, x509svid.WithTime(t0)); err == nil {
		t.Error("go-spiffe skipped the critical extension")
	}
}

func TestAuthority(t *testing.T) {
	r, pub := newRoot(t, east), newKey(t, elliptic.P256())
	der, err := r.IssueAuthority(pub, t0)
	if err != nil {
		t.Fatal(err)
	}
	roots := []*x509.Certificate{r.Certificate()}
	a, err := VerifyAuthority(der, roots, east, t0)
	if err != nil || !a.Key.Equal(pub) || a.TrustDomain != east {
		t.Fatal(a, err)
	}
	if _, err := VerifyAuthority(der, roots, west, t0); !errors.Is(err, ErrForeign) {
		t.Error(err)
	}
	if _, err := VerifyAuthority(der, roots, east, t0.Add(2*authorityLifetime)); !errors.Is(err, ErrExpired) {
		t.Error(err)
	}
	if _, err := VerifyAuthority(issue(t, r, request(t)), roots, east, t0); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	for _, name := range []string{"bailiwick://east.dev.example/node/n1", "bailiwick://east.dev.example/authority?x", "spiffe://east.dev.example/authority"} {
		u, _ := url.Parse(name)
		der, err := r.root.Sign(&x509.Certificate{
			NotBefore: t0, NotAfter: t0.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidAuthority}, URIs: []*url.URL{u},
		}, pub)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := VerifyAuthority(der, roots, east, t0); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v, want ErrForeign", name, err)
		}
	}
	for _, key := range []*ecdsa.PublicKey{nil, newKey(t, elliptic.P521())} {
		if _, err := r.IssueAuthority(key, t0); !errors.Is(err, ErrRequest) {
			t.Error(err)
		}
	}
	if _, err := NewRoot(spiffeid.TrustDomain{}, t0); !errors.Is(err, ErrRequest) {
		t.Errorf("a root of no region: %v", err)
	}
}

func TestRootOnDisk(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadRoot(dir); !errors.Is(err, ErrNoRoot) {
		t.Fatal(err)
	}
	r := newRoot(t, east)
	if err := r.Save(dir); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(filepath.Join(dir, rootFile)); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
	back, err := LoadRoot(dir)
	if err != nil || back.TrustDomain() != east || !back.Certificate().Equal(r.Certificate()) {
		t.Fatal(back, err)
	}
	other := t.TempDir()
	stranger, _ := root.New("x", n1.URL(), t0, time.Hour)
	if err := stranger.Save(filepath.Join(other, rootFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadRoot(other); !errors.Is(err, root.ErrDamaged) {
		t.Errorf("another kind of root: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	r := newRoot(f, east)
	f.Add(issue(f, r, request(f)))
	authority, _ := r.IssueAuthority(newKey(f, elliptic.P256()), t0)
	f.Add(authority)
	roots := []*x509.Certificate{r.Certificate()}
	f.Fuzz(func(t *testing.T, der []byte) {
		if c, err := Verify(der, roots, east, t0); err == nil && (c.Epoch == 0 || c.Key == nil || c.ID.TrustDomain() != east) {
			t.Errorf("verified %+v", c)
		}
		VerifyAuthority(der, roots, east, t0)
	})
}
