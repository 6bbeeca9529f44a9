package spire

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// stock behaves as a SPIRE server does towards a downstream one.
type stock struct {
	*liar
	entryv1.UnimplementedEntryServer
	svidv1.UnimplementedSVIDServer
	bundlev1.UnimplementedBundleServer

	downstream bool
	once       bool // an agent cannot attest again: it renews
	forgets    int  // calls of the downstream SVID answered with "attest again"
	evicts     int  // the same of the agent SVID
	attested   int
	published  []*types.JWTKey
}

func newStock(t *testing.T) (*stock, Config) {
	t.Helper()
	l, cfg := newLiar(t)
	s := &stock{liar: l, downstream: true}
	own := newKey(t)
	tls := identity.ServerTLS(l.source(own), cfg.Bundles, func(spiffeid.ID, [][]*x509.Certificate) error { return nil })
	tls.ClientAuth, tls.VerifyConnection = 1, nil // what it asks for is judged in the calls
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(tls)))
	agentv1.RegisterAgentServer(g, s)
	entryv1.RegisterEntryServer(g, s)
	svidv1.RegisterSVIDServer(g, s)
	bundlev1.RegisterBundleServer(g, s)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go g.Serve(lis)
	t.Cleanup(g.Stop)
	cfg.Addr = lis.Addr().String()
	l.answers = func(l *liar, csr *x509.CertificateRequest) *agentv1.AttestAgentResponse {
		s.attested++
		return &agentv1.AttestAgentResponse{Step: &agentv1.AttestAgentResponse_Result_{Result: &agentv1.AttestAgentResponse_Result{Reattestable: !s.once,
			Svid: &types.X509SVID{CertChain: [][]byte{l.svid("/spire/agent/x", csr.PublicKey, time.Hour).Raw}}}}}
	}
	return s, cfg
}

func (s *stock) SyncAuthorizedEntries(stream entryv1.Entry_SyncAuthorizedEntriesServer) error {
	if s.evicts > 0 {
		s.evicts--
		return gone()
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	id := func(path string) *types.SPIFFEID {
		return &types.SPIFFEID{TrustDomain: "east.dev.example", Path: path}
	}
	return stream.Send(&entryv1.SyncAuthorizedEntriesResponse{Entries: []*types.Entry{
		{Id: "1", SpiffeId: id("/workload"), ParentId: id("/spire/agent/x")},
		{Id: "2", SpiffeId: id("/region"), ParentId: id("/spire/agent/x"), Downstream: s.downstream},
	}})
}

func (s *stock) BatchNewX509SVID(_ context.Context, req *svidv1.BatchNewX509SVIDRequest) (*svidv1.BatchNewX509SVIDResponse, error) {
	csr, err := x509.ParseCertificateRequest(req.Params[0].Csr)
	if err != nil {
		return nil, err
	}
	return &svidv1.BatchNewX509SVIDResponse{Results: []*svidv1.BatchNewX509SVIDResponse_Result{
		{Status: &types.Status{}, Svid: &types.X509SVID{CertChain: [][]byte{s.svid(csr.URIs[0].Path, csr.PublicKey, time.Hour).Raw}}},
	}}, nil
}

func gone() error {
	st, _ := status.New(codes.PermissionDenied, "gone").WithDetails(&types.PermissionDeniedDetails{Reason: types.PermissionDeniedDetails_AGENT_NOT_ATTESTED})
	return st.Err()
}

// downstreamOnly is SPIRE's authorization, and its forgetfulness.
func (s *stock) downstreamOnly(ctx context.Context) error {
	if s.forgets > 0 {
		s.forgets--
		return gone()
	}
	p, _ := peer.FromContext(ctx)
	certs := p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates
	if len(certs) != 1 || certs[0].URIs[0].Path != "/region" {
		return status.Error(codes.PermissionDenied, "not a downstream")
	}
	return nil
}

func (s *stock) NewDownstreamX509CA(ctx context.Context, req *svidv1.NewDownstreamX509CARequest) (*svidv1.NewDownstreamX509CAResponse, error) {
	if err := s.downstreamOnly(ctx); err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(req.Csr)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: "down"}, IsCA: true, BasicConstraintsValid: true, URIs: csr.URIs,
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Duration(req.PreferredTtl) * time.Second)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, s.cert, csr.PublicKey, s.key)
	return &svidv1.NewDownstreamX509CAResponse{CaCertChain: [][]byte{der}, X509Authorities: [][]byte{s.cert.Raw}}, err
}

func (s *stock) PublishJWTAuthority(ctx context.Context, req *bundlev1.PublishJWTAuthorityRequest) (*bundlev1.PublishJWTAuthorityResponse, error) {
	if err := s.downstreamOnly(ctx); err != nil {
		return nil, err
	}
	s.published = append(s.published, req.JwtAuthority)
	return &bundlev1.PublishJWTAuthorityResponse{JwtAuthorities: s.published}, nil
}

func (s *stock) GetBundle(context.Context, *bundlev1.GetBundleRequest) (*types.Bundle, error) {
	return &types.Bundle{TrustDomain: "east.dev.example", X509Authorities: []*types.X509Certificate{{Asn1: s.cert.Raw}}, JwtAuthorities: s.published, SequenceNumber: 3}, nil
}

func TestUpstream(t *testing.T) {
	s, cfg := newStock(t)
	up, err := NewUpstream(UpstreamConfig{Config: cfg, By: NewJoinToken("x"), Key: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	key := newKey(t)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{{Scheme: "spiffe", Host: "east.dev.example"}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := up.NewCA(t.Context(), csr, 30*time.Minute)
	if err != nil || len(chain) != 1 || !chain[0].IsCA || time.Until(chain[0].NotAfter) > 30*time.Minute || !key.PublicKey.Equal(chain[0].PublicKey) {
		t.Fatal(chain, err)
	}
	if err := up.PublishJWT(t.Context(), "kid", key.Public(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	b, err := up.Bundle(t.Context())
	if n, _ := b.SequenceNumber(); err != nil || n != 3 || !b.HasJWTAuthority("kid") {
		t.Errorf("%v, %v", b, err)
	}
	if s.attested != 1 {
		t.Errorf("attested %d times for three calls", s.attested)
	}
	s.forgets = 1
	if err := up.PublishJWT(t.Context(), "kid2", key.Public(), time.Now().Add(time.Hour)); err != nil || s.attested != 1 {
		t.Errorf("downstream SVID refused: %v, attested %d times", err, s.attested)
	}
	s.forgets, s.evicts = 1, 1
	if err := up.PublishJWT(t.Context(), "kid2", key.Public(), time.Now().Add(time.Hour)); err != nil || s.attested != 2 {
		t.Errorf("evicted meanwhile: %v, attested %d times", err, s.attested)
	}
	s.forgets = 5
	if err := up.PublishJWT(t.Context(), "kid3", key.Public(), time.Now().Add(time.Hour)); !errors.Is(err, ErrMustAttest) {
		t.Errorf("evicted for good: %v", err)
	}
	s.forgets, s.downstream = 0, false
	other, err := NewUpstream(UpstreamConfig{Config: cfg, By: NewJoinToken("x"), Key: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Bundle(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("no downstream entry: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

// TestUpstreamKeepsItsAgent: evidence that works once is used once, also across
// restarts.
func TestUpstreamKeepsItsAgent(t *testing.T) {
	s, cfg := newStock(t)
	s.once, s.downstream = true, false
	var kept *x509svid.SVID
	full := errors.New("disk full")
	failing := full
	c := UpstreamConfig{Config: cfg, By: NewJoinToken("x"), Key: newKey(t), Keep: func(svid *x509svid.SVID) error {
		kept = svid
		return failing
	}}
	up, err := NewUpstream(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.Bundle(t.Context()); !errors.Is(err, full) {
		t.Errorf("an SVID that could not be kept: %v", err)
	}
	failing = nil
	for range 3 {
		if _, err := up.Bundle(t.Context()); !errors.Is(err, ErrRefused) {
			t.Errorf("no downstream entry yet: %v", err)
		}
	}
	if s.attested != 1 || kept == nil {
		t.Fatalf("attested %d times, kept %v", s.attested, kept)
	}
	s.downstream = true
	c.Agent = kept
	again, err := NewUpstream(c)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.Bundle(t.Context()); err != nil || s.attested != 1 {
		t.Errorf("after a restart: %v, attested %d times", err, s.attested)
	}
}
