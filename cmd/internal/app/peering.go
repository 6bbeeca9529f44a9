package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// Stream protocols between nodes (see mesh/link).
const (
	protoGossip  = "gossip/1"
	protoSummary = "summary/1"
)

const (
	dialEvery   = 250 * time.Millisecond // how often missing peers are looked for
	dialPause   = 200 * time.Millisecond // after a first failed dial; doubled up to dialMost
	dialMost    = 5 * time.Second
	dialTimeout = 5 * time.Second
)

// ErrNotNeighbour means a node of another region wants a link here, and only
// gateways have links across regions.
var ErrNotNeighbour = errors.New("links across regions are for gateways: list it under mesh.gateways if it should be one")

// peering keeps the links that this node should have: to every node of its
// region's roster and, on a gateway, to the gateways of other regions. On each
// it runs the session that belongs there.
type peering struct {
	self     spiffeid.ID
	link     *link.Link
	replica  *replica.Replica
	gateway  *summary.Gateway // nil unless this node is one
	standing *standings
	dir      *directory
	seeds    []netip.AddrPort // of the region
	gateways []netip.AddrPort // of other regions
	shutOut  func()           // hears that the region's nodes refuse this one; must not block
	log      *slog.Logger

	mu     sync.Mutex // held for map work only
	known  map[netip.AddrPort]spiffeid.ID
	paused map[netip.AddrPort]pause
}

// pause is the back-off of one address.
type pause struct {
	until time.Time
	last  time.Duration
}

func (p *peering) start() {
	p.known, p.paused = map[netip.AddrPort]spiffeid.ID{}, map[netip.AddrPort]pause{}
	p.link.Handle(protoGossip, func(ctx context.Context, peer spiffeid.ID, s *link.Stream) { p.session(ctx, peer, protoGossip, s) })
	p.link.Handle(protoSummary, func(ctx context.Context, peer spiffeid.ID, s *link.Stream) { p.session(ctx, peer, protoSummary, s) })
}

// welcomes is link's question about a verified node.
func (p *peering) welcomes(id spiffeid.ID) error {
	if _, err := identity.ParseNode(id); err != nil {
		return err
	}
	if id.TrustDomain() != p.self.TrustDomain() && p.gateway == nil {
		return ErrNotNeighbour
	}
	return p.standing.admits(id)
}

// run looks for missing peers until ctx ends.
func (p *peering) run(ctx context.Context) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	up := make(chan spiffeid.ID, 64)
	p.link.OnPeer(func(peer spiffeid.ID, isUp bool) {
		if isUp && ctx.Err() == nil {
			select {
			case up <- peer:
			default: // the tick below finds it
			}
		}
	})
	tick := time.NewTicker(dialEvery)
	defer tick.Stop()
	sessions := map[spiffeid.ID]context.CancelFunc{}
	ended := make(chan spiffeid.ID, 64)
	for {
		for _, t := range p.targets() {
			wait.Go(func() { p.dial(ctx, t) })
		}
		for _, peer := range p.link.Peers() {
			if sessions[peer.ID] == nil && p.initiates(peer.ID) {
				sctx, cancel := context.WithCancel(ctx)
				sessions[peer.ID] = cancel
				wait.Go(func() {
					defer func() { ended <- peer.ID }()
					p.open(sctx, peer.ID)
				})
			}
		}
		select {
		case <-ctx.Done():
			for range sessions {
				<-ended
			}
			return nil
		case id := <-ended:
			sessions[id]()
			delete(sessions, id)
		case <-up:
		case <-tick.C:
		}
	}
}

// initiates decides, the same on both sides, who opens the session of a pair.
func (p *peering) initiates(peer spiffeid.ID) bool { return p.self.String() < peer.String() }

// target is an address to dial, and whom to expect there, if that is known.
type target struct {
	addr netip.AddrPort
	id   spiffeid.ID
}

// targets are the peers to dial now.
func (p *peering) targets() (out []target) {
	now := time.Now()
	offer := func(addr netip.AddrPort, id spiffeid.ID) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if id.IsZero() {
			id = p.known[addr]
		}
		if id == p.self {
			return
		}
		if !id.IsZero() {
			if _, live := p.link.Conn(id); live || p.standing.admits(id) != nil {
				return
			}
		}
		if now.Before(p.paused[addr].until) {
			return
		}
		held := p.paused[addr]
		held.until = now.Add(dialTimeout) // one dial at a time
		p.paused[addr] = held
		out = append(out, target{addr, id})
	}
	for _, n := range p.dir.neighbours() {
		offer(n.addr, n.id)
	}
	for _, addr := range p.seeds {
		offer(addr, p.dir.at(addr))
	}
	for _, addr := range p.gateways {
		offer(addr, spiffeid.ID{})
	}
	return out
}

func (p *peering) dial(ctx context.Context, t target) {
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := p.link.Dial(dctx, t.addr, t.id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		held := p.paused[t.addr]
		held.last = min(max(2*held.last, dialPause), dialMost)
		held.until = time.Now().Add(held.last/2 + rand.N(held.last)) // jitter: a fleet that comes back must not do so in step
		p.paused[t.addr] = held
		if link.Unwelcome(err) && p.neighbour(t) && !p.linked() {
			p.shutOut()
		}
		if ctx.Err() == nil {
			p.log.Debug("dial", "addr", t.addr, "want", t.id, "err", err)
		}
		return
	}
	p.known[t.addr] = conn.Peer()
	delete(p.paused, t.addr)
	if td := conn.Peer().TrustDomain(); td != p.self.TrustDomain() {
		p.dir.met(t.addr, td)
	}
}

// neighbour reports whether a target should be a node of this region.
func (p *peering) neighbour(t target) bool {
	return t.id.TrustDomain() == p.self.TrustDomain() || slices.Contains(p.seeds, t.addr)
}

// linked reports whether this node has a link in its region.
func (p *peering) linked() bool {
	return slices.ContainsFunc(p.link.Peers(), func(peer link.Peer) bool { return peer.ID.TrustDomain() == p.self.TrustDomain() })
}

// open begins the session of a pair, on the side that initiates.
func (p *peering) open(ctx context.Context, peer spiffeid.ID) {
	conn, ok := p.link.Conn(peer)
	if !ok {
		return
	}
	proto := p.protocol(peer)
	s, err := conn.OpenStream(ctx, proto)
	if err != nil {
		p.log.Debug("open session", "peer", peer, "protocol", proto, "err", err)
		return
	}
	p.session(ctx, peer, proto, s)
}

func (p *peering) protocol(peer spiffeid.ID) string {
	if peer.TrustDomain() == p.self.TrustDomain() {
		return protoGossip
	}
	return protoSummary
}

// session runs one session to its end and judges how it ended.
func (p *peering) session(ctx context.Context, peer spiffeid.ID, proto string, s *link.Stream) {
	defer s.Reset()
	err := errNoSession
	switch {
	case proto != p.protocol(peer):
	case proto == protoGossip:
		err = p.replica.Attach(ctx, peer, s)
	case p.gateway != nil:
		err = p.gateway.Exchange(ctx, peer, s)
	}
	if err == nil || ctx.Err() != nil || errors.Is(err, io.EOF) {
		return
	}
	p.log.Debug("session ended", "peer", peer, "protocol", proto, "err", err)
	if class := faultClass(err); class != "" {
		p.standing.fault(peer, class)
	}
}

var errNoSession = errors.New("this protocol is not spoken with that peer")

// faultClass names what the relay itself did wrong, or nothing.
func faultClass(err error) string {
	switch {
	case errors.Is(err, replica.ErrRelay):
		return quarantine.BadSignature
	case errors.Is(err, summary.ErrFlood):
		return quarantine.Flood
	case errors.Is(err, summary.ErrMalformed):
		return quarantine.Malformed
	}
	return ""
}

// partition refuses packets of whole trust domains, in dev fleets only.
type partition struct {
	dir  *directory
	link func() []link.Peer

	mu      sync.RWMutex // held for map look-ups; a packet waits for it
	domains map[string]bool
	refused map[netip.AddrPort]bool
}

func (p *partition) refuses(addr netip.AddrPort) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.refused[netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())]
}

// set begins or ends the refusal of a trust domain's packets: those of every
// address at which one of its nodes is known.
func (p *partition) set(td spiffeid.TrustDomain, refuse bool) error {
	if refuse && !p.dir.knows(td) {
		return fmt.Errorf("no address of %s is known here", td)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.domains == nil {
		p.domains = map[string]bool{}
	}
	p.domains[td.Name()] = refuse
	refused := map[netip.AddrPort]bool{}
	for addr, id := range p.dir.foreign() {
		if p.domains[id.Name()] {
			refused[addr] = true
		}
	}
	for _, peer := range p.link() {
		if p.domains[peer.ID.TrustDomain().Name()] {
			refused[peer.Addr] = true
		}
	}
	for addr := range p.refused { // what was refused stays so while its domain may be: its links are gone by then
		if refuse {
			refused[addr] = true
		}
	}
	p.refused = refused
	return nil
}
