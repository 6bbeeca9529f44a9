package issuing

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// certifier is an upstream that answers with errs first.
type certifier struct {
	root  *x509.Certificate
	key   *ecdsa.PrivateKey
	errs  []error
	asked []time.Time
}

func newCertifier(t *testing.T, errs ...error) *certifier {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &certifier{key: key, errs: errs}
	c.root = c.certify(nil, key.Public(), 10*24*time.Hour, tdEast.ID().URL())
	return c
}

func (c *certifier) certify(by *x509.Certificate, key crypto.PublicKey, life time.Duration, uris ...*url.URL) *x509.Certificate {
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: life.String()}, URIs: uris, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life)}
	if by == nil {
		by = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by, key, c.key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert
}

func (c *certifier) NewCA(_ context.Context, csr []byte, life time.Duration) ([]*x509.Certificate, error) {
	r, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	return []*x509.Certificate{c.certify(c.root, r.PublicKey, life, r.URIs...)}, nil
}

func (c *certifier) PublishJWT(context.Context, string, crypto.PublicKey, time.Time) error {
	return nil
}

func (c *certifier) Bundle(context.Context) (*spiffebundle.Bundle, error) {
	c.asked = append(c.asked, time.Now())
	if n := len(c.asked); n <= len(c.errs) {
		return nil, c.errs[n-1]
	}
	b := spiffebundle.New(tdEast)
	b.AddX509Authority(c.root)
	return b, nil
}

// TestNestingWaits: whatever the upstream says, it is asked again, at growing
// intervals and at most every two and a half minutes.
func TestNestingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var errs []error
		for range 12 {
			errs = append(errs, spire.ErrUnreachable, spire.ErrRefused)
		}
		up := newCertifier(t, errs...)
		ca, err := nest(t.Context(), tdEast, up, slog.New(slog.DiscardHandler), nil)
		if err != nil || ca.Certificate().CheckSignatureFrom(up.root) != nil {
			t.Fatal(ca, err)
		}
		for i, at := range up.asked[1:] {
			wait := at.Sub(up.asked[i])
			if least := min(500*time.Millisecond<<i, time.Minute); wait < least || wait > 150*time.Second {
				t.Errorf("wait %d is %s, want at least %s", i, wait, least)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := nest(ctx, tdEast, newCertifier(t, errs...), slog.New(slog.DiscardHandler), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stopped meanwhile: %v", err)
		}
	})
}

// TestOnlyPublishedAnchors: what nodes would not believe in is not used.
func TestOnlyPublishedAnchors(t *testing.T) {
	known, other := newCertifier(t), newCertifier(t)
	records := x509bundle.FromX509Authorities(tdEast, []*x509.Certificate{known.root})
	if _, err := issuer.NewNestedCA(t.Context(), tdEast, published{known, tdEast, records}, time.Now()); err != nil {
		t.Error(err)
	}
	if _, err := issuer.NewNestedCA(t.Context(), tdEast, published{other, tdEast, records}, time.Now()); !errors.Is(err, issuer.ErrUnpublished) {
		t.Errorf("an anchor that no trust record names: %v", err)
	}
	if _, err := issuer.NewNestedCA(t.Context(), tdEast, published{known, tdEast, x509bundle.NewSet()}, time.Now()); err == nil {
		t.Error("no trust record at all, and an authority")
	}
}

// TestKeptUpstreamAgent: the agent SVID that a token bought is there after a restart,
// until it expires or there is a new token.
func TestKeptUpstreamAgent(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	say := func(text string) {
		t.Helper()
		if err := os.WriteFile(token, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	say("first")
	a := &upstreamAgent{Upstream: &config.Upstream{TokenFile: config.Path(token)}, st: openStore(t, filepath.Join(dir, "state.db"))}
	up := newCertifier(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	agent := spiffeid.RequireFromPath(tdEast, "/spire/agent/join_token/x")
	bought := func(life time.Duration) *x509svid.SVID {
		leaf := up.certify(up.root, key.Public(), life, agent.URL())
		return &x509svid.SVID{ID: agent, Certificates: []*x509.Certificate{leaf, up.root}, PrivateKey: key}
	}
	kept := func(key *ecdsa.PrivateKey) *x509svid.SVID {
		t.Helper()
		svid, err := a.kept(key)
		if err != nil {
			t.Fatal(err)
		}
		return svid
	}
	if kept(key) != nil {
		t.Error("something is kept before anything was")
	}
	payload, _, err := a.Begin(t.Context())
	if err != nil || string(payload) != "first" {
		t.Fatalf("%q, %v", payload, err)
	}
	for _, life := range []time.Duration{time.Hour, 2 * time.Hour} {
		want := bought(life)
		if err := a.keep(want); err != nil {
			t.Fatal(err)
		}
		if got := kept(key); got == nil || got.ID != agent || !got.Certificates[0].Equal(want.Certificates[0]) || len(got.Certificates) != 2 {
			t.Fatalf("kept %v", got)
		}
	}
	if kept(up.key) != nil {
		t.Error("kept for another key")
	}
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	if kept(key) == nil {
		t.Error("a spent token was removed, and the SVID with it")
	}
	say("second")
	if kept(key) != nil {
		t.Error("there is a new token, and the old SVID is used")
	}
	a.shown = nil // as after a restart: this process only renews
	if err := a.keep(bought(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if kept(key) != nil {
		t.Error("the new token is taken for the one that bought what was renewed")
	}
	say("first")
	if err := a.keep(bought(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if kept(key) != nil {
		t.Error("an expired SVID is used")
	}
}
