package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

type testCA struct {
	td   spiffeid.TrustDomain
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestCA(t *testing.T, td string) *testCA {
	t.Helper()
	ca := &testCA{td: spiffeid.RequireTrustDomainFromString(td)}
	ca.key = newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: td}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	ca.cert = sign(t, tmpl, tmpl, ca.key, ca.key)
	return ca
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t *testing.T, tmpl, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
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

func (ca *testCA) svid(t *testing.T, change func(*x509.Certificate)) *x509svid.SVID {
	t.Helper()
	id := spiffeid.RequireFromPath(ca.td, "/node/n1")
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{id.URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Minute),
	}
	if change != nil {
		change(tmpl)
	}
	key := newKey(t)
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{sign(t, tmpl, ca.cert, key, ca.key)}, PrivateKey: key}
}

func (ca *testCA) bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(ca.td, []*x509.Certificate{ca.cert})
}

func anyone(spiffeid.ID, [][]*x509.Certificate) error { return nil }

// serve answers one byte on every accepted connection until the test ends.
func serve(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.Write([]byte("x"))
			}()
		}
	}()
	return l.Addr().String()
}

func ask(addr string, cfg *tls.Config) (tls.ConnectionState, error) {
	c, err := (&tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: cfg}).Dial("tcp", addr)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer c.Close()
	_, err = io.ReadFull(c, make([]byte, 1))
	c.Read(make([]byte, 1)) // lets a late ticket arrive
	return c.(*tls.Conn).ConnectionState(), err
}

func TestMutual(t *testing.T) {
	ca := newTestCA(t, "east.dev.example")
	addr := serve(t, ServerTLS(ca.svid(t, nil), ca.bundle(), anyone))
	cs, err := ask(addr, ClientTLS(ca.svid(t, nil), ca.bundle(), anyone))
	if err != nil {
		t.Fatal(err)
	}
	if cs.Version != tls.VersionTLS13 || cs.CurveID != tls.X25519MLKEM768 {
		t.Errorf("version %x, group %v", cs.Version, cs.CurveID)
	}
	if id, err := PeerID(cs); err != nil || id.Path() != "/node/n1" {
		t.Errorf("peer %v, %v", id, err)
	}
	old := ClientTLS(ca.svid(t, nil), ca.bundle(), anyone)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, err := ask(addr, old); err == nil {
		t.Error("TLS 1.2 was accepted")
	}
}

// A client that keeps a session cache must not get past the check of its
// certificate by resuming, once it is no longer welcome.
func TestResumptionNeverSkipsTheCheck(t *testing.T) {
	ca := newTestCA(t, "east.dev.example")
	var bad atomic.Bool
	welcome := func(spiffeid.ID, [][]*x509.Certificate) error {
		if bad.Load() {
			return errors.New("quarantined")
		}
		return nil
	}
	addr := serve(t, ServerTLS(ca.svid(t, nil), ca.bundle(), welcome))
	client := ClientTLS(ca.svid(t, nil), ca.bundle(), anyone)
	client.ClientSessionCache, client.SessionTicketsDisabled = tls.NewLRUClientSessionCache(8), false
	for range 2 {
		if cs, err := ask(addr, client); err != nil || cs.DidResume {
			t.Fatalf("resumed %v, err %v", cs.DidResume, err)
		}
	}
	bad.Store(true)
	if _, err := ask(addr, client); err == nil {
		t.Fatal("a peer turned bad got through")
	}
	// Even if tickets were on, VerifyConnection alone would refuse.
	server := ServerTLS(ca.svid(t, nil), ca.bundle(), anyone)
	server.SessionTicketsDisabled = false
	addr = serve(t, server)
	if _, err := ask(addr, client); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(addr, client); !errors.Is(err, ErrResumed) {
		t.Fatalf("second connection: %v, want ErrResumed", err)
	}
}

func TestVerifyPeer(t *testing.T) {
	east, west := newTestCA(t, "east.dev.example"), newTestCA(t, "west.dev.example")
	liar := newTestCA(t, "east.dev.example")
	uri := func(s string) *url.URL { u, _ := url.Parse(s); return u }
	now := time.Now()
	for _, c := range []struct {
		name string
		svid *x509svid.SVID
		auth Authorize
		want error
	}{
		{"good", east.svid(t, nil), anyone, nil},
		{"nobody authorises", east.svid(t, nil), nil, ErrRefused},
		{"refused", east.svid(t, nil), func(spiffeid.ID, [][]*x509.Certificate) error { return io.EOF }, ErrRefused},
		{"foreign", west.svid(t, nil), anyone, ErrForeign},
		{"another root with the same name", liar.svid(t, nil), anyone, ErrUntrusted},
		{"expired", east.svid(t, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }), anyone, ErrExpired},
		{"not yet", east.svid(t, func(c *x509.Certificate) { c.NotBefore = now.Add(30 * time.Second) }), anyone, ErrExpired},
		{"no URI", east.svid(t, func(c *x509.Certificate) { c.URIs = nil }), anyone, ErrNotSVID},
		{"two URIs", east.svid(t, func(c *x509.Certificate) { c.URIs = append(c.URIs, uri("spiffe://east.dev.example/b")) }), anyone, ErrNotSVID},
		{"not SPIFFE", east.svid(t, func(c *x509.Certificate) { c.URIs = []*url.URL{uri("https://east.dev.example/")} }), anyone, ErrNotSVID},
		{"CA leaf", east.svid(t, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), anyone, ErrNotSVID},
		{"no certificate", &x509svid.SVID{}, anyone, ErrNotSVID},
	} {
		_, err := VerifyPeer(c.svid.Certificates, east.bundle(), c.auth, now)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestNoCertificateIsRefused(t *testing.T) {
	ca := newTestCA(t, "east.dev.example")
	addr := serve(t, ServerTLS(ca.svid(t, nil), ca.bundle(), anyone))
	if _, err := ask(addr, ClientTLS(&Credential{}, ca.bundle(), anyone)); !errors.Is(err, ErrNoSVID) {
		t.Errorf("got %v, want ErrNoSVID", err)
	}
	bare := &tls.Config{InsecureSkipVerify: true}
	if _, err := ask(addr, bare); err == nil {
		t.Error("a client without a certificate got through")
	}
}
