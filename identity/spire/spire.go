// Package spire is a client of SPIRE's server API: it attests a machine and
// gets it its X509-SVIDs, from bailiwick's own issuer or a real spire-server.
//
// # Order
//
// [Attest] opens a TLS channel on which the server proves with its SVID that it
// is spiffe://<trust domain>/spire/server, against a trust bundle the caller
// already has (there is no trust on first use), and the client proves by
// evidence what machine it is. Evidence is bound to the channel by a TLS
// exporter, taken from the very connection the stream runs on. The answer is an
// agent SVID. [Dial] makes a [Client] that shows it:
//
//	Entries        what this machine may ask SVIDs for
//	NewX509SVIDs   SVIDs of entries, for keys of the caller's choice
//	Renew          a new agent SVID, for agents that cannot attest again
//	CertifyDevID   bailiwick only: a certificate for "tpm_devid" at a stock server
//	Enrol          bailiwick only: epoch certificates, AK endorsement, trust records
//	NewJWTSVID     a bearer token of an entry
//	Bundle         the region's roots as the server sees them; TrustBundle: JWT keys too
//	FederatedBundle  another region's
//	NewDownstreamCA, PublishJWT  with an SVID of a downstream entry: see Upstream
//	PostStatus     which bundle is in use; nothing depends on it
//
// [TrustRecords] is for who cannot verify the server any more: what it returns proves
// itself.
//
// What comes back is checked before it is handed on: the chain verifies, the ID
// is the one asked for, the key is the caller's.
//
// # Errors
//
// ErrBanned: give up. ErrMustAttest: attest again. ErrRefused: the server
// understood and said no; its message says why. ErrUnreachable: try again later,
// perhaps at another server. ErrServer and ErrAnswer: somebody is not who they
// should be.
//
// A Client keeps one connection and no timer: when to renew is the caller's
// (identity.Renewal). An SVID that was renewed needs a new Client.
package spire

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

var (
	// ErrBanned means the server never wants to hear from this agent again.
	ErrBanned = errors.New("this machine is banned by its issuer: ask the operator")
	// ErrMustAttest means the agent SVID is no longer accepted: attest again.
	ErrMustAttest = errors.New("the agent SVID is no longer accepted: attest again")
	// ErrRefused means the server said no. Its message is in the error.
	ErrRefused = errors.New("refused by the issuer")
	// ErrUnreachable means the server cannot be reached, or cannot serve now.
	ErrUnreachable = errors.New("cannot reach the issuer: check its address and that it runs")
	// ErrServer means the server's certificate is not that of the region's issuer.
	ErrServer = errors.New("the server is not this region's issuer: check the address and the trust record")
	// ErrAnswer means the server's answer is not what was asked for.
	ErrAnswer = errors.New("unusable answer from the issuer")
)

const (
	maxMessage  = 16 << 20 // bytes of one answer: 500 entries or SVIDs, with room
	dialTimeout = 10 * time.Second
)

// Config says which server to use. All fields are required.
type Config struct {
	Addr        string               // host:port
	TrustDomain spiffeid.TrustDomain // the region
	Bundles     x509bundle.Source    // verify the server, and what it issues
}

// connect returns a connection that is made when first used; svid may be nil.
func (cfg Config) connect(svid *x509svid.SVID) (*connection, error) {
	want, err := spiffeid.FromSegments(cfg.TrustDomain, "spire", "server")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	var own identity.Credential
	own.Set(svid)
	c := identity.ClientTLS(&own, cfg.Bundles, func(id spiffeid.ID, _ [][]*x509.Certificate) error {
		if id != want {
			return fmt.Errorf("want %s", want)
		}
		return nil
	})
	if svid == nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	}
	return cfg.open(c, maxMessage)
}

// open returns a connection that is made when first used; answers have at most limit
// bytes.
func (cfg Config) open(c *tls.Config, limit int) (*connection, error) {
	creds := &rememberError{TransportCredentials: credentials.NewTLS(c), last: new(atomic.Pointer[error])}
	conn, err := grpc.NewClient("passthrough:///"+cfg.Addr,
		grpc.WithTransportCredentials(creds),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(limit)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: dialTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrUnreachable, cfg.Addr, err)
	}
	return &connection{ClientConn: conn, cfg: cfg, last: creds.last}, nil
}

// connection is a gRPC connection that still knows why a handshake failed.
type connection struct {
	*grpc.ClientConn
	cfg  Config
	last *atomic.Pointer[error]
}

// rememberError keeps the error of the newest handshake, of which gRPC passes
// on only the text.
type rememberError struct {
	credentials.TransportCredentials
	last *atomic.Pointer[error]
}

func (r *rememberError) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := r.TransportCredentials.ClientHandshake(ctx, authority, raw)
	r.last.Store(&err)
	return conn, info, err
}

func (r *rememberError) Clone() credentials.TransportCredentials {
	return &rememberError{TransportCredentials: r.TransportCredentials.Clone(), last: r.last}
}

// explain turns a gRPC error into one of this package's.
func (c *connection) explain(err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	for _, d := range st.Details() {
		if d, ok := d.(*types.PermissionDeniedDetails); ok {
			switch d.GetReason() {
			case types.PermissionDeniedDetails_AGENT_BANNED:
				return fmt.Errorf("%w (%s): %s", ErrBanned, c.cfg.Addr, st.Message())
			case types.PermissionDeniedDetails_AGENT_EXPIRED, types.PermissionDeniedDetails_AGENT_NOT_ATTESTED,
				types.PermissionDeniedDetails_AGENT_NOT_ACTIVE, types.PermissionDeniedDetails_AGENT_MUST_REATTEST:
				return fmt.Errorf("%w (%s): %s", ErrMustAttest, c.cfg.Addr, st.Message())
			}
		}
	}
	if st.Code() == codes.Unavailable {
		if p := c.last.Load(); p != nil && *p != nil && aboutServer(*p) {
			return fmt.Errorf("%w (%s): %w", ErrServer, c.cfg.Addr, *p)
		}
	}
	switch st.Code() {
	case codes.Canceled:
		return fmt.Errorf("%w: %s: %w", ErrUnreachable, c.cfg.Addr, context.Canceled)
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted:
		return fmt.Errorf("%w: %s: %s", ErrUnreachable, c.cfg.Addr, st.Message())
	}
	return fmt.Errorf("%w (%s): %s: %s", ErrRefused, c.cfg.Addr, st.Code(), st.Message())
}

func aboutServer(err error) bool {
	for _, target := range []error{identity.ErrNotSVID, identity.ErrForeign, identity.ErrUntrusted, identity.ErrExpired, identity.ErrRefused, identity.ErrResumed} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// request makes a certificate request for key, naming id unless it is zero.
func request(key crypto.Signer, id spiffeid.ID) ([]byte, error) {
	tmpl := &x509.CertificateRequest{}
	if !id.IsZero() {
		tmpl.URIs = []*url.URL{id.URL()}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate request: %w", err)
	}
	return csr, nil
}

// accept checks an SVID that came back: it verifies, and is for this key and,
// unless zero, this ID.
func (cfg Config) accept(msg *types.X509SVID, key crypto.Signer, want spiffeid.ID) (*x509svid.SVID, error) {
	chain := make([]*x509.Certificate, 0, len(msg.GetCertChain()))
	for _, der := range msg.GetCertChain() {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%w: SVID: %w", ErrAnswer, err)
		}
		chain = append(chain, cert)
	}
	id, _, err := x509svid.Verify(chain, cfg.Bundles)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: SVID: %w", ErrAnswer, err)
	case id.TrustDomain() != cfg.TrustDomain || !want.IsZero() && id != want:
		return nil, fmt.Errorf("%w: SVID is for %s, not %s", ErrAnswer, id, want)
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(chain[0].PublicKey) {
		return nil, fmt.Errorf("%w: SVID of %s is for another key", ErrAnswer, id)
	}
	return &x509svid.SVID{ID: id, Certificates: chain, PrivateKey: key, Hint: msg.GetHint()}, nil
}
