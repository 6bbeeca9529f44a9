package replica

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
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

	// Store keeps records, certificates, proofs and the trail's outbox. Required.
	Store *store.Store

	// Keys verifies epoch certificates. Required; see feed.KeyFunc.
	Keys feed.KeyFunc

	// Kinds is the registry of key kinds. Nil means feed.DefaultKinds.
	Kinds feed.Kinds

	// Apply decides whether a foreign op becomes visible here (policy kind
	// state_admit). Its error is the reason, for the trail. Refused ops are stored
	// and relayed all the same. Required.
	Apply func(feed.Record, feed.Op) error

	// Carry says whether feeds of origin travel between this node and peer. Both
	// sides should agree, or they compare frontiers for ever. Nil carries the
	// node's own trust domain.
	Carry func(peer, origin spiffeid.ID) bool

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

	Log     *slog.Logger          // nil: discard
	Metrics prometheus.Registerer // nil: none
}

func (c *Config) complete() error {
	for _, field := range []struct {
		name    string
		missing bool
	}{{"Self", c.Self.Path() == ""}, {"Store", c.Store == nil}, {"Keys", c.Keys == nil}, {"Apply", c.Apply == nil}} {
		if field.missing {
			return fmt.Errorf("%w: %s is not set", ErrConfig, field.name)
		}
	}
	if c.Kinds == nil {
		c.Kinds = feed.DefaultKinds()
	}
	if c.Carry == nil {
		td := c.Self.TrustDomain()
		c.Carry = func(_, origin spiffeid.ID) bool { return origin.MemberOf(td) }
	}
	if c.TTL == 0 {
		c.TTL = 5 * time.Minute
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}
