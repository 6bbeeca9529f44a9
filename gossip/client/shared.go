package client

import (
	"context"
	"encoding/json"
	"iter"
	"time"

	"connectrpc.com/connect"

	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
	"github.com/bailiwick-mesh/bailiwick/gossip/value"
)

// Shared is what all owners together say under one name, as package value joins it.
type Shared struct {
	Name  string // <kind>/<name>
	Type  value.Type
	Value json.RawMessage // nil: the parts have no one type
	Parts []Contribution  // by owner

	Lease    string        // the worst of the parts that count: live, delayed, stale, expired
	Heard    time.Duration // the longest since an owner that counts was heard
	Suspect  bool          // a part that counts is of an owner who is shut out or frozen
	Revision uint64
}

// Contribution is one owner's part.
type Contribution struct {
	Item    Item
	LeftOut string // why it does not count; empty: it does
}

// Count is the value of a counter; of anything else 0.
func (s Shared) Count() (n int64) { return decoded[int64](s) }

// Elements is the value of a set, in order; of anything else nil.
func (s Shared) Elements() []string { return decoded[[]string](s) }

// Fields is the value of a map; of anything else nil.
func (s Shared) Fields() map[string]json.RawMessage { return decoded[map[string]json.RawMessage](s) }

func decoded[T any](s Shared) (v T) {
	if json.Unmarshal(s.Value, &v) != nil {
		var none T
		return none
	}
	return v
}

// Reading says how a name is read. Its zero value takes the type the parts have, and counts
// every part: also an expired, quarantined or rewound owner's, whose last word stands.
type Reading struct {
	Type     value.Type
	LeaveOut []string // of suspect, expired, rewind
}

// Read returns the value of a name, <kind>/<name>. Errors: ErrNotFound, ErrUnreachable,
// ErrRequest, also where its parts have another type.
func (c *Client) Read(ctx context.Context, name string, how Reading) (Shared, View, error) {
	resp, err := c.state.Read(ctx, &statev1.ReadRequest{Name: name, Type: string(how.Type), LeaveOut: how.LeaveOut})
	if err != nil {
		return Shared{}, View{}, explain(err)
	}
	s, err := sharedOf(resp.GetJoined())
	return s, viewOf(resp.GetView()), err
}

// ReadAll returns every name that begins with prefix, <kind>/ or more. Errors:
// ErrUnreachable, ErrRequest.
func (c *Client) ReadAll(ctx context.Context, prefix string, how Reading) ([]Shared, View, error) {
	resp, err := c.state.ReadAll(ctx, &statev1.ReadAllRequest{Prefix: prefix, Type: string(how.Type), LeaveOut: how.LeaveOut})
	if err != nil {
		return nil, View{}, explain(err)
	}
	var out []Shared
	for _, m := range resp.GetJoined() {
		s, err := sharedOf(m)
		if err != nil {
			return nil, View{}, err
		}
		out = append(out, s)
	}
	return out, viewOf(resp.GetView()), nil
}

// Change changes this node's own part of a name, and returns when that is signed and
// durable here. The sidecar makes changes one after another, so programs need no lock.
// Errors are Put's. After ErrUnreachable a counter may have counted or not: Read shows this
// node's part.
func (c *Client) Change(ctx context.Context, name string, change value.Change, scope Scope) (Receipt, error) {
	req := &statev1.ChangeRequest{
		Name: name, Scope: string(scope), Value: change.Value, Increment: change.Increment, Add: change.Add, Remove: change.Remove, Unset: change.Unset,
	}
	for field, v := range change.Set {
		if req.Fields == nil {
			req.Fields = map[string][]byte{}
		}
		req.Fields[field] = v
	}
	return receiptOf(c.state.Change(ctx, req))
}

// SharedEvent is one thing that Follow has to say. Kinds are those of Event; Written,
// Deleted and Synced have no revision, as each stream begins with all that is present.
type SharedEvent struct {
	Kind   Kind
	Shared Shared // of Written and Deleted
	View   View   // of all but Reset and Lost
	Err    error  // of Lost
}

// Follow yields every name that begins with prefix, and again whenever its value or the
// standing of its parts changes, over restarts of the sidecar too: after Lost comes Reset
// and all that is present. The only error it yields, last, is ErrRequest.
func (c *Client) Follow(ctx context.Context, prefix string, how Reading) iter.Seq2[SharedEvent, error] {
	return func(yield func(SharedEvent, error) bool) {
		more := func(e SharedEvent) bool { return yield(e, nil) }
		again(ctx, func(told func()) error {
			return c.followShared(ctx, prefix, how, told, more)
		}, func(err error) bool {
			return more(SharedEvent{Kind: Lost, Err: err}) && more(SharedEvent{Kind: Reset})
		}, func(err error) { yield(SharedEvent{}, err) })
	}
}

func (c *Client) followShared(ctx context.Context, prefix string, how Reading, told func(), yield func(SharedEvent) bool) error {
	return receive(ctx, func(ctx context.Context) (*connect.ServerStreamForClient[statev1.FollowResponse], error) {
		return c.state.Follow(ctx, &statev1.FollowRequest{Prefix: prefix, Type: string(how.Type), LeaveOut: how.LeaveOut})
	}, func(m *statev1.FollowResponse) (err error) {
		told()
		e := SharedEvent{Kind: Synced, View: viewOf(m.GetView())}
		if m.GetJoined() != nil {
			e.Kind = Written
			if m.GetDeleted() {
				e.Kind = Deleted
			}
			if e.Shared, err = sharedOf(m.GetJoined()); err != nil {
				return err
			}
		}
		if !yield(e) {
			return errStopped
		}
		return nil
	})
}

func sharedOf(m *statev1.Joined) (Shared, error) {
	s := Shared{
		Name: m.GetName(), Type: value.Type(m.GetType()), Value: m.GetValue(), Lease: m.GetLease(), Heard: seconds(m.GetHeardSeconds()),
		Suspect: m.GetSuspect(), Revision: m.GetRevision(),
	}
	for _, p := range m.GetParts() {
		item, err := itemOf(p.GetItem())
		if err != nil {
			return Shared{}, err
		}
		s.Parts = append(s.Parts, Contribution{item, p.GetLeftOut()})
	}
	return s, nil
}
