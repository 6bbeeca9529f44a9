package control

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
)

// Watch is a stream that a refused caller must never get a word of.
func (node) Watch(_ context.Context, _ *statev1.WatchRequest, stream *connect.ServerStream[statev1.WatchResponse]) error {
	return stream.Send(&statev1.WatchResponse{Revision: 7})
}

// Every call, a stream's too, is put to Decide with what it is about and who calls; what Decide
// refuses is not answered.
func TestEveryCallIsDecided(t *testing.T) {
	var mu sync.Mutex
	var calls []Call
	verdict := error(nil)
	decide := func(ctx context.Context, c Call) (context.Context, error) {
		mu.Lock()
		defer mu.Unlock()
		own := c.From.Shows([]string{"unix:uid:" + strconv.Itoa(os.Geteuid())})
		if uid, gid := c.From.User(); uid != int64(os.Geteuid()) || gid != int64(os.Getegid()) || !own || c.From.Shows([]string{"unix:uid:4711"}) {
			t.Errorf("the caller of %s is %+v", c.Name, c.From)
		}
		c.From = nil
		calls = append(calls, c)
		return ctx, verdict
	}
	path := filepath.Join(t.TempDir(), "c.sock")
	s, err := Listen(path, "", decide, node{}, node{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve() }()
	defer func() {
		if err := errors.Join(s.Close(), <-ended); err != nil {
			t.Error(err)
		}
	}()
	transport := overSocket(path)
	defer transport.CloseIdleConnections()
	for _, options := range [][]connect.ClientOption{nil, {connect.WithProtoJSON()}, {connect.WithGRPC()}} {
		control := controlv1.NewControlClient(&http.Client{Transport: transport}, "http://b", options...)
		state := statev1.NewStateClient(&http.Client{Transport: transport}, "http://b", options...)
		watch := func() (uint64, error) {
			stream, err := state.Watch(t.Context(), &statev1.WatchRequest{Prefix: "/node/"})
			if err != nil {
				return 0, err
			}
			defer stream.Close()
			var got uint64
			for stream.Receive() {
				got = stream.Msg().Revision
			}
			return got, stream.Err()
		}
		for _, refusal := range []error{nil, connect.NewError(connect.CodePermissionDenied, errors.New("no"))} {
			mu.Lock()
			calls, verdict = nil, refusal
			mu.Unlock()
			if r, err := control.Status(t.Context(), &controlv1.StatusRequest{}); (refusal != nil) != (connect.CodeOf(err) == connect.CodePermissionDenied && r == nil) {
				t.Errorf("status: %v, %v", r, err)
			}
			_, err := state.Put(t.Context(), &statev1.PutRequest{Key: "x-a/b"})
			if want := map[bool]connect.Code{true: connect.CodePermissionDenied, false: connect.CodeUnimplemented}[refusal != nil]; connect.CodeOf(err) != want {
				t.Errorf("put: %v, want %v", err, want)
			}
			if got, err := watch(); (refusal != nil) != (got == 0 && connect.CodeOf(err) == connect.CodePermissionDenied) {
				t.Errorf("watch: %d, %v", got, err)
			}
			mu.Lock()
			if want := []Call{{API: "control", Name: "Status"}, {API: "state", Name: "Put", Key: "x-a/b"}, {API: "state", Name: "Watch", Key: "/node/"}}; !slices.Equal(calls, want) {
				t.Errorf("asked about %+v", calls)
			}
			mu.Unlock()
		}
	}
}

func TestNobodyDecides(t *testing.T) {
	if _, err := (gatekeeper{}).ask(t.Context(), "/bailiwick.control.v1.Control/Status", &controlv1.StatusRequest{}); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("got %v", err)
	}
}
