package app

import (
	"context"
	"errors"
	"io"
	"maps"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// Stream protocols between nodes (see mesh/link).
const (
	protoGossip  = "gossip/1"
	protoPair    = "gossip/2"
	protoRest    = "gossip/2/rest"
	protoSummary = "summary/1"
)

// openAfter is for how long the side with the larger ID leaves it to the other to open
// a session that both may want.
const openAfter = time.Second

// refusedFor is for how long no session is opened with a peer that broke the last off at once: it
// has its reasons, and would for the next.
const refusedFor = time.Second

var (
	errNoSession = errors.New("this protocol is not spoken with that peer")
	errMuted     = errors.New("nothing that this peer relays is taken: see bailiwick quarantine list")
)

// sessionKey names a session with a peer by the side that opened it.
type sessionKey struct {
	peer spiffeid.ID
	mine bool
}

// session is one that runs with a peer.
type session struct {
	mine   bool // opened here
	cancel context.CancelCauseFunc
}

func (p *peering) handle() {
	for _, proto := range []string{protoGossip, protoSummary} {
		p.link.Handle(proto, func(ctx context.Context, peer spiffeid.ID, s *link.Stream) { p.session(ctx, peer, proto, false, s) })
	}
	p.link.Handle(protoRest, p.pairs.offer)
	p.link.Handle(protoPair, func(ctx context.Context, peer spiffeid.ID, s *link.Stream) {
		rest, err := p.pairs.await(ctx, peer, s)
		if err != nil {
			p.log.Debug("session", "peer", peer, "protocol", protoPair, "err", err)
			s.Reset()
			return
		}
		p.session(ctx, peer, protoPair, false, s, rest)
	})
}

// opens decides whether to open a session over a link now. Between regions the smaller
// ID does; within one, who wants to keep the link, and of two the smaller ID.
func (p *peering) opens(peer link.Peer, now time.Time) bool {
	first := p.self.String() < peer.ID.String()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.muted[peer.ID] || now.Sub(p.refused[peer.ID]) < refusedFor {
		return false
	}
	if p.sessions[sessionKey{peer.ID, true}] != nil || p.sessions[sessionKey{peer.ID, false}] != nil {
		return false
	}
	if peer.ID.TrustDomain() != p.self.TrustDomain() {
		return first
	}
	if _, member := p.dir.node(peer.ID); member && !p.kept[peer.ID] {
		return false
	}
	return first || now.Sub(peer.Since) > openAfter
}

// open runs a session that begins here.
func (p *peering) open(ctx context.Context, peer spiffeid.ID) {
	conn, ok := p.link.Conn(peer)
	if !ok {
		return
	}
	proto := protoSummary
	if peer.TrustDomain() == p.self.TrustDomain() {
		proto = protoGossip
		urgent, rest, err := openPair(ctx, conn)
		if err == nil {
			began := time.Now()
			err = p.session(ctx, peer, protoPair, true, urgent, rest)
			p.refusedAt(peer, err, began)
		}
		if !errors.Is(err, link.ErrNoProtocol) {
			return
		}
	}
	s, err := conn.OpenStream(ctx, proto)
	if err != nil {
		p.log.Debug("open session", "peer", peer, "protocol", proto, "err", err)
		return
	}
	_ = p.session(ctx, peer, proto, true, s)
}

// refusedAt notes that a session with a peer, which began then, ended with an error at once.
func (p *peering) refusedAt(peer spiffeid.ID, err error, began time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(p.refused, func(_ spiffeid.ID, at time.Time) bool { return now.Sub(at) >= refusedFor })
	if err != nil && !errors.Is(err, io.EOF) && now.Sub(began) < refusedFor {
		p.refused[peer] = now
	}
}

// enter makes a session the one that its side has with the other; an older one of that
// side ends. Of two that cross, the side with the larger ID ends its own. The other is not
// refused meanwhile: who opens a session is heard, also if it answers none of ours. One of whom
// nothing is taken has no session.
func (p *peering) enter(peer spiffeid.ID, s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.muted[peer] {
		s.cancel(errMuted)
		return
	}
	key := sessionKey{peer, s.mine}
	if old := p.sessions[key]; old != nil {
		old.cancel(nil)
	}
	p.sessions[key] = s
	mine, theirs := p.sessions[sessionKey{peer, true}], p.sessions[sessionKey{peer, false}]
	if mine != nil && theirs != nil && p.self.String() > peer.String() {
		mine.cancel(io.EOF)
	}
}

// mute ends the sessions with a peer and takes up none, or lets it be heard again. Its link stays.
func (p *peering) mute(peer spiffeid.ID, mute bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !mute {
		delete(p.muted, peer)
		return
	}
	p.muted[peer] = true
	for _, mine := range []bool{true, false} {
		if s := p.sessions[sessionKey{peer, mine}]; s != nil {
			s.cancel(errMuted)
		}
	}
}

func (p *peering) leave(peer spiffeid.ID, s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if key := (sessionKey{peer, s.mine}); p.sessions[key] == s {
		delete(p.sessions, key)
	}
}

// session runs one session to its end, judges how it ended, and returns that.
func (p *peering) session(ctx context.Context, peer spiffeid.ID, proto string, mine bool, streams ...*link.Stream) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &session{mine: mine, cancel: cancel}
	p.enter(peer, s)
	defer p.leave(peer, s)
	err := p.exchange(ctx, peer, proto, streams)
	for _, s := range streams {
		if err == nil {
			s.Close() // in good order: the peer sees io.EOF
		} else {
			defer s.Reset()
		}
	}
	if err == nil || ctx.Err() != nil || errors.Is(err, io.EOF) {
		return err
	}
	p.log.Debug("session ended", "peer", peer, "protocol", proto, "err", err)
	if class := faultClass(err); class != "" {
		p.standing.fault(peer, class)
	}
	return err
}

func (p *peering) exchange(ctx context.Context, peer spiffeid.ID, proto string, streams []*link.Stream) error {
	near := peer.TrustDomain() == p.self.TrustDomain()
	switch {
	case near && proto == protoPair:
		return p.replica.AttachPair(ctx, peer, streams[0], streams[1])
	case near && proto == protoGossip:
		return p.replica.Attach(ctx, peer, streams[0])
	case !near && proto == protoSummary && p.gateway != nil:
		return p.gateway.Exchange(ctx, peer, streams[0])
	}
	return errNoSession
}

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
