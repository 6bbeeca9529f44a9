package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
)

const nodeID = "spiffe://east.dev.example/node/n1"

// sidecar answers as the tests want, on a real socket that can go away and come
// back.
type sidecar struct {
	statev1.UnimplementedStateHandler
	path string
	http *http.Server

	mu     sync.Mutex
	err    error
	script []func(req *statev1.WatchRequest, stream *connect.ServerStream[statev1.WatchResponse]) error // one for each watch
	asked  []uint64                                                                                     // the revisions that watches began from
}

func item(key string, revision uint64) *statev1.Item {
	return &statev1.Item{Key: key, Value: []byte("v"), Owner: nodeID, Epoch: 2, Seq: 7, Record: make([]byte, 32), At: timestamppb.New(time.Unix(1_700_000_000, 0)), AgeSeconds: 1.5, HeardSeconds: 0.5, Lease: "live", Scope: "region", Revision: revision}
}

func view() *statev1.View {
	return &statev1.View{AsOf: timestamppb.New(time.Unix(1_700_000_001, 0)), ViewOf: nodeID, Debt: &statev1.Debt{Records: 3, OldestSeconds: 2}, Lease: &statev1.Lease{Mode: "isolated", RemainingSeconds: 60}}
}

func (s *sidecar) Get(context.Context, *statev1.GetRequest) (*statev1.GetResponse, error) {
	return &statev1.GetResponse{View: view(), Item: item("/node/n1/x-note/a", 9)}, s.err
}

func (s *sidecar) List(context.Context, *statev1.ListRequest) (*statev1.ListResponse, error) {
	return &statev1.ListResponse{View: view(), Items: []*statev1.Item{item("/node/n1/x-note/a", 9)}, Revision: 9}, s.err
}

func (s *sidecar) Put(context.Context, *statev1.PutRequest) (*statev1.WriteResponse, error) {
	return &statev1.WriteResponse{View: view(), Epoch: 2, Seq: 8, Record: make([]byte, 32)}, s.err
}

func (s *sidecar) Watch(_ context.Context, req *statev1.WatchRequest, stream *connect.ServerStream[statev1.WatchResponse]) error {
	s.mu.Lock()
	s.asked = append(s.asked, req.From)
	next := s.script[0]
	if len(s.script) > 1 {
		s.script = s.script[1:]
	}
	s.mu.Unlock()
	return next(req, stream)
}

func (s *sidecar) begin(t *testing.T) {
	t.Helper()
	s.http = serve(t, s.path, s)
}

// serve answers on a socket until the test ends, or before.
func serve(t *testing.T, path string, h statev1.StateHandler) *http.Server {
	t.Helper()
	lis, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(statev1.NewStateHandler(h))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(lis) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return srv
}

func start(t *testing.T) (*sidecar, *Client) {
	t.Helper()
	s := &sidecar{path: filepath.Join(t.TempDir(), "c.sock")}
	s.begin(t)
	c := New(s.path)
	t.Cleanup(c.Close)
	return s, c
}

func TestAnswers(t *testing.T) {
	_, c := start(t)
	got, v, err := c.Get(t.Context(), "/node/n1/x-note/a")
	if err != nil || got.Key != "/node/n1/x-note/a" || got.Owner.String() != nodeID || got.Age != 1500*time.Millisecond || got.Scope != Region || string(got.Value) != "v" {
		t.Errorf("Get: %+v, %v", got, err)
	}
	if v.Of.String() != nodeID || v.Missing != 3 || v.MissingFor != 2*time.Second || v.Lease != "isolated" || v.Remaining != time.Minute {
		t.Errorf("view: %+v", v)
	}
	if items, revision, _, err := c.List(t.Context(), "/"); err != nil || len(items) != 1 || revision != 9 {
		t.Errorf("List: %v, %d, %v", items, revision, err)
	}
	if r, err := c.Put(t.Context(), "/node/n1/x-note/a", nil, Zone); err != nil || r.Epoch != 2 || r.Seq != 8 {
		t.Errorf("Put: %+v, %v", r, err)
	}
}

func TestErrors(t *testing.T) {
	s, c := start(t)
	for code, want := range map[connect.Code]error{
		connect.CodeNotFound: ErrNotFound, connect.CodePermissionDenied: ErrRefused, connect.CodeFailedPrecondition: ErrRefused,
		connect.CodeInvalidArgument: ErrRequest, connect.CodeUnavailable: ErrUnreachable, connect.CodeInternal: ErrUnreachable,
	} {
		s.err = connect.NewError(code, errors.New("because"))
		if _, _, err := c.Get(t.Context(), "/x"); !errors.Is(err, want) {
			t.Errorf("%s: %v", code, err)
		}
	}
	if _, err := c.Delete(t.Context(), "/x"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("a sidecar without the method: %v", err)
	}
	if _, _, err := New(filepath.Join(t.TempDir(), "none.sock")).Get(t.Context(), "/x"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("no socket: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := c.Get(ctx, "/x"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// send is a watch that says all of it and then breaks off.
func send(messages ...*statev1.WatchResponse) func(*statev1.WatchRequest, *connect.ServerStream[statev1.WatchResponse]) error {
	return func(_ *statev1.WatchRequest, stream *connect.ServerStream[statev1.WatchResponse]) error {
		for _, m := range messages {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		return connect.NewError(connect.CodeUnavailable, errors.New("going away"))
	}
}

func compacted(*statev1.WatchRequest, *connect.ServerStream[statev1.WatchResponse]) error {
	return connect.NewError(connect.CodeOutOfRange, errors.New("too old"))
}

func change(key string, revision uint64) *statev1.WatchResponse {
	return &statev1.WatchResponse{View: view(), Revision: revision, Item: item(key, revision)}
}

// story is a watch's first n events, in words.
func story(t *testing.T, watch iter.Seq2[Event, error], n int) (out []string) {
	t.Helper()
	for e, err := range watch {
		if err != nil {
			return append(out, err.Error())
		}
		out = append(out, fmt.Sprintf("%s%s@%d", e.Kind, e.Item.Key, e.Revision))
		if len(out) == n {
			return out
		}
	}
	return out
}

func TestWatchGoesOn(t *testing.T) {
	s, c := start(t)
	synced := &statev1.WatchResponse{View: view(), Revision: 20}
	gone := change("/a", 21)
	gone.Deleted = true
	s.script = append(s.script,
		send(change("/a", 3), change("/b", 7), synced, gone), // breaks after a deletion
		send(change("/c", 25)),                               // goes on from it
		compacted,                                            // the sidecar has forgotten
		send(change("/d", 40)),                               // breaks before all is told
		send(change("/d", 40), &statev1.WatchResponse{View: view(), Revision: 41}),
	)
	want := []string{
		"written/a@0", "written/b@0", "synced@20", "deleted/a@21", "lost@21",
		"written/c@25", "lost@25",
		"reset@0", "written/d@0", "lost@0",
		"reset@0", "written/d@0", "synced@41",
	}
	if got := story(t, c.Watch(t.Context(), "/", 0), len(want)); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := []uint64{0, 21, 25, 0, 0}; !slices.Equal(s.asked, want) {
		t.Errorf("asked from %d, want %d", s.asked, want)
	}
}

func TestWatchSurvivesARestart(t *testing.T) {
	s, c := start(t)
	s.script = append(s.script, send(&statev1.WatchResponse{View: view(), Revision: 5}), send(change("/a", 6)))
	var got []string
	for e, err := range c.Watch(t.Context(), "/", 5) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == Lost && len(got) == 1 {
			_ = s.http.Close()
			s.begin(t)
		}
		if e.Kind != Lost {
			got = append(got, string(e.Kind)+e.Item.Key)
		}
		if len(got) == 2 {
			break
		}
	}
	if want := []string{"synced", "written/a"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestWatchEnds(t *testing.T) {
	s, c := start(t)
	s.script = append(s.script, func(*statev1.WatchRequest, *connect.ServerStream[statev1.WatchResponse]) error {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("no prefix"))
	})
	for _, err := range c.Watch(t.Context(), "x", 0) {
		if !errors.Is(err, ErrRequest) {
			t.Errorf("got %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.script = append(s.script[:0], send(change("/a", 3)))
	for e, err := range c.Watch(ctx, "/", 0) {
		if err != nil {
			t.Error(err)
		}
		if e.Kind == Lost {
			cancel()
		}
	}
}
