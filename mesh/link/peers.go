package link

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Two connections of one pair of processes that begin within crossing of each
// other are taken for dials that crossed. It is shorter than maxIdle, so a
// re-dial after a partition is never taken for one.
const crossing = 5 * time.Second

// drainFor is how long the connection that is not used goes on serving.
const drainFor = 5 * time.Second

// peer is one node we are connected to.
type peer struct {
	inUse    *Conn
	draining *Conn // or nil
}

// Peer describes a live node connection.
type Peer struct {
	ID          spiffeid.ID
	Addr        netip.AddrPort // where its packets come from now
	RTT         time.Duration  // smoothed; zero before the first sample
	Since       time.Time
	CertExpires time.Time // when the connection ends, at the latest
}

// bout is what decides between two connections to one peer.
type bout struct {
	initiator spiffeid.ID
	instance  [16]byte // of the peer's process
	since     time.Time
}

// replaces says whether the later connection takes the place of the earlier.
// Both ends must come to the same answer from what they see.
func replaces(later, earlier bout) bool {
	switch {
	case later.instance != earlier.instance:
		return true // another process: the earlier one is gone
	case later.since.Sub(earlier.since) > crossing:
		return true // the peer would have re-used the earlier one had it been alive
	case later.initiator == earlier.initiator:
		return true // that side gave the earlier one up
	}
	return later.initiator.String() < earlier.initiator.String()
}

// register enters an admitted connection and returns the one to use with that
// peer from now on.
func (l *Link) register(c *Conn) (*Conn, error) {
	var over []*Conn // to close now
	var drain *Conn  // to close soon
	inUse := c
	ok := l.spawn(c.serve, func() {
		p := l.peers[c.s.id]
		if p == nil {
			l.peers[c.s.id] = &peer{inUse: c}
			l.post(c.s.id, true)
			return
		}
		if p.draining != nil {
			over = append(over, p.draining)
		}
		switch {
		case p.inUse.bout.instance != c.bout.instance:
			over = append(over, p.inUse)
		case replaces(c.bout, p.inUse.bout) || !p.inUse.s.alive():
			drain = p.inUse
		default:
			drain, inUse = c, p.inUse
		}
		p.draining = drain
		if inUse == c {
			p.inUse = c
			l.post(c.s.id, false)
			l.post(c.s.id, true)
		}
	})
	if !ok {
		return nil, fmt.Errorf("%w: the link is closed", ErrClosed)
	}
	l.log.Info("peer connected", "peer", c.s.id.String(), "addr", c.RemoteAddr().String(), "initiator", c.bout.initiator.String(), "in_use", inUse == c)
	const reason = "another connection of the same two nodes is in use"
	for _, c := range over {
		c.s.end(codeSuperseded, reason)
	}
	if drain != nil {
		t := time.AfterFunc(drainFor, func() { drain.s.end(codeSuperseded, reason) })
		context.AfterFunc(drain.s.qc.Context(), func() { t.Stop() })
	}
	return inUse, nil
}

// unregister forgets a connection that ended.
func (l *Link) unregister(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch p := l.peers[c.s.id]; {
	case p == nil:
	case p.inUse == c:
		delete(l.peers, c.s.id) // one that drains ends by its timer
		l.post(c.s.id, false)
	case p.draining == c:
		p.draining = nil
	}
}

// Peers returns the live node connections in use, by ID.
func (l *Link) Peers() []Peer {
	l.mu.Lock()
	conns := make([]*Conn, 0, len(l.peers))
	for _, p := range l.peers {
		conns = append(conns, p.inUse)
	}
	l.mu.Unlock()
	out := make([]Peer, 0, len(conns))
	for _, c := range conns {
		out = append(out, Peer{ID: c.s.id, Addr: c.RemoteAddr(), RTT: c.RTT(), Since: c.bout.since, CertExpires: c.s.expires})
	}
	slices.SortFunc(out, func(a, b Peer) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	return out
}

// Conn returns the connection in use with a node.
func (l *Link) Conn(id spiffeid.ID) (*Conn, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.peers[id]; p != nil && p.inUse.s.alive() {
		return p.inUse, true
	}
	return nil, false
}

type peerEvent struct {
	id spiffeid.ID
	up bool
}

// OnPeer registers fn to hear when a node becomes connected (up) and when it no
// longer is. For one peer up and down alternate; a replaced connection is a down
// and an up. Calls come one at a time and in order, from one goroutine: fn must
// not block for long. Register before Run and Dial.
func (l *Link) OnPeer(fn func(peer spiffeid.ID, up bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onPeer = append(l.onPeer, fn)
}

// post queues an event; l.mu is held.
func (l *Link) post(id spiffeid.ID, up bool) {
	l.events = append(l.events, peerEvent{id, up})
	l.poke()
}

func (l *Link) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// notify delivers events until the link is closed and none are left.
func (l *Link) notify() {
	defer close(l.notified)
	for range l.wake {
		l.mu.Lock()
		events, fns, last := l.events, slices.Clone(l.onPeer), l.finished
		l.events = nil
		l.mu.Unlock()
		for _, e := range events {
			for _, fn := range fns {
				fn(e.id, e.up)
			}
		}
		if last {
			return
		}
	}
}
