package issuer_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	names "crypto/x509/pkix"
	"errors"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// upstream is an authority above ours, with a clock of its own.
type upstream struct {
	t      *testing.T
	now    time.Time
	life   time.Duration
	name   string // of the trust domain
	key    *ecdsa.PrivateKey
	root   *x509.Certificate
	bundle *spiffebundle.Bundle
	away   error
	serial int64
}

func newUpstream(t *testing.T, now time.Time) *upstream {
	u := &upstream{t: t, now: now, life: 24 * time.Hour, name: east.Name(), bundle: spiffebundle.New(east)}
	u.rotate()
	return u
}

// rotate gives the upstream a new root.
func (u *upstream) rotate() {
	u.key = newKey(u.t)
	u.root = nil
	u.root = u.certify(u.key.Public(), 365*24*time.Hour)
	u.bundle.AddX509Authority(u.root)
}

func (u *upstream) certify(pub crypto.PublicKey, life time.Duration) *x509.Certificate {
	u.t.Helper()
	u.serial++
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(u.serial), Subject: names.Name{CommonName: "upstream", SerialNumber: big.NewInt(u.serial).String()}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{{Scheme: "spiffe", Host: u.name}},
		NotBefore: u.now.Add(-time.Minute), NotAfter: u.now.Add(life)}
	parent := u.root
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, u.key)
	if err != nil {
		u.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		u.t.Fatal(err)
	}
	return c
}

func (u *upstream) NewCA(_ context.Context, csr []byte, life time.Duration) ([]*x509.Certificate, error) {
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil || len(req.URIs) != 1 || req.URIs[0].String() != "spiffe://"+east.Name() {
		u.t.Errorf("CSR for %v: %v", req.URIs, err)
	}
	return []*x509.Certificate{u.certify(req.PublicKey, min(life, u.life))}, u.away
}

func (u *upstream) PublishJWT(_ context.Context, keyID string, key crypto.PublicKey, _ time.Time) error {
	if u.away != nil {
		return u.away
	}
	return u.bundle.AddJWTAuthority(keyID, key)
}

func (u *upstream) Bundle(context.Context) (*spiffebundle.Bundle, error) {
	return u.bundle.Clone(), u.away
}

func TestNested(t *testing.T) {
	now := time.Now()
	up := newUpstream(t, now)
	ca, err := issuer.NewNestedCA(t.Context(), east, up, now)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	if ca, err = issuer.LoadCA(dir); err != nil { // as after a restart
		t.Fatal(err)
	}
	r := newRegion(t, func(c *issuer.Config) { c.CA, c.Upstream = ca, up })
	r.cfg.Bundles = x509bundle.FromX509Authorities(east, []*x509.Certificate{up.root}) // all that nodes know
	c, _ := r.attest()
	results, err := c.NewX509SVIDs(t.Context(), []spire.Request{{EntryID: r.entry(c, shop).ID, ID: shop, Key: newKey(t)}})
	if err != nil || results[0].Err != nil || len(results[0].SVID.Certificates) != 2 {
		t.Fatal(results, err)
	}
	b, err := c.TrustBundle(t.Context())
	if err != nil || !b.HasX509Authority(up.root) || len(b.X509Authorities()) != 1 || len(b.JWTAuthorities()) != 1 || len(up.bundle.JWTAuthorities()) != 1 {
		t.Errorf("bundle: %v, %v", b, err)
	}
	if _, err := r.server.Prepare(issuer.X509); !errors.Is(err, issuer.ErrAuthority) {
		t.Errorf("prepare a root of its own: %v", err)
	}
}

func TestNestedFollows(t *testing.T) {
	start := time.Now()
	up := newUpstream(t, start)
	ca, err := issuer.NewNestedCA(t.Context(), east, up, start)
	if err != nil {
		t.Fatal(err)
	}
	follow := func(after time.Duration) error {
		up.now = start.Add(after)
		return ca.Follow(t.Context(), up, up.now)
	}
	svid := func() *x509.Certificate {
		t.Helper()
		return sign(t, ca, up.now)
	}
	first := ca.Certificate()
	if err := follow(time.Hour); err != nil || !ca.Certificate().Equal(first) {
		t.Errorf("replaced long before its half: %v", err)
	}
	up.away = errors.New("away")
	if err := follow(13 * time.Hour); err == nil || !ca.Certificate().Equal(first) {
		t.Errorf("the upstream is away: %v", err)
	}
	svid() // goes on
	up.away = nil
	up.life = time.Hour
	if err := follow(13 * time.Hour); err != nil || !ca.Certificate().Equal(first) {
		t.Errorf("a successor that ends first: %v", err)
	}
	asked := up.serial
	if err := follow(13*time.Hour + time.Minute); err != nil || up.serial != asked {
		t.Errorf("asked again a minute later: %v", err)
	}
	up.life, up.name = 24*time.Hour, "west.dev.example"
	if err := follow(15 * time.Hour); !errors.Is(err, issuer.ErrUpstream) {
		t.Errorf("another trust domain: %v", err)
	}
	up.name = east.Name()
	if err := follow(15 * time.Hour); err != nil || ca.Certificate().Equal(first) {
		t.Errorf("not replaced after its half: %v", err)
	}
	if n := len(ca.Authorities()); n != 3 { // old, JWT key, active
		t.Errorf("%d authorities", n)
	}
	second := ca.Certificate()
	// The upstream has a new root: its anchor is published before it is used.
	up.rotate()
	if err := follow(28 * time.Hour); !errors.Is(err, issuer.ErrUpstream) || !ca.Certificate().Equal(second) || len(ca.Bundle().X509Authorities()) != 2 {
		t.Errorf("the anchor was not known before: %v", err)
	}
	if err := follow(28*time.Hour + time.Minute); err != nil || ca.Certificate().Equal(second) {
		t.Errorf("the anchor is known now: %v", err)
	}
	for _, a := range ca.Authorities() {
		if a.Certificate != nil && a.Certificate.Equal(first) {
			t.Error("an authority that expired is still there")
		}
	}
	svid()
	up.life = time.Minute
	if err := follow(50 * time.Hour); !errors.Is(err, issuer.ErrUpstream) { // in its last sixth
		t.Errorf("the upstream has no more to give: %v", err)
	}
	own, err := issuer.NewCA(east, start)
	if err != nil {
		t.Fatal(err)
	}
	if err := own.Follow(t.Context(), up, start); !errors.Is(err, issuer.ErrUpstream) {
		t.Errorf("a CA that is its own anchor: %v", err)
	}
}

// sign issues one SVID and verifies it by the upstream's anchors.
func sign(t *testing.T, ca *issuer.CA, now time.Time) *x509.Certificate {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	approved, err := ca.Check(issuer.Request{ID: shop, CSR: csr, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(approved)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := x509svid.Verify([]*x509.Certificate{cert, ca.Certificate()}, ca, x509svid.WithTime(now)); err != nil {
		t.Error(err)
	}
	if cert.NotAfter.After(ca.Certificate().NotAfter) {
		t.Error("an SVID outlives its authority")
	}
	return cert
}
