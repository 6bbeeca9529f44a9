package app

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/roster"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
)

const (
	protoSerf    = "serf/1"
	datagramSerf = 1
	joinEvery    = 10 * time.Second
	recordEvery  = time.Second
	serfQueue    = 1024
)

// membership runs serf over the links, for hints. It is roster's Network: links
// carry it, the signed roster names its members.
type membership struct {
	self   spiffeid.ID
	link   *link.Link
	dir    *directory
	record func() ([]byte, error) // this node's signed record, of its epoch in force
	keys   roster.KeyFunc
	log    *slog.Logger
	reg    prometheus.Registerer

	packets chan roster.Datagram
	inbound chan roster.InboundStream

	mu    sync.RWMutex // held for an assignment
	hints map[spiffeid.ID]roster.Hint
}

func newMembership(self spiffeid.ID, l *link.Link, dir *directory, v *verifier, creds *credentials, addr netip.AddrPort, log *slog.Logger, reg prometheus.Registerer) *membership {
	m := &membership{
		self: self, link: l, dir: dir, log: log, reg: reg,
		packets: make(chan roster.Datagram, serfQueue), inbound: make(chan roster.InboundStream),
		hints: map[spiffeid.ID]roster.Hint{},
		keys:  v.rosterKey,
	}
	m.record = func() ([]byte, error) {
		der := creds.epochCert()
		cert, err := v.certificate(der)
		if err != nil {
			return nil, err
		}
		return roster.SignRecord(creds.machine.feed, roster.Record{ID: self, Addr: addr, Epoch: cert.Epoch, Cert: sha256.Sum256(der)})
	}
	l.HandleDatagram(datagramSerf, func(peer spiffeid.ID, b []byte) {
		select {
		case m.packets <- roster.Datagram{Peer: peer, B: append([]byte(nil), b...)}:
		default: // SWIM expects to lose packets
		}
	})
	l.Handle(protoSerf, func(ctx context.Context, peer spiffeid.ID, s *link.Stream) {
		select {
		case m.inbound <- roster.InboundStream{Peer: peer, Conn: s}:
		case <-ctx.Done():
			s.Reset()
		case <-time.After(time.Second):
			s.Reset() // serf takes no more: the peer tries again later
		}
	})
	return m
}

// run starts serf, keeps it acquainted with the roster, and stops it.
func (m *membership) run(ctx context.Context) error {
	record, err := m.record()
	for err != nil { // the feed is read-only: there is no epoch to sign it in
		m.log.Debug("serf record", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(recordEvery):
		}
		record, err = m.record()
	}
	r, err := roster.Start(roster.Config{
		Self: m.self, Network: m, Record: record, Keys: m.keys, Log: m.log, Metrics: m.reg,
		OnHint: func(h roster.Hint) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.hints[h.ID] = h
		},
	})
	if err != nil {
		return err
	}
	tick := time.NewTicker(joinEvery)
	defer tick.Stop()
	first := time.After(time.Second) // when the first links are up
	for {
		select {
		case <-ctx.Done():
			return r.Close()
		case <-first:
		case <-tick.C:
		}
		if record, err := m.record(); err == nil {
			if err := r.SetRecord(record); err != nil {
				m.log.Debug("serf record", "err", err)
			}
		}
		var peers []spiffeid.ID
		for _, p := range m.link.Peers() {
			if p.ID.TrustDomain() == m.self.TrustDomain() && m.hint(p.ID) != string(roster.Alive) {
				peers = append(peers, p.ID)
			}
		}
		if len(peers) > 0 {
			jctx, cancel := context.WithTimeout(ctx, joinEvery/2)
			if _, err := r.Join(jctx, peers...); err != nil && ctx.Err() == nil {
				m.log.Debug("serf join", "err", err)
			}
			cancel()
		}
	}
}

// hint is what serf makes of a node, or "".
func (m *membership) hint(id spiffeid.ID) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return string(m.hints[id].State)
}

// SendDatagram, Datagrams, Dial, Accept, PeerByName and NameOf are roster.Network.
func (m *membership) SendDatagram(peer spiffeid.ID, b []byte) error {
	conn, ok := m.link.Conn(peer)
	if !ok {
		return link.ErrUnreachable
	}
	return conn.SendDatagram(datagramSerf, b)
}

func (m *membership) Datagrams() <-chan roster.Datagram { return m.packets }

func (m *membership) Accept() <-chan roster.InboundStream { return m.inbound }

func (m *membership) Dial(ctx context.Context, peer spiffeid.ID) (net.Conn, error) {
	conn, ok := m.link.Conn(peer)
	if !ok {
		return nil, fmt.Errorf("%w: %s", link.ErrUnreachable, peer)
	}
	return conn.OpenStream(ctx, protoSerf)
}

func (m *membership) PeerByName(name string) (spiffeid.ID, bool) {
	if n, err := identity.ParseNode(m.self); err == nil && n.Name == name {
		return m.self, true
	}
	for _, n := range m.dir.neighbours() {
		if p, err := identity.ParseNode(n.id); err == nil && p.Name == name {
			return n.id, true
		}
	}
	return spiffeid.ID{}, false
}

func (m *membership) NameOf(peer spiffeid.ID) (string, bool) {
	n, err := identity.ParseNode(peer)
	if err != nil {
		return "", false
	}
	if _, known := m.dir.node(peer); !known && peer != m.self {
		return "", false
	}
	return n.Name, true
}

// rosterKey finds the key of a certificate that was seen and belongs to a node.
func (v *verifier) rosterKey(id spiffeid.ID, number uint64, cert [32]byte) (*ecdsa.PublicKey, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	c, ok := v.known[cert]
	if !ok || c.ID != id || c.Epoch != number {
		return nil, fmt.Errorf("%w: %x of %s epoch %d", roster.ErrUnknownKey, cert[:8], id, number)
	}
	return c.Key, nil
}
