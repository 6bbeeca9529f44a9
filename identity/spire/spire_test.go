package spire

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
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
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// The good answers of a real server are tested in package issuer. Here the
// server lies.

var east = spiffeid.RequireTrustDomainFromString("east.dev.example")

type liar struct {
	agentv1.UnimplementedAgentServer
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	server  string // path of the ID it shows
	answers func(l *liar, csr *x509.CertificateRequest) *agentv1.AttestAgentResponse
	err     error
}

func newLiar(t *testing.T) (*liar, Config) {
	t.Helper()
	l := &liar{server: "/spire/server", key: newKey(t)}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "liar"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &l.key.PublicKey, l.key)
	if err != nil {
		t.Fatal(err)
	}
	l.cert, _ = x509.ParseCertificate(der)
	bundle := x509bundle.FromX509Authorities(east, []*x509.Certificate{l.cert})
	key := newKey(t)
	tls := identity.ServerTLS(l.source(key), bundle, nil)
	tls.ClientAuth, tls.VerifyConnection = 0, nil // no client certificate
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(tls)))
	agentv1.RegisterAgentServer(g, l)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go g.Serve(listener)
	t.Cleanup(g.Stop)
	return l, Config{Addr: listener.Addr().String(), TrustDomain: east, Bundles: bundle}
}

// source makes the liar's own SVID.
func (l *liar) source(key *ecdsa.PrivateKey) x509svid.Source {
	return sourceFunc(func() (*x509svid.SVID, error) {
		return &x509svid.SVID{Certificates: []*x509.Certificate{l.svid(l.server, &key.PublicKey, time.Hour)}, PrivateKey: key}, nil
	})
}

type sourceFunc func() (*x509svid.SVID, error)

func (f sourceFunc) GetX509SVID() (*x509svid.SVID, error) { return f() }

func (l *liar) svid(path string, pub crypto.PublicKey, life time.Duration) *x509.Certificate {
	u := &url.URL{Scheme: "spiffe", Host: "east.dev.example", Path: path}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), URIs: []*url.URL{u}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life)}
	der, _ := x509.CreateCertificate(rand.Reader, tmpl, l.cert, pub, l.key)
	cert, _ := x509.ParseCertificate(der)
	return cert
}

func (l *liar) AttestAgent(stream agentv1.Agent_AttestAgentServer) error {
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	csr, err := x509.ParseCertificateRequest(req.GetParams().GetParams().GetCsr())
	if err != nil {
		return err
	}
	for l.err == nil {
		if err := stream.Send(l.answers(l, csr)); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
	return l.err
}

type endless struct{ JoinToken }

func (endless) Begin(context.Context) ([]byte, func(Question) ([]byte, error), error) {
	return []byte("x"), func(Question) ([]byte, error) { return []byte("y"), nil }, nil
}

func TestLyingServer(t *testing.T) {
	key := newKey(t)
	result := func(cert *x509.Certificate) *agentv1.AttestAgentResponse {
		svid := &types.X509SVID{}
		if cert != nil {
			svid.CertChain = [][]byte{cert.Raw}
		}
		return &agentv1.AttestAgentResponse{Step: &agentv1.AttestAgentResponse_Result_{Result: &agentv1.AttestAgentResponse_Result{Svid: svid}}}
	}
	banned, _ := status.New(codes.PermissionDenied, "out").WithDetails(&types.PermissionDeniedDetails{Reason: types.PermissionDeniedDetails_AGENT_BANNED})
	for _, c := range []struct {
		name   string
		change func(*liar)
		by     Attester
		want   error
	}{
		{"honest", func(l *liar) {
			l.answers = func(l *liar, csr *x509.CertificateRequest) *agentv1.AttestAgentResponse {
				return result(l.svid("/spire/agent/x", csr.PublicKey, time.Hour))
			}
		}, NewJoinToken("x"), nil},
		{"SVID for another key", func(l *liar) {
			l.answers = func(l *liar, _ *x509.CertificateRequest) *agentv1.AttestAgentResponse {
				return result(l.svid("/spire/agent/x", &newKey(t).PublicKey, time.Hour))
			}
		}, NewJoinToken("x"), ErrAnswer},
		{"expired SVID", func(l *liar) {
			l.answers = func(l *liar, csr *x509.CertificateRequest) *agentv1.AttestAgentResponse {
				return result(l.svid("/spire/agent/x", csr.PublicKey, -time.Second))
			}
		}, NewJoinToken("x"), ErrAnswer},
		{"no SVID", func(l *liar) {
			l.answers = func(*liar, *x509.CertificateRequest) *agentv1.AttestAgentResponse { return result(nil) }
		}, NewJoinToken("x"), ErrAnswer},
		{"a challenge nobody expects", func(l *liar) { l.answers = challenge }, NewJoinToken("x"), ErrAnswer},
		{"challenges without end", func(l *liar) { l.answers = challenge }, endless{}, ErrAnswer},
		{"a workload as server", func(l *liar) { l.server = "/workload/shop" }, NewJoinToken("x"), ErrServer},
		{"banned", func(l *liar) { l.err = banned.Err() }, NewJoinToken("x"), ErrBanned},
		{"refused", func(l *liar) { l.err = status.Error(codes.InvalidArgument, "no") }, NewJoinToken("x"), ErrRefused},
		{"too many", func(l *liar) { l.err = status.Error(codes.ResourceExhausted, "later") }, NewJoinToken("x"), ErrUnreachable},
	} {
		l, cfg := newLiar(t)
		c.change(l)
		a, err := Attest(t.Context(), cfg, c.by, key)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if err == nil && a.SVID.ID.Path() != "/spire/agent/x" {
			t.Errorf("%s: %s", c.name, a.SVID.ID)
		}
	}
}

func TestCancelled(t *testing.T) {
	l, cfg := newLiar(t)
	l.err = status.Error(codes.Internal, "never seen")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Attest(ctx, cfg, NewJoinToken("x"), newKey(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func challenge(*liar, *x509.CertificateRequest) *agentv1.AttestAgentResponse {
	return &agentv1.AttestAgentResponse{Step: &agentv1.AttestAgentResponse_Challenge{Challenge: []byte("?")}}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
