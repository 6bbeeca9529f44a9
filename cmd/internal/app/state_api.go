package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/client"
	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/policy/admission"
	"github.com/bailiwick-mesh/bailiwick/policy/schema"
)

// sayEvery is how long a watch is silent at most, so that its reader can tell quiet
// from broken.
const sayEvery = 10 * time.Second

// stateAPI is the signed state for local programs. Policy decides each call (admin.go);
// what is written is in the trail first.
type stateAPI struct{ handler }

func (s stateAPI) view(ctx context.Context) *statev1.View {
	v := s.handler.view(ctx)
	return &statev1.View{
		AsOf: v.AsOf, ViewOf: v.ViewOf,
		Debt:  &statev1.Debt{Records: v.Debt.Records, Bytes: v.Debt.Bytes, OldestSeconds: v.Debt.OldestSeconds},
		Lease: &statev1.Lease{Mode: v.Lease.Mode, RemainingSeconds: v.Lease.RemainingSeconds, DegradedMode: v.Lease.DegradedMode},
	}
}

func (s stateAPI) item(e replica.Entry) *statev1.Item {
	e = s.doubted(e)
	m := &statev1.Item{
		Key: e.Key, Value: e.Value, Owner: e.Owner.String(), Epoch: e.Epoch, Seq: e.Seq, Record: e.Record[:],
		At: timestamppb.New(e.HLC.Time()), AgeSeconds: max(0, time.Since(e.HLC.Time()).Seconds()), HeardSeconds: e.Age.Seconds(),
		Lease: e.Lease.String(), Suspect: e.Suspect, Rewind: e.Rewind, Scope: e.Scope.String(), Revision: e.Revision,
		AttestedBy: s.attestation(e.Owner).kind, Fit: s.fit(e),
	}
	if s.withheld(e) {
		m.Value, m.Withheld = nil, true
	}
	return m
}

// fit is what the schemas in force say of a value that was let in, perhaps before them.
func (s stateAPI) fit(e replica.Entry) *statev1.Fit {
	f := s.engine.Fits(e.Kind, e.Name, e.HLC.Time(), e.Value)
	if f.Schema == "" {
		return nil
	}
	m := &statev1.Fit{Schema: f.Schema, Policy: f.Revision}
	if f.Err != nil {
		m.Error = f.Err.Error()
	}
	return m
}

// fetch has what a reader asks for brought over links that carry only headers, if one
// owner is meant. The answer does not wait for it: it is what is held, as old as it says.
func (s stateAPI) fetch(prefix string) {
	if owner, ok := ownerOf(s.cfg.Node.TrustDomain(), prefix); ok && owner != s.cfg.Node {
		s.replica.Fetch(owner)
	}
}

// ownerOf returns the node to which all keys with a prefix belong: that of a whole key,
// or of one that goes on after the node's name.
func ownerOf(td spiffeid.TrustDomain, prefix string) (spiffeid.ID, bool) {
	if !strings.HasPrefix(prefix, "spiffe://") {
		prefix = td.IDString() + prefix
	}
	parts := strings.Split(prefix, "/") // spiffe: // trust domain / ...
	for n := len(parts) - 1; n > 3; n-- {
		id, err := spiffeid.FromString(strings.Join(parts[:n], "/"))
		if err != nil {
			continue
		}
		if _, err := identity.ParseNode(id); err == nil {
			return id, true
		}
	}
	return spiffeid.ID{}, false
}

// ownKey makes <kind>/<name> a key of this node.
func (s stateAPI) ownKey(key string) string {
	if _, _, err := splitName(key); err == nil && !strings.HasPrefix(key, "/") {
		return s.cfg.Node.Path() + "/" + key
	}
	return key
}

// Get returns one key.
func (s stateAPI) Get(ctx context.Context, req *statev1.GetRequest) (*statev1.GetResponse, error) {
	key := s.ownKey(req.Key)
	s.fetch(key)
	e, ok := s.replica.Get(key)
	if !ok {
		return nil, s.notHeld(ctx, req.Key, key)
	}
	return &statev1.GetResponse{View: s.view(ctx), Item: s.item(e)}, nil
}

// notHeld says that a key is not here, and if it came, that it was refused.
func (s stateAPI) notHeld(ctx context.Context, asked, key string) error {
	at, refused, err := s.replica.Refused(ctx, key)
	switch {
	case err != nil:
		return err
	case refused:
		return connect.NewError(connect.CodeNotFound, fmt.Errorf("%q is not held here: record %d of epoch %d has it, and a schema or policy of this node refuses it (state.refuse in bailiwick trail tail says why)", asked, at.Seq, at.Epoch))
	}
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("%q is not held here", asked))
}

// List returns the keys with a prefix.
func (s stateAPI) List(ctx context.Context, req *statev1.ListRequest) (*statev1.ListResponse, error) {
	if err := checkPrefix(req.Prefix); err != nil {
		return nil, err
	}
	s.fetch(req.Prefix)
	entries, revision := s.replica.List(req.Prefix)
	resp := &statev1.ListResponse{View: s.view(ctx), Revision: revision}
	for _, e := range entries {
		resp.Items = append(resp.Items, s.item(e))
	}
	return resp, nil
}

func checkPrefix(prefix string) error {
	if prefix == "" || strings.HasPrefix(prefix, "/") || strings.HasPrefix(prefix, "spiffe://") {
		return nil
	}
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("prefix %q: want one that begins with / or spiffe://", prefix))
}

// Put writes one own key.
func (s stateAPI) Put(ctx context.Context, req *statev1.PutRequest) (*statev1.WriteResponse, error) {
	scope, ok := map[string]feed.Scope{"": feed.ScopeRegion, "zone": feed.ScopeZone, "region": feed.ScopeRegion, "global": feed.ScopeGlobal}[req.Scope]
	if !ok {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("scope %q: want zone, region or global", req.Scope))
	}
	op := feed.Op{Key: s.ownKey(req.Key), Action: feed.Put, Value: req.Value, Scope: scope}
	if err := s.mayWrite(op); err != nil {
		return nil, err
	}
	if err := s.admin(ctx, "put", map[string]any{"key": op.Key, "bytes": len(req.Value)}); err != nil {
		return nil, err
	}
	return s.written(ctx)(s.replica.Put(ctx, op))
}

// Delete removes one own key.
func (s stateAPI) Delete(ctx context.Context, req *statev1.DeleteRequest) (*statev1.WriteResponse, error) {
	op := feed.Op{Key: s.ownKey(req.Key), Action: feed.Del, Scope: feed.ScopeRegion}
	if err := mine(s.cfg.Node, op.Key); err != nil {
		return nil, err
	}
	if _, ok := s.replica.Get(op.Key); !ok {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("%q is not held here", req.Key))
	}
	if err := s.mayWrite(op); err != nil {
		return nil, err
	}
	if err := s.admin(ctx, "delete", map[string]any{"key": op.Key}); err != nil {
		return nil, err
	}
	return s.written(ctx)(s.replica.Delete(ctx, op.Key))
}

// written answers a write.
func (s stateAPI) written(ctx context.Context) func(replica.Receipt, error) (*statev1.WriteResponse, error) {
	return func(got replica.Receipt, err error) (*statev1.WriteResponse, error) {
		if err != nil {
			return nil, s.coded(writeCode(err), err)
		}
		return &statev1.WriteResponse{View: s.view(ctx), Epoch: got.Epoch, Seq: got.Seq, Record: got.Record[:]}, nil
	}
}

// writeCode tells a write that can never work from one that may later.
func writeCode(err error) connect.Code {
	switch {
	case errors.Is(err, feed.ErrKey), errors.Is(err, feed.ErrSchema), errors.Is(err, feed.ErrTooLarge):
		return connect.CodeInvalidArgument
	case errors.Is(err, replica.ErrBusy), errors.Is(err, replica.ErrStopped):
		return connect.CodeUnavailable
	}
	return connect.CodeFailedPrecondition
}

// coded gives an answer the code of its error, as bailiwick explain has it, beside its
// words.
func (a *App) coded(kind connect.Code, err error) error {
	out := connect.NewError(kind, err)
	if a.code != nil {
		out.Meta().Set(client.CodeHeader, a.code(err))
	}
	return out
}

// mayWrite refuses a program what peers would refuse this node: nothing is signed that
// would not count.
func (s stateAPI) mayWrite(op feed.Op) error {
	if err := mine(s.cfg.Node, op.Key); err != nil {
		return err
	}
	if err := s.residency.local(op); err != nil {
		return s.coded(connect.CodePermissionDenied, err)
	}
	err := s.gate.local(op)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, schema.ErrValue):
		return s.coded(connect.CodeInvalidArgument, err)
	case errors.Is(err, admission.ErrRate):
		return s.coded(connect.CodeResourceExhausted, err)
	}
	return s.coded(connect.CodePermissionDenied, err)
}

// mine keeps callers from what the sidecar itself says of its node.
func mine(self spiffeid.ID, key string) error {
	k, err := feed.ParseKey(key)
	if err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	if !k.OwnedBy(self) {
		return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("%w: %s is not below %s", feed.ErrForeign, key, self.Path()))
	}
	if !strings.HasPrefix(k.Kind, "x-") {
		return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("kind %q is the sidecar's own to write; operators' kinds begin with x-", k.Kind))
	}
	return nil
}

// Watch follows the keys with a prefix until the caller leaves or the node stops.
func (s stateAPI) Watch(ctx context.Context, req *statev1.WatchRequest, stream *connect.ServerStream[statev1.WatchResponse]) error {
	if err := checkPrefix(req.Prefix); err != nil {
		return err
	}
	s.fetch(req.Prefix)
	view := s.recent(ctx)
	from := req.From
	if from == 0 {
		entries, revision := s.replica.List(req.Prefix)
		for _, e := range entries {
			if err := stream.Send(&statev1.WatchResponse{View: view(), Revision: e.Revision, Item: s.item(e)}); err != nil {
				return err
			}
		}
		from = revision
	}
	if err := stream.Send(&statev1.WatchResponse{View: view(), Revision: from}); err != nil {
		return err
	}
	changes, failed := s.changes(ctx, req.Prefix, from)
	tick := time.NewTicker(sayEvery)
	defer tick.Stop()
	for {
		m := &statev1.WatchResponse{}
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if errors.Is(err, replica.ErrCompacted) {
				return connect.NewError(connect.CodeOutOfRange, err)
			}
			return err
		case <-tick.C:
		case c := <-changes:
			from, m.Item, m.Deleted = c.Revision, s.item(c.Entry), c.Deleted
		}
		m.View, m.Revision = view(), from
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

// recent returns views whose debt and lease are at most a second old: they are asked
// of the replica's loop, and a watch may have much to say.
func (s stateAPI) recent(ctx context.Context) func() *statev1.View {
	var last *statev1.View
	return func() *statev1.View {
		now := time.Now()
		if last == nil || now.Sub(last.AsOf.AsTime()) > time.Second {
			last = s.view(ctx)
		}
		return &statev1.View{AsOf: timestamppb.New(now), ViewOf: last.ViewOf, Debt: last.Debt, Lease: last.Lease}
	}
}

// changes turns the replica's watch into channels, until ctx ends.
func (s stateAPI) changes(ctx context.Context, prefix string, from uint64) (<-chan replica.Change, <-chan error) {
	changes, failed := make(chan replica.Change), make(chan error, 1)
	go func() {
		for c, err := range s.replica.Watch(ctx, prefix, from) {
			if err != nil {
				failed <- err
				return
			}
			select {
			case changes <- c:
			case <-ctx.Done():
				return
			}
		}
	}()
	return changes, failed
}
