package workloadapi

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/bailiwick-mesh/bailiwick/attest/caller"
)

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
	for _, b := range []*spiffebundle.Bundle{bundleOf(f.shop), bundleOf(f.west)} {
		if got, ok := x.Bundles.Get(b.TrustDomain()); !ok || !got.Equal(b.X509Bundle()) {
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
	f.src.set(func(s *source) { // a hint names one identity
		s.entries = append(s.entries, entry{[]string{"unix:uid:1000"}, Identity{SVID: bank, Hint: "internal"}})
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
	wit, err := api.FetchWITBundles(ctx, &workload.WITBundlesRequest{})
	if err == nil {
		_, err = wit.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("FetchWITBundles: %v", err)
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
