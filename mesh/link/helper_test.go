package link

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const td = "east.dev.example"

// authority is a test CA of one trust domain.
type authority struct {
	td   spiffeid.TrustDomain
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, td string) *authority {
	t.Helper()
	a := &authority{td: spiffeid.RequireTrustDomainFromString(td), key: newKey(t)}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: td}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	a.cert = signCert(t, tmpl, tmpl, a.key, a.key)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signCert(t testing.TB, tmpl, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// svid issues an SVID that ends after life; a negative life makes it expired.
func (a *authority) svid(t testing.TB, path string, life time.Duration) *x509svid.SVID {
	t.Helper()
	id := spiffeid.RequireFromPath(a.td, path)
	key := newKey(t)
	cert := signCert(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{id.URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-30 * time.Minute), NotAfter: time.Now().Add(life),
	}, a.cert, key, a.key)
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{cert}, PrivateKey: key}
}

func (a *authority) bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(a.td, []*x509.Certificate{a.cert})
}

func node(name string) spiffeid.ID {
	return spiffeid.RequireFromString("spiffe://" + td + "/node/" + name)
}

// doorman welcomes everyone it was not told to shut out.
type doorman struct {
	mu   sync.Mutex
	shut map[spiffeid.ID]string
}

func (d *doorman) shutOut(id spiffeid.ID, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut == nil {
		d.shut = map[spiffeid.ID]string{}
	}
	d.shut[id] = why
}

func (d *doorman) authorize(id spiffeid.ID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if why, ok := d.shut[id]; ok {
		return errors.New(why)
	}
	return nil
}

// testNode is one link and what it heard.
type testNode struct {
	*Link
	t       testing.TB
	svid    *x509svid.SVID
	bundles *x509bundle.Set
	door    doorman
	reg     *prometheus.Registry

	mu   sync.Mutex
	seen []peerEvent
}

// start makes and runs a link for svid that trusts cas.
func start(t testing.TB, svid *x509svid.SVID, change func(*Config), cas ...*authority) *testNode {
	t.Helper()
	n := &testNode{t: t, svid: svid, bundles: x509bundle.NewSet(), reg: prometheus.NewRegistry()}
	for _, ca := range cas {
		n.bundles.Add(ca.bundle())
	}
	cfg := Config{Listen: "127.0.0.1:0", SVID: svid, Bundles: n.bundles, Authorize: n.door.authorize, Metrics: n.reg}
	if change != nil {
		change(&cfg)
	}
	l, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.Link = l
	l.OnPeer(func(id spiffeid.ID, up bool) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.seen = append(n.seen, peerEvent{id, up})
	})
	l.Handle("echo", func(_ context.Context, _ spiffeid.ID, s *Stream) {
		defer s.Close()
		_, _ = io.Copy(s, s)
	})
	done := make(chan error, 1)
	go func() { done <- l.Run(context.Background()) }()
	t.Cleanup(func() {
		_ = l.Close()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return n
}

func (n *testNode) events() []peerEvent {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]peerEvent(nil), n.seen...)
}

func (n *testNode) dial(to *testNode) (*Conn, error) {
	return n.Dial(context.Background(), to.Addr(), to.svid.ID)
}

func (n *testNode) mustDial(to *testNode) *Conn {
	n.t.Helper()
	c, err := n.dial(to)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

// counter sums a metric over the label values given.
func (n *testNode) counter(name string, labels map[string]string) (sum float64) {
	n.t.Helper()
	families, err := n.reg.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			matches := true
			for _, l := range m.GetLabel() {
				if want, ok := labels[l.GetName()]; ok && want != l.GetValue() {
					matches = false
				}
			}
			if matches {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// eventually polls cond for up to ten seconds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		case <-tick.C:
		}
	}
}

// echo sends msg over c and expects it back.
func echo(t testing.TB, c *Conn, msg string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := c.OpenStream(ctx, "echo")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := io.WriteString(s, msg); err != nil {
		t.Fatal(err)
	}
	_ = s.CloseWrite()
	b, err := io.ReadAll(s)
	if err != nil || string(b) != msg {
		t.Fatalf("echo: %q, %v", b, err)
	}
}

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
}
