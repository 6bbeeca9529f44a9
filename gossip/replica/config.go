package replica

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

var (
	// ErrConfig means a field of Config that must be set is not.
	ErrConfig = errors.New("replica: incomplete configuration")

	// ErrNoIdentity means the node has no epoch certificate yet and is read-only.
	// It ends with SetIdentity.
	ErrNoIdentity = errors.New("the node's feed has no epoch certificate yet: it is read-only until the issuer gives one")

	// ErrRewound means this disk is behind what the node has signed before, most
	// likely a restored copy. It ends with a SetIdentity of a newer epoch.
	ErrRewound = errors.New("the node's own feed is ahead of this disk: a new epoch is needed before it may write")

	// ErrRelay means the peer handed over something it should not have let
	// through: a malformed frame, a bad signature, a body that is not its
	// header's. It says nothing about the record's origin. Close the link and hold
	// the peer.
	ErrRelay = errors.New("the peer relayed what it should have refused")

	// ErrSlow means the peer did not take even the most urgent frames. Attach
	// again later.
	ErrSlow = errors.New("the peer does not keep up")

	// ErrStopped means Run has ended; the error it ended with is wrapped too. Restart the node.
	ErrStopped = errors.New("the replica has stopped")

	// ErrBusy means too many writes are waiting. Try again later.
	ErrBusy = errors.New("too many writes are waiting")

	// ErrCompacted means the changes after the revision asked for are not kept
	// any more, or are another run's. List, and watch from the revision List gives.
	ErrCompacted = errors.New("the revision is too old to watch from")
)

// Identity is what the node signs its feed with.
type Identity struct {
	Signer crypto.Signer // the feed key, P-256
	Cert   []byte        // the epoch certificate, DER
}

// Config says what a replica works with. The callbacks that begin with On are
// called one after another from a goroutine of their own and may call the replica;
// the others are called from its loop and must not.
type Config struct {
	// Self is the node's SPIFFE ID, the origin of its own feed. Required.
	Self spiffeid.ID

	// Store keeps records, certificates, proofs and the trail's outbox. Open requires
	// it; NewCore is given a Disk instead.
	Store *store.Store

	// Keys verifies epoch certificates. Required; see feed.KeyFunc.
	Keys feed.KeyFunc

	// Checkpoints verifies what the authority signed of a frontier. Nil: none does, and
	// records under expired certificates do not count.
	Checkpoints feed.CheckpointFunc

	// Kinds is the registry of key kinds. Nil means feed.DefaultKinds.
	Kinds feed.Kinds

	// Apply decides whether a foreign op becomes visible here (policy kind
	// state_admit, and schemas). Its error is the reason, for the trail; with a method
	// Why() string it gives the word for Refuse.Why and the metrics, one of a few. Refused
	// ops are stored and relayed all the same. Required.
	Apply func(feed.Record, feed.Op) error

	// Carry says whether feeds of origin travel between this node and peer. Both
	// sides should agree, or they compare frontiers for ever. Nil carries the
	// node's own trust domain.
	Carry func(peer, origin spiffeid.ID) bool

	// Resides says whether a node may hold a record: a peer that is about to be sent
	// it, or this node when it is handed one that its origin signed. A record that a node
	// may not hold goes to it as its header only, and is not taken in; its feed ends there
	// for that node. It is asked from the loop, often. Nil: every node may hold everything.
	Resides func(node spiffeid.ID, rec feed.Record) bool

	// Roster returns the region's nodes, as they signed for themselves, with or
	// without this one. Records are pushed to a few of them that are attached; see the
	// package doc. Nil: the attached peers are the roster.
	Roster func() []Member

	// Terms returns what this side wants of sessions with a peer. Nil: Full, without a
	// budget.
	Terms func(peer spiffeid.ID) Terms

	// Recordable says why an own record could not be recorded now, before it is signed; writes are
	// refused with that, and wait in no queue. Nil, or a nil error: it could.
	Recordable func() error

	// OnFinding hears of every new finding with its proof, and at the start of
	// Run of every stored one. Findings come once per digest and run.
	OnFinding func(proof []byte, f feed.Finding)

	// OnRewound hears that the node's own feed reaches at least to seq in epoch,
	// which this disk lacks. Answer with SetIdentity of a newer epoch.
	OnRewound func(epoch, seq uint64)

	// Policy returns the revision of the policy in force, for own records. Nil: none.
	Policy func() string

	// Traceparent returns the W3C trace context of a write, or "". Nil: none.
	Traceparent func(context.Context) string

	// TTL is what own records promise: the next comes within it. A record without
	// ops is written when half of it has passed. Zero means 5 minutes; shorter
	// shows a dead node sooner and lengthens the feed.
	TTL time.Duration

	// Patience is how long what uses a record (a schema, policy, the reader of evidence) may
	// take before Run ends with ErrStuck. Zero means 15 seconds.
	Patience time.Duration

	// Now is the node's clock. Nil: time.Now.
	Now func() time.Time

	// Rand draws the peers that are told lazily. Only the loop uses it. Nil: seeded
	// by chance.
	Rand *rand.Rand

	// Version names the running program. A record that crashed another version is tried
	// again.
	Version string

	Log     *slog.Logger          // nil: discard
	Metrics prometheus.Registerer // nil: none
}

func (c *Config) complete() error {
	for _, field := range []struct {
		name    string
		missing bool
	}{{"Self", c.Self.Path() == ""}, {"Keys", c.Keys == nil}, {"Apply", c.Apply == nil}} {
		if field.missing {
			return fmt.Errorf("%w: %s is not set", ErrConfig, field.name)
		}
	}
	if c.Kinds == nil {
		c.Kinds = feed.DefaultKinds()
	}
	if c.Checkpoints == nil {
		c.Checkpoints = func([]byte, spiffeid.TrustDomain) (feed.Checkpoint, error) {
			return feed.Checkpoint{}, feed.ErrUncheckable
		}
	}
	if c.Carry == nil {
		td := c.Self.TrustDomain()
		c.Carry = func(_, origin spiffeid.ID) bool { return origin.MemberOf(td) }
	}
	if c.Terms == nil {
		c.Terms = func(spiffeid.ID) Terms { return Terms{} }
	}
	if c.Roster == nil {
		c.Roster = func() []Member { return nil }
	}
	if c.TTL == 0 {
		c.TTL = 5 * time.Minute
	}
	if c.Patience == 0 {
		c.Patience = stuckAfter
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}
