// Package client is for programs on a node's own machine that read the signed
// state of their region, or write their node's part of it.
//
// A [Client] talks to the sidecar over its control socket; who may is decided by
// the file system (mode 0600). Every answer has a [View]: whose it is, how old, and
// what the node knows itself to be missing. Every [Item] says how fresh its owner's
// word is. Neither is hidden behind a default: what a stale answer is good for is
// the program's to decide.
//
// [Client.Watch] follows changes for as long as the program likes. It goes on from
// where it was after the sidecar restarts or is cut off, and where that is not
// possible it says so and begins again ([Reset]): no change is missed in silence.
//
// [Client.Change], [Client.Read] and [Client.Follow] are for what several nodes say together:
// under a name, <kind>/<name>, each writes a part of its own, and all read one value
// (package value).
//
// It verifies no signatures: the sidecar has done that for everything it serves,
// and the socket is as trustworthy as the machine.
//
// Other languages use the same service, bailiwick.state.v1 (statev1/state.proto),
// with gRPC, Connect or JSON over the unix socket.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
)

// DefaultSocket is where a sidecar installed as a service listens.
const DefaultSocket = "/var/lib/bailiwick/run/control.sock"

// Errors of this package. All others are of contexts, or bugs.
var (
	// ErrUnreachable means no sidecar answers on the socket, or it is not ready: try
	// again.
	ErrUnreachable = errors.New("the sidecar does not answer: check that it runs, and the path and mode of its control socket")
	// ErrNotFound means the sidecar holds no such key.
	ErrNotFound = errors.New("no such key is held here")
	// ErrRefused means the request was understood and cannot be granted: the key is
	// not this node's, its kind is the sidecar's own, policy grants less, or a quota is
	// spent.
	ErrRefused = errors.New("the sidecar refuses")
	// ErrRequest means the request is wrong: no key, an unknown scope, a value that
	// its kind or schema does not allow, a shared value of another type.
	ErrRequest = errors.New("the request is wrong")
)

// CodeHeader is where an answer has the code of its error, as bailiwick explain knows it.
const CodeHeader = "Bailiwick-Code"

// Scope says how far a value travels.
type Scope string

// The scopes. Region is the default.
const (
	Zone   Scope = "zone"
	Region Scope = "region"
	Global Scope = "global"
)

// View is whose answer it is, and how far to trust that it is complete.
type View struct {
	AsOf time.Time
	Of   spiffeid.ID // the node

	// Missing is signed records that exist and are not held here: their number, size
	// in bytes, and the age of the oldest.
	Missing      uint64
	MissingBytes uint64
	MissingFor   time.Duration

	// Lease is connected, isolated, or the degraded mode in force; Remaining is how
	// much autonomy is left.
	Lease     string
	Remaining time.Duration
}

// Item is the newest value of a key.
type Item struct {
	Key      string // /<owner path>/<kind>/<name>
	Value    []byte
	Owner    spiffeid.ID // the only node that can write it
	Epoch    uint64      // of the record that wrote it
	Seq      uint64
	Record   [32]byte // its RecordID
	Scope    Scope
	Revision uint64 // of the change that brought it to this node

	At      time.Time     // when it was written, by the owner's clock
	Age     time.Duration // since then
	Heard   time.Duration // since the owner's newest record held here
	Lease   string        // of the owner's word: live, delayed, stale, expired
	Suspect bool          // the owner is shut out or frozen: this is its last good state
	Closed  bool          // it is suspect, and policy keeps its kind closed: Value is nil, although there is one
	Rewind  bool          // the owner went on from before this write

	AttestedBy string // how its owner enrolled: tpm, unattested; empty: not known here

	Schema   string // that covers its key: level/file@version; empty: none
	Mismatch string // why the value does not match it, which it need not where it was there first; empty: it does
}

// Receipt says where a write ended up.
type Receipt struct {
	View   View
	Epoch  uint64
	Seq    uint64
	Record [32]byte
}

// Client talks to one sidecar. It may be used concurrently.
type Client struct {
	state statev1.StateClient
	http  *http.Client
}

// New returns a client of the sidecar at a control socket; an empty path is
// DefaultSocket. Nothing is connected yet.
func New(socket string) *Client {
	if socket == "" {
		socket = DefaultSocket
	}
	var d net.Dialer
	h := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
	}}
	return &Client{state: statev1.NewStateClient(h, "http://bailiwick"), http: h}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get returns the item of a key: a path in the node's own trust domain, or a whole
// SPIFFE ID with kind and name. Errors: ErrNotFound, ErrUnreachable, ErrRequest.
func (c *Client) Get(ctx context.Context, key string) (Item, View, error) {
	resp, err := c.state.Get(ctx, &statev1.GetRequest{Key: key})
	if err != nil {
		return Item{}, View{}, explain(err)
	}
	item, err := itemOf(resp.GetItem())
	return item, viewOf(resp.GetView()), err
}

// List returns the items whose keys begin with prefix, by owner and key, and the
// revision to watch from. "/" is all of the node's own trust domain, "spiffe://"
// everything. Errors: ErrUnreachable, ErrRequest.
func (c *Client) List(ctx context.Context, prefix string) (items []Item, revision uint64, v View, err error) {
	resp, err := c.state.List(ctx, &statev1.ListRequest{Prefix: prefix})
	if err != nil {
		return nil, 0, View{}, explain(err)
	}
	for _, m := range resp.GetItems() {
		item, err := itemOf(m)
		if err != nil {
			return nil, 0, View{}, err
		}
		items = append(items, item)
	}
	return items, resp.GetRevision(), viewOf(resp.GetView()), nil
}

// Put writes a key of the node's own. When it returns, the write is signed and
// durable on this node; peers hear of it next. Errors: ErrRefused, ErrRequest, or
// ErrUnreachable: then it may have been written or not, and Get shows which.
func (c *Client) Put(ctx context.Context, key string, value []byte, scope Scope) (Receipt, error) {
	return receiptOf(c.state.Put(ctx, &statev1.PutRequest{Key: key, Value: value, Scope: string(scope)}))
}

// Delete removes a key of the node's own, as Put writes it. One that is not there
// is ErrNotFound.
func (c *Client) Delete(ctx context.Context, key string) (Receipt, error) {
	return receiptOf(c.state.Delete(ctx, &statev1.DeleteRequest{Key: key}))
}

func receiptOf(resp *statev1.WriteResponse, err error) (Receipt, error) {
	if err != nil {
		return Receipt{}, explain(err)
	}
	r := Receipt{View: viewOf(resp.GetView()), Epoch: resp.GetEpoch(), Seq: resp.GetSeq()}
	copy(r.Record[:], resp.GetRecord())
	return r, nil
}

// explain gives an error of a call its kind.
func explain(err error) error {
	var answer *connect.Error
	if !errors.As(err, &answer) || !connect.IsWireError(err) {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	kind := ErrUnreachable
	switch answer.Code() {
	case connect.CodeNotFound:
		kind = ErrNotFound
	case connect.CodePermissionDenied, connect.CodeFailedPrecondition, connect.CodeResourceExhausted:
		kind = ErrRefused
	case connect.CodeInvalidArgument:
		kind = ErrRequest
	case connect.CodeOutOfRange:
		kind = errCompacted
	}
	if code := answer.Meta().Get(CodeHeader); code != "" {
		return fmt.Errorf("%w: %s: %s", kind, code, answer.Message())
	}
	return fmt.Errorf("%w: %s", kind, answer.Message())
}

func viewOf(m *statev1.View) View {
	if m == nil {
		return View{}
	}
	id, _ := spiffeid.FromString(m.GetViewOf()) // a sidecar without a name has none
	return View{
		AsOf: m.GetAsOf().AsTime(), Of: id,
		Missing: m.GetDebt().GetRecords(), MissingBytes: m.GetDebt().GetBytes(), MissingFor: seconds(m.GetDebt().GetOldestSeconds()),
		Lease: m.GetLease().GetMode(), Remaining: seconds(m.GetLease().GetRemainingSeconds()),
	}
}

func itemOf(m *statev1.Item) (Item, error) {
	owner, err := spiffeid.FromString(m.GetOwner())
	if err != nil {
		return Item{}, fmt.Errorf("%w: item %q of %q: %w", ErrUnreachable, m.GetKey(), m.GetOwner(), err)
	}
	i := Item{
		Key: m.GetKey(), Value: m.GetValue(), Owner: owner, Epoch: m.GetEpoch(), Seq: m.GetSeq(), Scope: Scope(m.GetScope()),
		Revision: m.GetRevision(), At: m.GetAt().AsTime(), Age: seconds(m.GetAgeSeconds()), Heard: seconds(m.GetHeardSeconds()),
		Lease: m.GetLease(), Suspect: m.GetSuspect(), Closed: m.GetWithheld(), Rewind: m.GetRewind(), AttestedBy: m.GetAttestedBy(),
	}
	i.Schema, i.Mismatch = m.GetFit().GetSchema(), m.GetFit().GetError()
	copy(i.Record[:], m.GetRecord())
	return i, nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
