package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
)

const (
	dialEvery   = 250 * time.Millisecond // how often missing peers are looked for
	dialPause   = 200 * time.Millisecond // after a first failed dial; doubled up to dialMost
	dialMost    = 5 * time.Second
	dialTimeout = 5 * time.Second
	awayFor     = time.Minute // whom a dial did not reach is drawn no more for so long
	planEvery   = time.Second // how often it is worked out which links to keep
	linger      = 10 * time.Second
)

// ErrNotNeighbour means a node of another region wants a link here, and only
// gateways have links across regions.
var ErrNotNeighbour = errors.New("links across regions are for gateways: list it under mesh.gateways if it should be one")

// peering keeps the links that this node should have: those of its overlay in the
// region's roster and, on a gateway, to the gateways of other regions. On each
// it runs the session that belongs there. Others it makes when somebody asks.
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
	metrics  prometheus.Registerer // nil: none

	overlay overlay   // run's alone, as are the next three
	planned time.Time // when kept was worked out
	kept    map[spiffeid.ID]bool
	links   *prometheus.GaugeVec

	pairs pairs

	mu       sync.Mutex // held for map work only
	known    map[netip.AddrPort]spiffeid.ID
	paused   map[netip.AddrPort]pause
	wanted   map[spiffeid.ID]time.Time // when a link was last one to keep
	sessions map[sessionKey]*session
	muted    map[spiffeid.ID]bool      // whose links are kept, and who relays nothing over them
	refused  map[spiffeid.ID]time.Time // who broke a session off at once, and when
}

// pause is the back-off of one address.
type pause struct {
	until  time.Time
	last   time.Duration
	failed time.Time
}

func (p *peering) start() error {
	p.overlay.self = p.self
	p.known, p.paused = map[netip.AddrPort]spiffeid.ID{}, map[netip.AddrPort]pause{}
	p.wanted, p.sessions = map[spiffeid.ID]time.Time{}, map[sessionKey]*session{}
	p.muted, p.refused = map[spiffeid.ID]bool{}, map[spiffeid.ID]time.Time{}
	p.links = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "bailiwick_peering_links",
		Help: "Links in the region, by who keeps them (self, peer, nobody: idle).",
	}, []string{"kept_by"})
	if p.metrics != nil {
		if err := p.metrics.Register(p.links); err != nil {
			return err
		}
	}
	p.handle()
	return nil
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
	up := make(chan struct{}, 1)
	wake := func() {
		select {
		case up <- struct{}{}:
		default:
		}
	}
	p.link.OnPeer(func(spiffeid.ID, bool) { wake() })
	tick := time.NewTicker(dialEvery)
	defer tick.Stop()
	opening := map[spiffeid.ID]bool{}
	opened := make(chan spiffeid.ID, 64)
	for {
		if now := time.Now(); now.Sub(p.planned) >= planEvery || len(p.kept) == 0 {
			p.plan(now)
		}
		for _, t := range p.targets() {
			wait.Go(func() { p.dial(ctx, t) })
		}
		for _, peer := range p.link.Peers() {
			if !opening[peer.ID] && p.opens(peer, time.Now()) {
				opening[peer.ID] = true
				wait.Go(func() {
					p.open(ctx, peer.ID)
					opened <- peer.ID
				})
			}
		}
		select {
		case <-ctx.Done():
			for range opening {
				<-opened
			}
			return nil
		case id := <-opened:
			delete(opening, id)
		case <-up:
		case <-tick.C:
		}
	}
}

// plan works out which links to keep, ends the sessions of those that are not any more,
// and closes links that nobody uses.
func (p *peering) plan(now time.Time) {
	p.planned = now
	p.mu.Lock()
	maps.DeleteFunc(p.paused, func(_ netip.AddrPort, held pause) bool {
		return now.Sub(held.failed) > awayFor && now.After(held.until)
	})
	held := maps.Clone(p.paused)
	p.mu.Unlock()
	p.standing.roster() // who has a say changes with it
	neighbours := p.dir.neighbours()
	var members []replica.Member
	addrs := map[spiffeid.ID]netip.AddrPort{}
	for _, n := range neighbours {
		if p.standing.admits(n.id) == nil {
			members = append(members, replica.Member{ID: n.id, Domain: n.zone})
			addrs[n.id] = n.addr
		}
	}
	p.kept = p.overlay.keep(members, func(id spiffeid.ID) bool {
		_, live := p.link.Conn(id)
		return !live && !held[addrs[id]].failed.IsZero()
	}, now, rand.IntN)
	p.mu.Lock()
	for id := range p.kept {
		p.wanted[id] = now
	}
	maps.DeleteFunc(p.wanted, func(_ spiffeid.ID, at time.Time) bool { return now.Sub(at) > linger })
	var idle []unused
	count := map[string]int{}
	for _, peer := range p.link.Peers() {
		if peer.ID.TrustDomain() != p.self.TrustDomain() {
			continue
		}
		mine, theirs := p.sessions[sessionKey{peer.ID, true}], p.sessions[sessionKey{peer.ID, false}]
		_, member := addrs[peer.ID]
		_, wanted := p.wanted[peer.ID]
		switch {
		case wanted || !member: // who is not in the roster yet is about to be
			count["self"]++
		case theirs != nil:
			count["peer"]++
		case mine != nil:
			mine.cancel(io.EOF)
			count["nobody"]++
		default:
			count["nobody"]++
			if conn, live := p.link.Conn(peer.ID); live {
				idle = append(idle, unused{peer.ID, conn.Idle()})
			}
		}
	}
	p.mu.Unlock()
	for _, by := range []string{"self", "peer", "nobody"} {
		p.links.WithLabelValues(by).Set(float64(count[by]))
	}
	for _, id := range surplus(idle) {
		if conn, live := p.link.Conn(id); live {
			conn.Close()
		}
	}
}

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
	for id := range p.kept {
		if n, ok := p.dir.node(id); ok {
			offer(n.addr, id)
		}
	}
	alone := !p.linked()
	for _, addr := range p.seeds {
		if id := p.dir.at(addr); id.IsZero() || alone { // one of the roster is linked like any other
			offer(addr, id)
		}
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
		held.failed = time.Now()
		held.until = held.failed.Add(held.last/2 + rand.N(held.last)) // jitter: a fleet that comes back must not do so in step
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

// reach returns the link with a node of the region, and makes one where there is none.
// Nobody keeps that one: it is closed once it has been idle for a while. Errors are
// those of link.Dial, and link.ErrUnreachable for a node that is not in the roster.
func (p *peering) reach(ctx context.Context, id spiffeid.ID) (*link.Conn, error) {
	if conn, live := p.link.Conn(id); live {
		return conn, nil
	}
	n, known := p.dir.node(id)
	if !known {
		return nil, fmt.Errorf("%w: no record says where %s is", link.ErrUnreachable, id)
	}
	if err := p.standing.admits(id); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return p.link.Dial(ctx, n.addr, id)
}

// sparse reports whether the region is too large for a link to everybody.
func (p *peering) sparse() bool { return p.dir.size() > fullMesh }

// neighbour reports whether a target should be a node of this region.
func (p *peering) neighbour(t target) bool {
	return t.id.TrustDomain() == p.self.TrustDomain() || slices.Contains(p.seeds, t.addr)
}

// linked reports whether this node has a link in its region.
func (p *peering) linked() bool {
	return slices.ContainsFunc(p.link.Peers(), func(peer link.Peer) bool { return peer.ID.TrustDomain() == p.self.TrustDomain() })
}
