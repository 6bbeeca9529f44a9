package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/gossip/value"
)

// Read returns the value that all owners give one name.
func (s stateAPI) Read(ctx context.Context, req *statev1.ReadRequest) (*statev1.ReadResponse, error) {
	kind, name, err := splitName(req.Name)
	if err != nil {
		return nil, err
	}
	how, err := s.readingOf(req.Type, req.LeaveOut)
	if err != nil {
		return nil, err
	}
	parts := s.replica.Named(kind, name)
	if len(parts) == 0 {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no owner has %q here", req.Name))
	}
	joined, err := s.joined(req.Name, parts, how)
	if err != nil {
		return nil, s.invalid(err)
	}
	return &statev1.ReadResponse{View: s.view(ctx), Joined: joined}, nil
}

// ReadAll returns every name with a prefix. Names of another type than the one asked for
// are not among them; one whose parts have several has no value.
func (s stateAPI) ReadAll(ctx context.Context, req *statev1.ReadAllRequest) (*statev1.ReadAllResponse, error) {
	how, err := s.readingOf(req.Type, req.LeaveOut)
	if err != nil {
		return nil, err
	}
	if err := namePrefix(req.Prefix); err != nil {
		return nil, err
	}
	entries, _ := s.replica.List("/")
	resp := &statev1.ReadAllResponse{View: s.view(ctx)}
	for _, name := range names(entries, req.Prefix) {
		if joined := s.listed(name.key, name.parts, how); joined != nil {
			resp.Joined = append(resp.Joined, joined)
		}
	}
	return resp, nil
}

// Follow tells every name with a prefix, and again when it changes.
func (s stateAPI) Follow(ctx context.Context, req *statev1.FollowRequest, stream *connect.ServerStream[statev1.FollowResponse]) error {
	how, err := s.readingOf(req.Type, req.LeaveOut)
	if err != nil {
		return err
	}
	if err := namePrefix(req.Prefix); err != nil {
		return err
	}
	view, told := s.recent(ctx), map[string]*statev1.Joined{}
	tell := func(key string, parts []replica.Entry) error {
		joined, before := s.listed(key, parts, how), told[key]
		switch {
		case joined == nil && before == nil, joined != nil && before != nil && alike(joined, before):
			return nil
		case joined == nil:
			delete(told, key)
			return stream.Send(&statev1.FollowResponse{View: view(), Joined: before, Deleted: true})
		}
		told[key] = joined
		return stream.Send(&statev1.FollowResponse{View: view(), Joined: joined})
	}
	entries, revision := s.replica.List("/")
	for _, name := range names(entries, req.Prefix) {
		if err := tell(name.key, name.parts); err != nil {
			return err
		}
	}
	if err := stream.Send(&statev1.FollowResponse{View: view()}); err != nil {
		return err
	}
	changes, failed := s.changes(ctx, "/", revision)
	tick := time.NewTicker(sayEvery)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if errors.Is(err, replica.ErrCompacted) {
				return connect.NewError(connect.CodeOutOfRange, err)
			}
			return err
		case <-tick.C:
			err = stream.Send(&statev1.FollowResponse{View: view()})
		case c := <-changes:
			if key := c.Kind + "/" + c.Name; strings.HasPrefix(key, req.Prefix) {
				err = tell(key, s.replica.Named(c.Kind, c.Name))
			}
		}
		if err != nil {
			return err
		}
	}
}

// Change changes this node's own part of a name.
func (s stateAPI) Change(ctx context.Context, req *statev1.ChangeRequest) (*statev1.WriteResponse, error) {
	kind, name, err := splitName(req.Name)
	if err != nil {
		return nil, err
	}
	change := value.Change{Value: req.Value, Increment: req.Increment, Add: req.Add, Remove: req.Remove, Unset: req.Unset}
	for field, v := range req.Fields {
		if change.Set == nil {
			change.Set = map[string]json.RawMessage{}
		}
		change.Set[field] = v
	}
	hash := fnv.New32a()
	hash.Write([]byte(req.Name))
	one := &s.changing[hash.Sum32()%uint32(len(s.changing))]
	one.Lock() // the next part is made of the last
	defer one.Unlock()
	parts := s.replica.Named(kind, name)
	for _, e := range parts {
		if e.Owner != s.cfg.Node {
			continue
		}
		if _, err := value.Parse(e.Value); err != nil { // somebody put it, and would miss it
			return nil, s.invalid(fmt.Errorf("this node has something else under %s, delete it first: %w", req.Name, err))
		}
	}
	state, _ := parted(parts, reading{}, s.rank, s.withheld)
	part, err := change.Apply(state, s.cfg.Node.Path(), uint64(time.Now().UnixMicro()))
	if err != nil {
		return nil, s.invalid(err)
	}
	b, err := part.Encode()
	if err != nil {
		return nil, s.invalid(err)
	}
	return s.Put(ctx, &statev1.PutRequest{Key: req.Name, Value: b, Scope: req.Scope})
}

func (a *App) invalid(err error) error {
	code := connect.CodeInvalidArgument
	if errors.Is(err, value.ErrNoElement) {
		code = connect.CodeNotFound
	}
	return a.coded(code, err)
}

// reading is how a name is read.
type reading struct {
	of       value.Type // empty: the parts'
	leaveOut []string
}

func (s stateAPI) readingOf(t string, leaveOut []string) (r reading, err error) {
	if r.of = value.Type(t); t != "" && !slices.Contains(value.Types, r.of) {
		return r, s.invalid(fmt.Errorf("%w: %q is none of %v", value.ErrType, t, value.Types))
	}
	for _, what := range leaveOut {
		if !slices.Contains(leavable, what) {
			return r, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("leave_out %q: want of %s", what, strings.Join(leavable, ", ")))
		}
	}
	r.leaveOut = leaveOut
	return r, nil
}

// leavable is what a reader may leave out.
var leavable = []string{"suspect", "expired", "rewind"}

// parted is what the parts of a name say together, and why some do not count, by owner.
func parted(parts []replica.Entry, how reading, rank func(replica.Entry) int, withheld func(replica.Entry) bool) (state value.State, out map[string]string) {
	state, out = value.State{}, map[string]string{}
	for _, e := range parts {
		owner := e.Owner.Path()
		is := map[string]bool{"suspect": e.Suspect, "expired": e.Lease == feed.LeaseExpired, "rewind": e.Rewind}
		for _, what := range how.leaveOut {
			if is[what] {
				out[owner] = what
			}
		}
		if withheld(e) {
			out[owner] = "suspect, and policy keeps it closed"
			continue
		}
		p, err := value.Parse(e.Value)
		switch {
		case err != nil:
			out[owner] = err.Error()
		case how.of != "" && p.Type != how.of:
			out[owner] = fmt.Sprintf("it is a %s", p.Type)
		}
		if out[owner] == "" {
			state[owner] = value.Signed{Part: p, Version: value.Version{Epoch: e.Epoch, Seq: e.Seq}, At: micros(e.HLC), Rank: rank(e)}
		}
	}
	return state, out
}

// micros is a clock's reading in microseconds, its counter in place of what it does not have.
func micros(h feed.HLC) uint64 { return uint64(h>>16)*1000 + min(uint64(h&0xffff), 999) }

// rank puts the region's master of record before all others.
func (s stateAPI) rank(e replica.Entry) int {
	td := e.Owner.TrustDomain()
	if s.dir.book(td).Record(s.dir.region(td)).Master == e.Owner {
		return 1
	}
	return 0
}

// joined reads a name. Errors wrap value.ErrType.
func (s stateAPI) joined(key string, parts []replica.Entry, how reading) (*statev1.Joined, error) {
	parts = slices.Clone(parts)
	for i := range parts {
		parts[i] = s.doubted(parts[i])
	}
	state, out := parted(parts, how, s.rank, s.withheld)
	of := how.of
	if of == "" {
		var err error
		if of, err = state.TypeOf(); err != nil {
			return nil, err
		}
	}
	m := &statev1.Joined{Name: key, Type: string(of)}
	if of != "" {
		v, err := state.Read(of)
		if err != nil {
			return nil, err
		}
		m.Value = v
	}
	worst := feed.LeaseLive
	for _, e := range parts {
		why := out[e.Owner.Path()]
		m.Parts = append(m.Parts, &statev1.Part{Item: s.item(e), LeftOut: why})
		m.Revision = max(m.Revision, e.Revision)
		if why == "" {
			worst, m.Suspect = min(worst, e.Lease), m.Suspect || e.Suspect
			m.HeardSeconds = max(m.HeardSeconds, e.Age.Seconds())
		}
	}
	m.Lease = worst.String()
	return m, nil
}

// listed is joined for a list: nothing of another type, and what has no one type
// without a value.
func (s stateAPI) listed(key string, parts []replica.Entry, how reading) *statev1.Joined {
	if len(parts) == 0 {
		return nil
	}
	m, err := s.joined(key, parts, how)
	if err != nil {
		m = &statev1.Joined{Name: key}
		for _, e := range parts {
			m.Parts = append(m.Parts, &statev1.Part{Item: s.item(e), LeftOut: err.Error()})
		}
	}
	if counts := slices.ContainsFunc(m.Parts, func(p *statev1.Part) bool { return p.LeftOut == "" }); how.of != "" && !counts {
		return nil
	}
	return m
}

// alike reports whether a reader of b learns nothing from a: times aside.
func alike(a, b *statev1.Joined) bool {
	plain := func(m *statev1.Joined) *statev1.Joined {
		m = proto.CloneOf(m)
		m.HeardSeconds = 0
		for _, p := range m.Parts {
			p.Item.AgeSeconds, p.Item.HeardSeconds = 0, 0
		}
		return m
	}
	return proto.Equal(plain(a), plain(b))
}

type named struct {
	key   string
	parts []replica.Entry
}

// names groups entries of the node's trust domain by what they are called.
func names(entries []replica.Entry, prefix string) []named {
	groups := map[string][]replica.Entry{}
	for _, e := range entries {
		if key := e.Kind + "/" + e.Name; strings.HasPrefix(key, prefix) {
			groups[key] = append(groups[key], e)
		}
	}
	out := make([]named, 0, len(groups))
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		out = append(out, named{key, groups[key]})
	}
	return out
}

// splitName takes <kind>/<name> apart.
func splitName(s string) (kind, name string, err error) {
	kind, name, ok := strings.Cut(s, "/")
	if !ok || kind == "" || name == "" || strings.Contains(name, "/") {
		return "", "", connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("name %q: want <kind>/<name>, such as x-visits/total", s))
	}
	return kind, name, nil
}

// namePrefix refuses what would list every key of the region by mistake.
func namePrefix(prefix string) error {
	if kind, rest, ok := strings.Cut(prefix, "/"); ok && kind != "" && !strings.Contains(rest, "/") {
		return nil
	}
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("prefix %q: want <kind>/ or <kind>/<beginning of a name>", prefix))
}
