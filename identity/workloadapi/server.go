package workloadapi

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path"
	"strings"
	"sync"
	"time"

	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
)

// AsOfHeader is the metadata key of the time (RFC 3339) that an answer is from.
const AsOfHeader = "bailiwick-as-of"

const (
	securityHeader = "workload.spiffe.io" // SPIFFE Workload Endpoint section 6
	service        = "/SpiffeWorkloadAPI/"
	maxRequest     = 64 << 10 // bytes
	maxStreams     = 64       // calls at once on one connection
)

// Identity is what a caller may be.
type Identity struct {
	SVID  *x509svid.SVID // with its key
	Entry string         // ID of the registration entry that gives it
	Hint  string         // for the workload, where it has several
}

// Source is what the server serves from. Its methods are called concurrently,
// only JWTSVID may block; what they return must not be changed later.
type Source interface {
	// Identities returns the identities of a caller, the default one first: those
	// whose entry's selectors it shows, all of them. An error means there is nothing to say yet
	// and is shown to the caller; none means it has no identity.
	Identities(shows func(entry []string) bool) ([]Identity, error)
	// JWTSVID returns a token of an identity for an audience, which is not empty.
	// An error means there is none at present, and is shown to the caller.
	JWTSVID(ctx context.Context, i Identity, audience []string) (*jwtsvid.SVID, error)
	// Bundles returns the trust bundles of all trust domains known here, X.509
	// roots and JWT keys.
	Bundles() []*spiffebundle.Bundle
	// AsOf returns when the above was last confirmed by an issuer.
	AsOf() time.Time
	// Changed returns a channel that is closed at the next change of the above.
	Changed() <-chan struct{}
}

// Config says what a Server needs. Path, TrustDomain and Source are required.
type Config struct {
	Path        string // of the socket
	TrustDomain spiffeid.TrustDomain
	Source      Source
	// Attribute says which process connected. Nil uses package caller.
	Attribute func(*net.UnixConn) (Caller, error)
	Log       *slog.Logger          // may be nil
	Metrics   prometheus.Registerer // may be nil
}

// Server serves one socket. Make one with Listen.
type Server struct {
	workload.UnimplementedSpiffeWorkloadAPIServer

	cfg      Config
	log      *slog.Logger
	listener *net.UnixListener
	grpc     *grpc.Server
	calls    *prometheus.CounterVec
	stopping chan struct{}
	once     sync.Once
}

// Listen makes the socket, so that workloads find it, and serves it once Run
// runs. Errors: ErrBusy, ErrNotSocket, ErrLongPath, or the file system's.
func Listen(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, log: cfg.Log, stopping: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.Attribute == nil {
		s.cfg.Attribute = attribute
	}
	s.calls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bailiwick_workload_api_calls_total",
		Help: "Workload API and SDS calls that ended, by method and gRPC code.",
	}, []string{"method", "code"})
	if cfg.Metrics != nil {
		if err := cfg.Metrics.Register(s.calls); err != nil {
			return nil, fmt.Errorf("register metrics of workloadapi: %w", err)
		}
	}
	var err error
	if s.listener, err = listen(cfg.Path); err != nil {
		return nil, err
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(attestation{s.cfg.Attribute}),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)
	workload.RegisterSpiffeWorkloadAPIServer(s.grpc, s)
	secretv3.RegisterSecretDiscoveryServiceServer(s.grpc, sds{Server: s})
	reflection.Register(s.grpc)
	return s, nil
}

// Run serves until ctx ends or Close. It returns nil unless the socket failed.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	err := s.grpc.Serve(s.listener)
	select {
	case <-s.stopping:
		return nil
	default:
		return fmt.Errorf("serve the Workload API on %s: %w", s.cfg.Path, err)
	}
}

// Close ends all calls with Unavailable and removes the socket.
func (s *Server) Close() error {
	s.once.Do(func() {
		close(s.stopping)
		s.grpc.Stop()
		_ = s.listener.Close() // closed already where Run ran
	})
	return nil
}

// secure enforces the security header on Workload API calls. Those of Envoy and
// reflection are none.
func secure(ctx context.Context, method string) error {
	if !strings.HasPrefix(method, service) {
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(securityHeader); len(v) != 1 || v[0] != "true" {
		return status.Errorf(codes.InvalidArgument, "security header missing from request: metadata %q must be there once, with the value \"true\"", securityHeader)
	}
	return nil
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	if err = secure(ctx, info.FullMethod); err == nil {
		resp, err = next(ctx, req)
	}
	s.done(ctx, info.FullMethod, err)
	return resp, err
}

func (s *Server) stream(srv any, st grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	err := secure(st.Context(), info.FullMethod)
	if err == nil {
		err = next(srv, st)
	}
	s.done(st.Context(), info.FullMethod, err)
	return err
}

// done counts a call that ended and logs a refusal.
func (s *Server) done(ctx context.Context, method string, err error) {
	if !strings.HasPrefix(method, service) && !strings.HasPrefix(method, sdsService) {
		return
	}
	name, code := path.Base(method), status.Code(err)
	s.calls.WithLabelValues(name, code.String()).Inc()
	switch code {
	case codes.OK, codes.Canceled:
	case codes.PermissionDenied, codes.Unavailable, codes.InvalidArgument:
		c, _ := callerOf(ctx)
		s.log.Info("workload API call refused", "method", name, "pid", c.PID, "selectors", c.Selectors, "err", err)
	default:
		s.log.Debug("workload API call ended", "method", name, "err", err)
	}
}
