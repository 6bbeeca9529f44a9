package issuer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer/issuerv1"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

const (
	tendEvery     = time.Minute
	followTimeout = 30 * time.Second
	// streamWorkers are goroutines that calls run on, one after another: their stacks
	// have grown already. More calls at once get goroutines of their own.
	streamWorkers = 16
)

// ErrAuthorityAway means the region's authority cannot be asked at present: no epoch is
// allocated and no AK endorsed. Nodes go on with those they have.
var ErrAuthorityAway = errors.New("the region's authority cannot be reached from this issuer: it gives no new epochs until it can")

// ErrEpochsLater means the region's authority gives this node no new epochs now: it had
// too many of late. The message says when. Meanwhile the node goes on with those it has.
var ErrEpochsLater = errors.New("the region's authority gives this node new epochs later")

// ErrConfig means a part the issuer cannot do without is missing.
var ErrConfig = errors.New("issuer is not completely configured")

// EndorseWith endorses with the authority's own key: that of
// trust.Record.AuthorityKey.
func EndorseWith(key crypto.Signer) func(context.Context, endorse.Endorsement) ([]byte, error) {
	return func(_ context.Context, e endorse.Endorsement) ([]byte, error) { return endorse.Sign(key, e) }
}

// Epochs hands out epoch numbers: the region's authority. For one ID and feed
// key it gives the same numbers until the authority moves on. Errors may match
// ErrAuthorityAway or ErrEpochsLater.
type Epochs interface {
	Allocate(ctx context.Context, r EpochRequest) (EpochGrant, error)
}

// EpochRequest asks for the epochs of one feed key.
type EpochRequest struct {
	ID          spiffeid.ID // the node
	FeedKeyHash [32]byte    // SHA-256 of the PKIX feed key
	Class       string      // of the node's entry; may be empty
	Attested    bool        // a TPM vouches for the feed key; if not, the grant's class is unattested
	Have        uint64      // the epoch the node says it is in, 0 for none
	Floor       uint64      // the TPM's epoch counter, attested or said; numbers must be above it
}

// EpochGrant is the current epoch, a spare above it, and the limits class both
// are given with: the authority may lower it for a time.
type EpochGrant struct {
	Current, Spare uint64
	Class          string
}

// Records looks up trust records; *trust.Set does.
type Records interface {
	Record(td spiffeid.TrustDomain) (trust.Record, bool)
	Regions() []trust.Record
}

// Config is everything an issuer needs.
type Config struct {
	// CA signs SVIDs; its trust domain is the issuer's. Required.
	CA *CA
	// RecordRoot signs epoch certificates. Required.
	RecordRoot *epoch.Root
	// Endorse has the region's authority sign an AK endorsement; see EndorseWith.
	// Required.
	Endorse func(context.Context, endorse.Endorsement) ([]byte, error)
	// Epochs allocates epoch numbers. Required.
	Epochs Epochs
	// Store keeps agent records, and takes the trail leaves. Required.
	Store *store.Store
	// Standing returns why an identity, a node's or an agent's, gets nothing at
	// present, or nil. It is asked in every call. Required.
	Standing func(spiffeid.ID) error
	// Appeal takes what a node that gets nothing at present has to say, and its machine
	// proved, to the region's authority. An error that matches ErrAuthorityAway says that
	// asking again may help. Nil: no appeals are taken.
	Appeal func(context.Context, Appeal) error
	// Attestors judge evidence, one for each type. None: nobody gets in.
	Attestors []Attestor
	// Upstream is what certified a nested CA; it is followed while the server runs.
	// Nil: the CA is its own anchor.
	Upstream Upstream
	// DevID certifies DevIDs for stock SPIRE servers. Nil: it does not.
	DevID *DevIDCA
	// Entries say who may have which ID.
	Entries []Entry
	// Trust knows the trust records of this and other regions: it answers
	// GetFederatedBundle, says whether a root is published, and names the roots of the
	// region's other issuers. Nil: no other regions and issuers, and nothing is checked
	// to be published.
	Trust Records
	// Others returns the JWT keys of the region's other issuers, which go into the
	// bundle. Nil: there are none.
	Others func() []Authority
	// Barred is called once a ban, the end of one or an eviction is on disk: the region's
	// other issuers are to follow. It must not block. Nil: nobody is told.
	Barred func()
	// Evicted reports whether another issuer of the region evicted an agent of late. Nil:
	// there is no other.
	Evicted func(agent spiffeid.ID) bool
	// TrustRecords returns the newest trust records, for nodes that enrol. Nil:
	// none.
	TrustRecords func() [][]byte
	// PolicyHeads returns the signed policy records that are in force for a node, at most
	// one of each level. Nil: none.
	PolicyHeads func(node spiffeid.ID) [][]byte
	// Lifetime is how long an SVID is valid. Zero: DefaultLifetime. Shorter is
	// safer: it bounds how long a stolen key works.
	Lifetime time.Duration

	// SignRate is how many SVIDs one agent may get in a second. Zero: 500, as in
	// SPIRE, and 2000 at once; negative: no limit.
	SignRate int

	Log     *slog.Logger          // nil: discard
	Metrics prometheus.Registerer // nil: none
}

// Server is a region's issuer. Make one with New.
type Server struct {
	cfg     Config
	td      spiffeid.TrustDomain
	entries atomic.Pointer[directory]
	kinds   map[string]Attestor
	tokens  *JoinTokens // nil: none are taken

	maxEntries int

	changing sync.Mutex // held while entries change; guards files
	files    []Entry

	roots    atomic.Pointer[roots]
	editions editions
	limits   limits
	shares   shares
	log      *slog.Logger

	attested, issued, refused *prometheus.CounterVec

	self struct {
		sync.Mutex // held while the issuer certifies itself
		identity.Credential
		due time.Time
	}
}

// New checks cfg and returns a server that is not listening yet. Errors match
// ErrConfig or ErrEntry and name everything that is wrong.
func New(cfg Config) (*Server, error) {
	var errs []error
	for name, missing := range map[string]bool{
		"CA": cfg.CA == nil, "record root": cfg.RecordRoot == nil, "endorsements": cfg.Endorse == nil,
		"epochs": cfg.Epochs == nil, "store": cfg.Store == nil, "standing": cfg.Standing == nil,
	} {
		if missing {
			errs = append(errs, fmt.Errorf("%w: %s", ErrConfig, name))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if cfg.RecordRoot.TrustDomain() != cfg.CA.td {
		return nil, fmt.Errorf("%w: record root is for %s, CA for %s", ErrConfig, cfg.RecordRoot.TrustDomain(), cfg.CA.td)
	}
	if cfg.Lifetime < 0 || cfg.Lifetime > maxLifetime {
		return nil, fmt.Errorf("%w: SVID lifetime %s, at most %s", ErrConfig, cfg.Lifetime, maxLifetime)
	}
	if cfg.Lifetime == 0 {
		cfg.Lifetime = DefaultLifetime
	}
	s := &Server{cfg: cfg, td: cfg.CA.td, kinds: map[string]Attestor{}, log: cfg.Log, maxEntries: maxEntries,
		shares: shares{max: rate.Limit(cfg.SignRate)}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, a := range cfg.Attestors {
		if _, twice := s.kinds[a.Type()]; twice {
			return nil, fmt.Errorf("%w: two attestors of type %q", ErrConfig, a.Type())
		}
		s.kinds[a.Type()] = a
		inner := a
		if j, ok := a.(Judged); ok {
			inner = j.Attestor
		}
		if j, ok := inner.(*JoinTokens); ok {
			s.tokens = j
			if err := j.load(cfg.Store); err != nil {
				return nil, err
			}
		}
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return promauto.With(cfg.Metrics).NewCounterVec(prometheus.CounterOpts{Namespace: "bailiwick", Subsystem: "issuer", Name: name, Help: help}, labels)
	}
	s.attested = counter("attestations_total", "Attestations judged, by type and result (ok, refused, limited).", "type", "result")
	s.issued = counter("issued_total", "Certificates and endorsements signed, by sort.", "what")
	s.refused = counter("refused_total", "Requests refused to verified callers, by sort.", "what")
	return s, s.SetEntries(cfg.Entries)
}

// Serve answers on l, which it closes, until ctx ends; calls under way then get
// two seconds.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	g := grpc.NewServer(
		grpc.Creds(sessions{credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13}), s}),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(128),
		// A whole message fits. Otherwise gRPC sizes windows by what it measures with a ping
		// for each call, which costs either side a write and a read.
		grpc.StaticStreamWindowSize(maxMessage),
		grpc.StaticConnWindowSize(4*maxMessage),
		grpc.ReadBufferSize(8<<10), // thousands of connections are idle: their buffers would be most of the memory
		grpc.NumStreamWorkers(streamWorkers),
		grpc.MaxHeaderListSize(16<<10),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 5 * time.Minute, Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	agentv1.RegisterAgentServer(g, agentAPI{Server: s})
	bundlev1.RegisterBundleServer(g, bundleAPI{Server: s})
	entryv1.RegisterEntryServer(g, entryAPI{Server: s})
	svidv1.RegisterSVIDServer(g, svidAPI{Server: s})
	issuerv1.RegisterIssuerServer(g, issuerAPI{Server: s})

	go s.tend(ctx)
	return serve(ctx, g, l)
}

// serve runs g on l until ctx ends.
func serve(ctx context.Context, g *grpc.Server, l net.Listener) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		kill := time.AfterFunc(2*time.Second, g.Stop)
		defer kill.Stop()
		g.GracefulStop()
	})
	err := g.Serve(l)
	if !stop() {
		<-stopped
		return nil
	}
	return fmt.Errorf("issuer on %s: %w", l.Addr(), err)
}

// tend looks after the JWT keys and the book of live identities until ctx ends.
func (s *Server) tend(ctx context.Context) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		if err := s.cfg.CA.Tend(time.Now()); err != nil {
			s.log.Error("JWT keys could not be rotated", "err", err)
		}
		if s.cfg.Upstream != nil {
			s.follow(ctx)
		}
		s.shares.tidy(time.Now())
		if err := s.forget(time.Now()); err != nil {
			s.log.Error("the book of live identities could not be tidied", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// follow keeps a nested CA below its upstream, which may be away for a while.
func (s *Server) follow(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	before := s.cfg.CA.Certificate()
	if err := s.cfg.CA.Follow(ctx, s.cfg.Upstream, time.Now()); err != nil {
		s.log.Warn("the upstream authority could not be followed; the issuer goes on with what it has", "err", err)
	}
	if !s.cfg.CA.Certificate().Equal(before) {
		s.renewSelf()
	}
}

// tls is for one connection. It asks for a client certificate but does not require
// one: AttestAgent and GetBundle are for those who have none yet.
func (s *Server) tls(on *session) *tls.Config {
	by := s.rootsNow()
	c := identity.ServerTLS(s, by.bundle, on.accept(by, s.ours))
	c.ClientAuth = tls.RequestClientCert
	verify := c.VerifyConnection
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 && !cs.DidResume {
			return nil
		}
		if err := verify(cs); !errors.Is(err, identity.ErrExpired) {
			return err
		}
		return nil // every call that needs a certificate answers AGENT_EXPIRED
	}
	return c
}

// ours welcomes the trust domain's own.
func (s *Server) ours(id spiffeid.ID, _ [][]*x509.Certificate) error {
	if !id.MemberOf(s.td) {
		return fmt.Errorf("not in %s", s.td)
	}
	return nil
}

// GetX509SVID returns the issuer's own SVID, which it signs itself, again at
// half of its life.
func (s *Server) GetX509SVID() (*x509svid.SVID, error) {
	s.self.Lock()
	defer s.self.Unlock()
	now := time.Now()
	if now.Before(s.self.due) {
		return s.self.Credential.GetX509SVID()
	}
	id, err := spiffeid.FromSegments(s.td, "spire", "server")
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	cert, err := s.sign(Request{ID: id, CSR: csr, Lifetime: s.cfg.Lifetime, Now: now})
	if err != nil {
		return nil, fmt.Errorf("certify the issuer itself: %w", err)
	}
	if err := s.cfg.Store.Update(func(tx *store.Tx) error {
		return s.issuedLeaf("server", id, id, cert).write(tx)
	}); err != nil {
		return nil, fmt.Errorf("certify the issuer itself: %w", err)
	}
	s.issued.WithLabelValues("server").Inc()
	svid := &x509svid.SVID{ID: id, Certificates: s.cfg.CA.chain(cert), PrivateKey: key}
	s.self.Set(svid)
	s.self.due = identity.Renewal{NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, Got: now}.Due()
	return svid, nil
}

func (s *Server) sign(req Request) (*x509.Certificate, error) {
	approved, err := s.cfg.CA.Check(req)
	if err != nil {
		return nil, err
	}
	return s.cfg.CA.Issue(approved)
}
