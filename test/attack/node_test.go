package attack

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/gossip/roster"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// Stream and datagram protocols between nodes, as package app names them.
const (
	protoGossip  = "gossip/1"
	protoSerf    = "serf/1"
	datagramSerf = 1
)

// node is an honest node: what package app makes of one, without policy and TPM.
type node struct {
	*replica.Replica
	t    *testing.T
	f    *fleet
	id   spiffeid.ID
	self replica.Identity
	svid renewable
	over func(*replica.Config)

	path     string
	store    *store.Store
	link     *link.Link
	roster   *roster.Roster
	standing *quarantine.Set
	gateway  atomic.Pointer[summary.Gateway] // nil unless the node is one
	metrics  *prometheus.Registry
	packets  chan roster.Datagram
	inbound  chan roster.InboundStream
	ctx      context.Context
	stop     func()
	stuck    chan struct{} // closed when something hangs

	mu    sync.Mutex
	hints map[string][]roster.State // by name, in order
	ended map[spiffeid.ID][]error   // sessions
}

func newNode(t *testing.T, f *fleet, name string, over func(*replica.Config)) *node {
	t.Helper()
	id := f.home.node(name)
	return &node{
		t: t, f: f, id: id, self: f.home.identityOf(t, f.class, id, newKey(t), 1, 7*24*time.Hour), over: over,
		path: filepath.Join(t.TempDir(), "store.db"),
	}
}

// start brings the node up on its disk; it meets nobody by itself.
func (n *node) start(t *testing.T) {
	t.Helper()
	n.mu.Lock()
	n.hints, n.ended = map[string][]roster.State{}, map[spiffeid.ID][]error{}
	n.mu.Unlock()
	n.metrics, n.packets, n.inbound = prometheus.NewRegistry(), make(chan roster.Datagram, 1024), make(chan roster.InboundStream)
	n.standing = quarantine.NewSet(n.id.TrustDomain(), quarantine.Checks{
		Evidence: func(proof []byte) (quarantine.Finding, error) {
			f, err := feed.VerifyProof(proof, n.f.keys)
			return quarantine.Finding{Accused: f.Accused, Class: f.Class, Digest: f.Digest, Epoch: f.Epoch}, err
		},
		Revocation: func(raw []byte) (quarantine.Revocation, error) { return n.f.revocation(raw) },
	})
	var err error
	if n.store, err = store.Open(n.path); err != nil {
		t.Fatal(err)
	}
	cfg := replica.Config{
		Self: n.id, Store: n.store, Keys: n.f.keys, TTL: time.Minute, Metrics: n.metrics,
		Apply:     func(feed.Record, feed.Op) error { return nil },
		OnFinding: n.found,
	}
	if n.over != nil {
		n.over(&cfg)
	}
	if n.Replica, err = replica.Open(cfg); err != nil {
		t.Fatal(err)
	}
	n.renew(t)
	bundles := x509bundle.NewSet(n.f.home.bundle(), n.f.abroad.bundle())
	if n.link, err = link.Listen(link.Config{
		PacketConn: n.f.net(t), SVID: &n.svid, Bundles: bundles, Authorize: n.welcomes, Metrics: n.metrics,
	}); err != nil {
		t.Fatal(err)
	}
	n.link.Handle(protoGossip, n.session)
	n.link.Handle(protoSummary, n.farSession)
	n.link.HandleDatagram(datagramSerf, func(peer spiffeid.ID, b []byte) {
		select {
		case n.packets <- roster.Datagram{Peer: peer, B: append([]byte(nil), b...)}:
		default:
		}
	})
	n.link.Handle(protoSerf, func(ctx context.Context, peer spiffeid.ID, s *link.Stream) {
		select {
		case n.inbound <- roster.InboundStream{Peer: peer, Conn: s}:
		case <-ctx.Done():
			s.Reset()
		case <-time.After(time.Second):
			s.Reset()
		}
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	n.ctx = ctx
	var parts sync.WaitGroup
	stuck := make(chan struct{})
	n.stuck = stuck
	parts.Go(func() {
		switch err := n.Run(ctx); {
		case errors.Is(err, replica.ErrStuck):
			close(stuck)
		case !errors.Is(err, context.Canceled):
			t.Errorf("%s: replica: %v", n.id, err)
		}
	})
	parts.Go(func() {
		if err := n.link.Run(ctx); err != nil {
			t.Errorf("%s: link: %v", n.id, err)
		}
	})
	n.stop = sync.OnceFunc(func() {
		if n.roster != nil {
			if err := n.roster.Close(); err != nil {
				t.Error(err)
			}
		}
		cancel()
		parts.Wait()
		if err := n.store.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(n.stop)
	if err := n.SetIdentity(ctx, n.self); err != nil {
		t.Fatal(err)
	}
}

// startRoster starts serf.
func (n *node) startRoster(t *testing.T) {
	t.Helper()
	key, err := n.f.keys(n.self.Cert)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := roster.SignRecord(n.self.Signer, roster.Record{ID: n.id, Addr: n.link.Addr(), Epoch: key.Epoch, Cert: sha256.Sum256(n.self.Cert)})
	if err != nil {
		t.Fatal(err)
	}
	if n.roster, err = roster.Start(roster.Config{
		Self: n.id, Network: n, Record: rec, Keys: n.f.rosterKey, Metrics: n.metrics,
		OnHint: func(h roster.Hint) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.hints[h.Name] = append(n.hints[h.Name], h.State)
		},
	}); err != nil {
		t.Fatal(err)
	}
}

// meet makes a link to another node and runs a gossip session on it.
func (n *node) meet(t *testing.T, peer *node) {
	t.Helper()
	conn, err := n.link.Dial(t.Context(), peer.link.Addr(), peer.id)
	if err != nil {
		t.Fatalf("%s dials %s: %v", n.id, peer.id, err)
	}
	s, err := conn.OpenStream(t.Context(), protoGossip)
	if err != nil {
		t.Fatal(err)
	}
	go n.session(n.ctx, peer.id, s)
}

// session runs one session and judges how it ended, as package app does.
func (n *node) session(ctx context.Context, peer spiffeid.ID, s *link.Stream) {
	defer s.Reset()
	if peer.TrustDomain() != n.id.TrustDomain() {
		return
	}
	err := n.Attach(ctx, peer, s)
	n.mu.Lock()
	n.ended[peer] = append(n.ended[peer], err)
	n.mu.Unlock()
	if ctx.Err() == nil && !errors.Is(err, io.EOF) && errors.Is(err, replica.ErrRelay) {
		n.standing.Fault(time.Now(), peer, quarantine.BadSignature)
		n.link.Recheck()
	}
}

// farSession is session with a node of another region, on a gateway.
func (n *node) farSession(ctx context.Context, peer spiffeid.ID, s *link.Stream) {
	defer s.Reset()
	gw := n.gateway.Load()
	if gw == nil {
		return
	}
	err := gw.Exchange(ctx, peer, s)
	class := ""
	switch {
	case errors.Is(err, summary.ErrFlood):
		class = quarantine.Flood
	case errors.Is(err, summary.ErrMalformed):
		class = quarantine.Malformed
	}
	if class != "" && ctx.Err() == nil {
		n.standing.Fault(time.Now(), peer, class)
		n.link.Recheck()
	}
}

// found acts on a finding, as package app does.
func (n *node) found(proof []byte, f feed.Finding) {
	if !f.Convicts() {
		return
	}
	if _, _, err := n.standing.AddEvidence(time.Now(), proof, spiffeid.ID{}); err != nil {
		n.t.Errorf("%s: evidence: %v", n.id, err)
	}
	n.link.Recheck()
	if err := n.Freeze(n.ctx, f.Accused); err != nil && n.ctx.Err() == nil {
		n.t.Errorf("%s: freeze: %v", n.id, err)
	}
}

// welcomes is what package app answers the link of a node that is no gateway, but for
// what the link has to look at itself.
func (n *node) welcomes(id spiffeid.ID) error {
	if id.TrustDomain() != n.id.TrustDomain() && n.gateway.Load() == nil {
		return errors.New("links across regions are for gateways")
	}
	if n.standing.Effects(id, time.Now(), quarantine.Roster{Attested: 40}).CutSessions {
		return fmt.Errorf("%s is contained here", id)
	}
	return nil
}

func (n *node) stands(id spiffeid.ID) quarantine.Standing {
	return n.standing.Standing(id, time.Now()).Standing
}

// sessionEnds are the errors that sessions with a peer ended with.
func (n *node) sessionEnds(peer spiffeid.ID) []error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]error(nil), n.ended[peer]...)
}

// heard are the hints about a node, in order.
func (n *node) heard(name string) []roster.State {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]roster.State(nil), n.hints[name]...)
}

func (n *node) key(name string) string { return feed.KeyOf(n.id, feed.KindService, name) }

func op(key, value string) feed.Op {
	return feed.Op{Key: key, Action: feed.Put, Value: []byte(value), Scope: feed.ScopeRegion}
}

func (n *node) put(name, value string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.ctx, 10*time.Second)
	defer cancel()
	if _, err := n.Put(ctx, op(n.key(name), value)); err != nil {
		n.t.Fatalf("%s puts %s: %v", n.id, name, err)
	}
}

func (n *node) shows(key, value string) bool {
	e, ok := n.Get(key)
	return ok && string(e.Value) == value
}

func (n *node) frontier() (feed.Frontier, [32]byte) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.ctx, 10*time.Second)
	defer cancel()
	f, root, err := n.Frontier(ctx)
	if err != nil {
		n.t.Fatalf("%s: frontier: %v", n.id, err)
	}
	return f, root
}

// counter sums a metric over the label value given; "" means all.
func (n *node) counter(name, label string) (sum float64) {
	n.t.Helper()
	families, err := n.metrics.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if label == "" || len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == label {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// stored counts what a bucket of the node's store holds.
func (n *node) stored(t *testing.T, bucket string) (count int) {
	t.Helper()
	if err := n.store.View(func(tx *store.Tx) error {
		tx.Range(bucket, nil, func([]byte, []byte) bool { count++; return true })
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return count
}

// SendDatagram and the rest make a node roster.Network.
func (n *node) SendDatagram(peer spiffeid.ID, b []byte, _ bool) error {
	conn, ok := n.link.Conn(peer)
	if !ok {
		return link.ErrUnreachable
	}
	return conn.SendDatagram(datagramSerf, b)
}

func (n *node) Datagrams() <-chan roster.Datagram { return n.packets }

func (n *node) Accept() <-chan roster.InboundStream { return n.inbound }

func (n *node) Dial(ctx context.Context, peer spiffeid.ID) (net.Conn, error) {
	conn, ok := n.link.Conn(peer)
	if !ok {
		return nil, link.ErrUnreachable
	}
	return conn.OpenStream(ctx, protoSerf)
}

func (n *node) PeerByName(name string) (spiffeid.ID, bool) {
	id := n.f.home.node(name)
	return id, n.f.member(id)
}

func (n *node) NameOf(peer spiffeid.ID) (string, bool) {
	p, err := identity.ParseNode(peer)
	return p.Name, err == nil && n.f.member(peer)
}

func (n *node) addr() netip.AddrPort { return n.link.Addr() }

// rosterKey finds the key of an epoch certificate of a member.
func (f *fleet) rosterKey(id spiffeid.ID, number uint64, cert [32]byte) (*ecdsa.PublicKey, error) {
	f.mu.Lock()
	der, ok := f.certs[cert]
	f.mu.Unlock()
	if !ok {
		return nil, roster.ErrUnknownKey
	}
	key, err := f.keys(der)
	if err != nil || key.Origin != id || key.Epoch != number {
		return nil, roster.ErrUnknownKey
	}
	return key.Key, nil
}
