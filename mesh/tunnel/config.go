package tunnel

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/caller"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
	"github.com/bailiwick-mesh/bailiwick/mesh/route"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Config says what a Proxy needs. All hooks are required, may be called from
// many goroutines at once, and must answer from local state.
type Config struct {
	// Link carries the tunnels. Listen registers its tunnel handlers.
	Link *link.Link
	// Bundles are the trust bundles that far nodes are verified with.
	Bundles x509bundle.Source
	// NodeSVID is this node's SVID; its key signs node statements and must be
	// ECDSA P-256.
	NodeSVID x509svid.Source
	// Region is the short label of this node's region.
	Region string
	// Listeners are the local ways in.
	Listeners []Listener

	// Workload says which workload a local process is. Its error refuses. It
	// must not Close or keep the process.
	Workload func(*caller.Process) (*x509svid.SVID, error)
	// Resolve says who serves a service. Its error refuses.
	Resolve func(service string) (Service, error)
	// Serve says where this node serves a service. Its error refuses.
	Serve func(service string) (Target, error)
	// Node says whether a far node is welcome: standing and zone. Its error
	// refuses, and is told to the node.
	Node func(node spiffeid.ID) error
	// Endorsement is what this node shows of its attestation to nodes that its
	// own region's signed state does not reach. Nil: nothing.
	Endorsement func() []byte
	// Endorsed is told what a far node shows, not verified, with the leaf of its
	// chain, which verifies and of which it proved to hold the key, before Node is
	// asked. Nil is allowed.
	Endorsed func(node spiffeid.ID, leaf *x509.Certificate, endorsement []byte)
	// Peer gives the verified facts about a workload on a node, for policy; of
	// a node itself where both are the same.
	Peer func(id, node spiffeid.ID) policy.Peer
	// Decide decides and records, in that order, before it returns. It gets
	// everything of the input but Time.Trusted and Policy, which it sets.
	Decide func(context.Context, policy.Input) policy.Decision
	// Stay is Decide for a connection that was admitted and is asked about
	// again. Nil: Decide.
	Stay func(context.Context, policy.Input) policy.Decision
	// Refused is told of every refused connection, to record it; Refusal.Recorded
	// tells which Decide has recorded already. Nil is allowed.
	Refused func(Refusal)

	// MaxConns bounds the connections of each direction, in and out. Zero is
	// 4096. More clients wait in the listeners' backlogs; more streams from
	// other nodes are told "busy".
	MaxConns int
	// Drain is how long Run lets connections finish after its context ended.
	// Zero is five seconds.
	Drain time.Duration
	// Log may be nil: nothing is logged then.
	Log *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
}

// Listener is a local TCP address and the service behind it.
type Listener struct {
	Addr    netip.AddrPort // port 0 picks a free one: see Proxy.Addrs
	Service string
}

// Service is what the source must know of a service.
type Service struct {
	policy.Service
	// Allowed are the workloads that may answer, as the authority signed it.
	Allowed []spiffeid.ID
	// Owners are the workloads known to serve it now. One that is not Allowed
	// is passed over.
	Owners []route.Owner
}

// Target is a service that a local workload offers.
type Target struct {
	policy.Service
	// Addr is the local TCP address.
	Addr netip.AddrPort
	// SVID is that of the workload that owns the service; the process that
	// listens on Addr must be this workload.
	SVID *x509svid.SVID
}

// Side is the end of a connection that refused it.
type Side string

const (
	Source      Side = "source"
	Destination Side = "destination"
)

// Refusal is a connection that was not made. Fields that were not known yet are
// zero.
type Refusal struct {
	At       time.Time
	Side     Side // this node's
	Service  string
	Client   netip.AddrPort // at the source: the client's socket
	PID      int            // at the source: the client's process
	Exe      string         // at the source: its program
	Workload spiffeid.ID    // the source workload
	Node     spiffeid.ID    // the far node, the last one tried
	Cause    error
	Decision string // ID of the decision, this node's or the far one's
	Rule     string // of that decision
	Recorded bool   // Decide of this node denied it and has recorded that
}

// Stats counts what is live.
type Stats struct {
	TunnelsOut, TunnelsIn int // tunnels by who dialled
	ConnsOut, ConnsIn     int // connections by where the client is
}

func (c *Config) maxConns() int {
	if c.MaxConns > 0 {
		return c.MaxConns
	}
	return 4096
}

func (c *Config) drain() time.Duration {
	if c.Drain > 0 {
		return c.Drain
	}
	return 5 * time.Second
}
