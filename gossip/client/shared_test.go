package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
	"github.com/bailiwick-mesh/bailiwick/gossip/value"
)

// sharing answers about shared values, and notes what was asked.
type sharing struct {
	statev1.UnimplementedStateHandler

	mu     sync.Mutex
	read   *statev1.ReadRequest
	change *statev1.ChangeRequest
	fail   error
	script []func(stream *connect.ServerStream[statev1.FollowResponse]) error // one for each stream
}

func joined(name, value string) *statev1.Joined {
	marked := item("/node/n2/"+name, 4)
	marked.Fit = &statev1.Fit{Schema: "regional/schemas/a.json@3", Error: "too small"}
	return &statev1.Joined{
		Name: name, Type: "counter", Value: []byte(value), Lease: "delayed", HeardSeconds: 2, Suspect: true, Revision: 9,
		Parts: []*statev1.Part{{Item: item("/node/n1/"+name, 9)}, {Item: marked, LeftOut: "suspect"}},
	}
}

func (s *sharing) Read(_ context.Context, req *statev1.ReadRequest) (*statev1.ReadResponse, error) {
	s.read = req
	return &statev1.ReadResponse{View: view(), Joined: joined(req.Name, "7")}, s.fail
}

func (s *sharing) ReadAll(context.Context, *statev1.ReadAllRequest) (*statev1.ReadAllResponse, error) {
	return &statev1.ReadAllResponse{View: view(), Joined: []*statev1.Joined{joined("x-a/1", "7"), joined("x-a/2", "8")}}, s.fail
}

func (s *sharing) Change(_ context.Context, req *statev1.ChangeRequest) (*statev1.WriteResponse, error) {
	s.change = req
	return &statev1.WriteResponse{View: view(), Epoch: 2, Seq: 8, Record: make([]byte, 32)}, s.fail
}

func (s *sharing) Follow(_ context.Context, _ *statev1.FollowRequest, stream *connect.ServerStream[statev1.FollowResponse]) error {
	s.mu.Lock()
	next := s.script[0]
	if len(s.script) > 1 {
		s.script = s.script[1:]
	}
	s.mu.Unlock()
	return next(stream)
}

func share(t *testing.T) (*sharing, *Client) {
	t.Helper()
	s := &sharing{}
	path := filepath.Join(t.TempDir(), "c.sock")
	serve(t, path, s)
	c := New(path)
	t.Cleanup(c.Close)
	return s, c
}

func TestSharedAnswers(t *testing.T) {
	s, c := share(t)
	got, v, err := c.Read(t.Context(), "x-a/1", Reading{Type: value.Counter, LeaveOut: []string{"suspect"}})
	if err != nil || got.Count() != 7 || got.Elements() != nil || got.Fields() != nil || got.Lease != "delayed" || got.Heard != 2*time.Second || !got.Suspect || got.Type != value.Counter {
		t.Errorf("Read: %+v, %v", got, err)
	}
	if len(got.Parts) != 2 || got.Parts[0].LeftOut != "" || got.Parts[1].LeftOut != "suspect" || got.Parts[1].Item.Mismatch != "too small" || got.Parts[1].Item.Schema != "regional/schemas/a.json@3" {
		t.Errorf("parts: %+v", got.Parts)
	}
	if v.Of.String() != nodeID || s.read.Type != "counter" || !slices.Equal(s.read.LeaveOut, []string{"suspect"}) {
		t.Errorf("asked %+v, view %+v", s.read, v)
	}
	if all, _, err := c.ReadAll(t.Context(), "x-a/", Reading{}); err != nil || len(all) != 2 || all[1].Count() != 8 {
		t.Errorf("ReadAll: %+v, %v", all, err)
	}
	set, fields := Shared{Value: json.RawMessage(`["a","b"]`)}, Shared{Value: json.RawMessage(`{"f":1}`)}
	if !slices.Equal(set.Elements(), []string{"a", "b"}) || string(fields.Fields()["f"]) != "1" || set.Count() != 0 {
		t.Errorf("%v, %v", set.Elements(), fields.Fields())
	}
	change := value.Change{Set: map[string]json.RawMessage{"f": json.RawMessage("1")}, Unset: []string{"g"}}
	if r, err := c.Change(t.Context(), "x-a/1", change, Zone); err != nil || r.Seq != 8 {
		t.Errorf("Change: %+v, %v", r, err)
	}
	if q := s.change; q.Name != "x-a/1" || q.Scope != "zone" || !reflect.DeepEqual(q.Fields, map[string][]byte{"f": []byte("1")}) || !slices.Equal(q.Unset, []string{"g"}) {
		t.Errorf("asked %+v", q)
	}
	refused := connect.NewError(connect.CodePermissionDenied, errors.New("because"))
	refused.Meta().Set(CodeHeader, "BW7038")
	s.fail = refused
	if _, err := c.Change(t.Context(), "x-a/1", value.Change{Increment: 1}, Region); !errors.Is(err, ErrRefused) || err.Error() != ErrRefused.Error()+": BW7038: because" {
		t.Errorf("refused: %v", err)
	}
}

// A watch of names begins again with all that is present after every break, and says so.
func TestFollowGoesOn(t *testing.T) {
	s, c := share(t)
	tell := func(messages ...*statev1.FollowResponse) func(*connect.ServerStream[statev1.FollowResponse]) error {
		return func(stream *connect.ServerStream[statev1.FollowResponse]) error {
			for _, m := range messages {
				if err := stream.Send(m); err != nil {
					return err
				}
			}
			return connect.NewError(connect.CodeUnavailable, errors.New("going away"))
		}
	}
	word := func(name, value string, deleted bool) *statev1.FollowResponse {
		return &statev1.FollowResponse{View: view(), Joined: joined(name, value), Deleted: deleted}
	}
	synced := &statev1.FollowResponse{View: view()}
	s.script = append(s.script,
		tell(word("x-a/1", "7", false), synced, word("x-a/1", "8", false), word("x-a/1", "8", true)),
		tell(word("x-a/2", "9", false), synced),
		func(*connect.ServerStream[statev1.FollowResponse]) error {
			return connect.NewError(connect.CodeInvalidArgument, errors.New("not a prefix"))
		},
	)
	var got []string
	for e, err := range c.Follow(t.Context(), "x-a/", Reading{}) {
		if err != nil {
			if !errors.Is(err, ErrRequest) {
				t.Errorf("ends with %v", err)
			}
			got = append(got, "end")
			break
		}
		got = append(got, fmt.Sprintf("%s%s=%s", e.Kind, e.Shared.Name, e.Shared.Value))
	}
	want := []string{"writtenx-a/1=7", "synced=", "writtenx-a/1=8", "deletedx-a/1=8", "lost=", "reset=", "writtenx-a/2=9", "synced=", "lost=", "reset=", "end"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}
