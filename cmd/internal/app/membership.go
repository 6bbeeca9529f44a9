package app

import (
	"bytes"
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
	maxProbed    = 16 // nodes that are being connected to because of a probe
	maxAside     = 4  // packets that wait for one of them
)

// membership runs serf over the links, for hints. It is roster's Network: links
// carry it, the signed roster names its members. In a region too large for a link to
// everybody, probes and streams connect first; what serf tells by chance goes over
// the links there are.
type membership struct {
	self   spiffeid.ID
	link   *link.Link
	reach  func(context.Context, spiffeid.ID) (*link.Conn, error)
	dir    *directory
	record func() ([]byte, error) // this node's signed record, of its epoch in force
	cert   func() []byte          // of that epoch
	keys   roster.KeyFunc
	log    *slog.Logger
	reg    prometheus.Registerer

	packets chan roster.Datagram
	inbound chan roster.InboundStream

	mu    sync.RWMutex   // held for map work
	serf  *roster.Roster // once it runs
	hints map[spiffeid.ID]roster.Hint
	aside map[spiffeid.ID][][]byte // packets for those that are being connected to
}

func newMembership(self spiffeid.ID, l *link.Link, reach func(context.Context, spiffeid.ID) (*link.Conn, error), dir *directory, v *verifier, cert func() []byte, feed *ecdsa.PrivateKey, addr netip.AddrPort, log *slog.Logger, reg prometheus.Registerer) *membership {
	m := &membership{
		self: self, link: l, reach: reach, dir: dir, cert: cert, log: log, reg: reg,
		packets: make(chan roster.Datagram, serfQueue), inbound: make(chan roster.InboundStream),
		hints: map[spiffeid.ID]roster.Hint{}, aside: map[spiffeid.ID][][]byte{},
		keys: v.rosterKey,
	}
	m.record = func() ([]byte, error) {
		der := cert()
		of, err := v.certificate(der)
		if err != nil {
			return nil, err
		}
		return roster.SignRecord(feed, roster.Record{ID: self, Addr: addr, Epoch: of.Epoch, Cert: sha256.Sum256(der)})
	}
	m.handle()
	return m
}

func (m *membership) handle() {
	m.link.HandleDatagram(datagramSerf, func(peer spiffeid.ID, b []byte) {
		select {
		case m.packets <- roster.Datagram{Peer: peer, B: append([]byte(nil), b...)}:
		default: // SWIM expects to lose packets
		}
	})
	m.link.Handle(protoSerf, func(ctx context.Context, peer spiffeid.ID, s *link.Stream) {
		select {
		case m.inbound <- roster.InboundStream{Peer: peer, Conn: s}:
		case <-ctx.Done():
			s.Reset()
		case <-time.After(time.Second):
			s.Reset() // serf takes no more: the peer tries again later
		}
	})
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
	signed := m.cert()
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
	m.mu.Lock()
	m.serf = r
	m.mu.Unlock()
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
		if cert := m.cert(); !bytes.Equal(cert, signed) { // every new record is told to everybody
			if record, err := m.record(); err == nil {
				signed = cert
				if err := r.SetRecord(record); err != nil {
					m.log.Debug("serf record", "err", err)
				}
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

// degraded reports whether this node misses answers itself (Lifeguard), or does not know yet.
func (m *membership) degraded() bool {
	m.mu.RLock()
	r := m.serf
	m.mu.RUnlock()
	return r == nil || r.HealthScore() > 0
}

// hint is what serf makes of a node, or "".
func (m *membership) hint(id spiffeid.ID) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return string(m.hints[id].State)
}

// SendDatagram, Datagrams, Dial, Accept, PeerByName and NameOf are roster.Network.
func (m *membership) SendDatagram(peer spiffeid.ID, b []byte, probe bool) error {
	if conn, ok := m.link.Conn(peer); ok {
		return conn.SendDatagram(datagramSerf, b)
	}
	if !probe {
		return link.ErrUnreachable
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	waiting, dialled := m.aside[peer]
	if !dialled && len(m.aside) >= maxProbed || len(waiting) >= maxAside {
		return link.ErrQueueFull
	}
	m.aside[peer] = append(waiting, bytes.Clone(b))
	if !dialled {
		go m.connect(peer)
	}
	return nil
}

// connect sends a peer what was put aside, once it is connected. It ends with the link.
func (m *membership) connect(peer spiffeid.ID) {
	conn, err := m.reach(context.Background(), peer)
	m.mu.Lock()
	packets := m.aside[peer]
	delete(m.aside, peer)
	m.mu.Unlock()
	if err != nil {
		m.log.Debug("connect for a probe", "peer", peer, "err", err)
		return
	}
	for _, b := range packets {
		_ = conn.SendDatagram(datagramSerf, b) // SWIM expects to lose packets
	}
}

func (m *membership) Datagrams() <-chan roster.Datagram { return m.packets }

func (m *membership) Accept() <-chan roster.InboundStream { return m.inbound }

func (m *membership) Dial(ctx context.Context, peer spiffeid.ID) (net.Conn, error) {
	conn, err := m.reach(ctx, peer)
	if err != nil {
		return nil, err
	}
	return conn.OpenStream(ctx, protoSerf)
}

func (m *membership) PeerByName(name string) (spiffeid.ID, bool) {
	if n, err := identity.ParseNode(m.self); err == nil && n.Name == name {
		return m.self, true
	}
	return m.dir.named(name)
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
