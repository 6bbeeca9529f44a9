package workloadapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// makeSVID makes a self-signed SVID that ends after life.
func makeSVID(t testing.TB, id string, life time.Duration) *x509svid.SVID {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sid := spiffeid.RequireFromString(id)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), URIs: []*url.URL{sid.URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &x509svid.SVID{ID: sid, Certificates: []*x509.Certificate{cert}, PrivateKey: key}
}

func bundleOf(svid *x509svid.SVID) *spiffebundle.Bundle {
	return spiffebundle.FromX509Authorities(svid.ID.TrustDomain(), svid.Certificates)
}

// entry is an identity and the selectors it takes.
type entry struct {
	selectors []string
	identity  Identity
}

// source is a Source that tests change.
type source struct {
	mu      sync.Mutex
	entries []entry
	bundles []*spiffebundle.Bundle
	err     error
	sign    func(i Identity, audience []string) (string, error) // JWT-SVIDs
	changed chan struct{}
}

func (s *source) set(change func(*source)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *source) Identities(shows func([]string) bool) (out []Identity, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		if shows(e.selectors) {
			out = append(out, e.identity)
		}
	}
	return out, s.err
}

func (s *source) Bundles() []*spiffebundle.Bundle {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bundles
}

func (s *source) JWTSVID(_ context.Context, i Identity, audience []string) (*jwtsvid.SVID, error) {
	s.mu.Lock()
	sign := s.sign
	s.mu.Unlock()
	token, err := sign(i, audience)
	if err != nil {
		return nil, err
	}
	return jwtsvid.ParseInsecure(token, audience)
}

func (s *source) AsOf() time.Time { return time.Unix(1_700_000_000, 0) }

func (s *source) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// process is a local process as tests want it seen.
type process struct {
	mu        sync.Mutex
	attestErr error
	now       error
	closed    int
}

func (p *process) attribute(*net.UnixConn) (Caller, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.attestErr != nil {
		return Caller{}, p.attestErr
	}
	return Caller{
		PID: 42, Selectors: []string{"unix:uid:1000", "unix:user:web"},
		Recheck: func() error { p.mu.Lock(); defer p.mu.Unlock(); return p.now },
		Close:   func() error { p.mu.Lock(); defer p.mu.Unlock(); p.closed++; return nil },
	}, nil
}

func (p *process) become(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = err
}

func (p *process) refuse(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attestErr = err
}

const shopID = "spiffe://east.dev.example/workload/shop"

// fixture is a running server with one identity for uid 1000.
type fixture struct {
	path string
	src  *source
	proc *process
	shop *x509svid.SVID
	west *x509svid.SVID
	srv  *Server
}

func start(t testing.TB, change func(*Config)) *fixture {
	t.Helper()
	f := &fixture{path: filepath.Join(t.TempDir(), "run", "api.sock"), proc: &process{}}
	f.shop = makeSVID(t, shopID, time.Hour)
	f.west = makeSVID(t, "spiffe://west.dev.example/x", time.Hour)
	f.src = &source{
		entries: []entry{{[]string{"unix:uid:1000"}, Identity{SVID: f.shop, Hint: "internal"}}},
		bundles: []*spiffebundle.Bundle{bundleOf(f.shop), bundleOf(f.west)},
		changed: make(chan struct{}),
	}
	cfg := Config{Path: f.path, TrustDomain: f.shop.ID.TrustDomain(), Source: f.src, Attribute: f.proc.attribute}
	if change != nil {
		change(&cfg)
	}
	srv, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.srv = srv
	done := make(chan error, 1)
	go func() { done <- srv.Run(context.Background()) }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return f
}

func (f *fixture) client(t testing.TB) *workloadapi.Client {
	t.Helper()
	c, err := workloadapi.New(context.Background(), workloadapi.WithAddr("unix://"+f.path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// raw is a client that sends what metadata it likes.
func (f *fixture) raw(t testing.TB) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("unix://"+f.path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}
