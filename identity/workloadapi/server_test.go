package workloadapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/attest/caller"
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

func bundleOf(svid *x509svid.SVID) *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(svid.ID.TrustDomain(), svid.Certificates)
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
	bundles []*x509bundle.Bundle
	err     error
	changed chan struct{}
}

func (s *source) set(change func(*source)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *source) Identities(selectors []string) (out []Identity, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		if Match(e.selectors, selectors) {
			out = append(out, e.identity)
		}
	}
	return out, s.err
}

func (s *source) Bundles() []*x509bundle.Bundle {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bundles
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
		bundles: []*x509bundle.Bundle{bundleOf(f.shop), bundleOf(f.west)},
		changed: make(chan struct{}),
	}
	cfg := Config{Path: f.path, Source: f.src, Attribute: f.proc.attribute}
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

func TestFetch(t *testing.T) {
	f := start(t, nil)
	x, err := f.client(t).FetchX509Context(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(x.SVIDs) != 1 || x.DefaultSVID().ID.String() != shopID || x.DefaultSVID().Hint != "internal" {
		t.Errorf("SVIDs: %+v", x.SVIDs)
	}
	if !x.DefaultSVID().PrivateKey.(*ecdsa.PrivateKey).Equal(f.shop.PrivateKey) {
		t.Error("another key came back")
	}
	for _, b := range []*x509bundle.Bundle{bundleOf(f.shop), bundleOf(f.west)} {
		if got, ok := x.Bundles.Get(b.TrustDomain()); !ok || !got.Equal(b) {
			t.Errorf("bundle of %s: %v", b.TrustDomain(), got)
		}
	}
	set, err := f.client(t).FetchX509Bundles(timeout(t))
	if err != nil || set.Len() != 2 {
		t.Errorf("bundles: %v, %v", set, err)
	}
}

func TestSecondEntryAndOtherCallers(t *testing.T) {
	f := start(t, nil)
	admin := makeSVID(t, "spiffe://east.dev.example/workload/admin", time.Hour)
	bank := makeSVID(t, "spiffe://east.dev.example/workload/bank", time.Hour)
	f.src.set(func(s *source) {
		s.entries = append(s.entries,
			entry{[]string{"unix:uid:1000", "unix:user:web"}, Identity{SVID: admin}},
			entry{[]string{"unix:uid:1001"}, Identity{SVID: bank}},
			entry{nil, Identity{SVID: bank}})
	})
	svids, err := f.client(t).FetchX509SVIDs(timeout(t))
	if err != nil || len(svids) != 2 || svids[0].ID.String() != shopID || svids[1].ID != admin.ID {
		t.Errorf("got %v, %v", svids, err)
	}
}

// watcher hands on what a go-spiffe client hears.
type watcher struct {
	updates chan *workloadapi.X509Context
	errs    chan error
}

func (w watcher) OnX509ContextUpdate(x *workloadapi.X509Context) { w.updates <- x }
func (w watcher) OnX509ContextWatchError(err error) {
	select {
	case w.errs <- err:
	default:
	}
}

func TestPushOnChange(t *testing.T) {
	f := start(t, nil)
	w := watcher{make(chan *workloadapi.X509Context, 8), make(chan error, 8)}
	ctx, cancel := context.WithCancel(timeout(t))
	done := make(chan error, 1)
	c := f.client(t)
	go func() { done <- c.WatchX509Context(ctx, w) }()
	next := func() *workloadapi.X509Context {
		t.Helper()
		select {
		case x := <-w.updates:
			return x
		case <-ctx.Done():
			t.Fatal("no update")
			return nil
		}
	}
	first := next()
	f.src.set(func(*source) {}) // nothing new: nothing is pushed
	renewed := makeSVID(t, shopID, 2*time.Hour)
	f.src.set(func(s *source) { s.entries[0].identity.SVID = renewed })
	second := next()
	if !second.DefaultSVID().Certificates[0].Equal(renewed.Certificates[0]) || second.DefaultSVID().Certificates[0].Equal(first.DefaultSVID().Certificates[0]) {
		t.Error("the push was not the renewed SVID")
	}
	f.src.set(func(s *source) { s.bundles = s.bundles[:1] })
	if x := next(); x.Bundles.Len() != 1 {
		t.Errorf("%d bundles after one was taken away", x.Bundles.Len())
	}
	f.src.set(func(s *source) { s.entries = nil })
	if err := <-w.errs; status.Code(err) != codes.PermissionDenied {
		t.Errorf("identity taken away: %v", err)
	}
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled && !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
}

// TestCallerIsLookedAtAgain: no push goes to a process that is another one by
// then.
func TestCallerIsLookedAtAgain(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		code codes.Code
	}{
		"gone":         {caller.ErrGone, codes.PermissionDenied},
		"changed":      {fmt.Errorf("pid 42: %w", caller.ErrChanged), codes.PermissionDenied},
		"unattributed": {caller.ErrUnattributed, codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, nil)
			ctx := metadata.AppendToOutgoingContext(timeout(t), securityHeader, "true")
			stream, err := workload.NewSpiffeWorkloadAPIClient(f.raw(t)).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
			f.proc.become(tt.err)
			f.src.set(func(s *source) { s.entries[0].identity.SVID = makeSVID(t, shopID, time.Hour) })
			if resp, err := stream.Recv(); status.Code(err) != tt.code {
				t.Errorf("got %v, %v", resp, err)
			}
		})
	}
}

func TestCodes(t *testing.T) {
	header := func(values ...string) metadata.MD { return metadata.MD{securityHeader: values} }
	tests := []struct {
		name  string
		md    metadata.MD
		spoil func(*fixture)
		code  codes.Code
		text  string
	}{
		{"no header", nil, nil, codes.InvalidArgument, "security header missing"},
		{"header twice", header("true", "true"), nil, codes.InvalidArgument, "security header missing"},
		{"header false", header("false"), nil, codes.InvalidArgument, "security header missing"},
		{"not attributed", header("true"), func(f *fixture) { f.proc.refuse(caller.ErrUnattributed) }, codes.Unavailable, "cannot be attributed"},
		{"header before attribution", nil, func(f *fixture) { f.proc.refuse(caller.ErrUnattributed) }, codes.InvalidArgument, "security header missing"},
		{"no entry", header("true"), func(f *fixture) { f.src.entries = nil }, codes.PermissionDenied, "no identity issued"},
		{"not ready", header("true"), func(f *fixture) { f.src.err = errors.New("not enrolled") }, codes.Unavailable, "not enrolled"},
		{"expired", header("true"), func(f *fixture) { f.src.entries[0].identity.SVID = makeSVID(t, shopID, -time.Minute) }, codes.Unavailable, "expired"},
		{"no bundle", header("true"), func(f *fixture) { f.src.bundles = nil }, codes.Unavailable, "no trust bundle"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, nil)
			if tt.spoil != nil {
				f.src.set(func(*source) { tt.spoil(f) })
			}
			ctx := metadata.NewOutgoingContext(timeout(t), tt.md)
			stream, err := workload.NewSpiffeWorkloadAPIClient(f.raw(t)).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); status.Code(err) != tt.code || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %s with %q", err, tt.code, tt.text)
			}
		})
	}
}

func TestHeaderReflectionAndAbsentProfiles(t *testing.T) {
	f := start(t, nil)
	ctx := metadata.AppendToOutgoingContext(timeout(t), securityHeader, "true")
	api := workload.NewSpiffeWorkloadAPIClient(f.raw(t))
	bundles, err := api.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bundles.Recv(); err != nil {
		t.Fatal(err)
	}
	if md, err := bundles.Header(); err != nil || md.Get(AsOfHeader)[0] != "2023-11-14T22:13:20Z" {
		t.Errorf("%s: %v, %v", AsOfHeader, md, err)
	}
	if _, err := f.client(t).FetchJWTSVID(ctx, jwtsvid.Params{Audience: "a"}); status.Code(err) != codes.Unimplemented {
		t.Errorf("FetchJWTSVID: %v", err)
	}
	if _, err := api.FetchJWTSVID(timeout(t), &workload.JWTSVIDRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("FetchJWTSVID without the header: %v", err)
	}
	r, err := grpc_reflection_v1.NewServerReflectionClient(f.raw(t)).ServerReflectionInfo(timeout(t)) // no header
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}})
	if resp, err := r.Recv(); err != nil || !strings.Contains(resp.String(), "SpiffeWorkloadAPI") {
		t.Errorf("reflection: %v, %v", resp, err)
	}
}

// TestRealCaller attributes this very process by the kernel.
func TestRealCaller(t *testing.T) {
	f := start(t, func(c *Config) { c.Attribute = nil })
	_, err := f.client(t).FetchX509SVID(timeout(t))
	f.src.set(func(s *source) { s.entries[0].selectors = []string{fmt.Sprintf("unix:uid:%d", os.Getuid())} })
	if os.Getuid() != 1000 && status.Code(err) != codes.PermissionDenied {
		t.Errorf("as another user: %v", err)
	}
	if svid, err := f.client(t).FetchX509SVID(timeout(t)); err != nil || svid.ID.String() != shopID {
		t.Errorf("got %v, %v", svid, err)
	}
}

func TestCallersAreLetGo(t *testing.T) {
	f := start(t, nil)
	c := f.client(t)
	if _, err := c.FetchX509SVID(timeout(t)); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	_ = f.srv.Close() // waits for its connections
	f.proc.mu.Lock()
	defer f.proc.mu.Unlock()
	if f.proc.closed == 0 {
		t.Error("the process is still held")
	}
}

func TestMatch(t *testing.T) {
	caller := []string{"unix:uid:1000", "unix:gid:1000", "unix:user:web"}
	tests := []struct {
		entry []string
		want  bool
	}{
		{[]string{"unix:uid:1000"}, true},
		{[]string{"unix:uid:1000", "unix:user:web"}, true},
		{[]string{"unix:uid:1000", "unix:user:root"}, false},
		{[]string{"unix:uid:100"}, false},
		{nil, false},
	}
	for _, tt := range tests {
		if got := Match(tt.entry, caller); got != tt.want {
			t.Errorf("Match(%q) = %v", tt.entry, got)
		}
	}
	if Match([]string{"unix:uid:1000"}, nil) {
		t.Error("a process without selectors has an identity")
	}
}
