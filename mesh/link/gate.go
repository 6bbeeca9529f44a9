package link

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Limits on accepted handshakes in flight: from the first packet until the peer
// is admitted or gone. A slow or silent peer holds its place for ten seconds.
const (
	maxHandshakes     = 512 // in all; beyond: refused
	maxHandshakesAddr = 64  // from one validated address (IPv6: one /64); beyond: refused
	validateFrom      = 64  // in all; from here on every address must be validated first
	validateFromAddr  = 16  // from one address; from here on it must be validated first
)

var errBusy = errors.New("too many handshakes in flight")

// gate counts handshakes in flight. The zero value is ready. Addresses that are
// not validated may be forged, so they can use up only the small share below
// validateFromAddr of what their true holder may have.
type gate struct {
	mu   sync.Mutex // guards all; held for arithmetic only
	all  int
	from map[netip.Addr]int
}

// suspicious says whether an address must prove that it receives what we send
// (a Retry packet) before anything is kept for it.
func (g *gate) suspicious(a net.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all >= validateFrom || g.from[source(a)] >= validateFromAddr
}

func (g *gate) enter(a netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	//bailiwick:check TestHalfOpenLinks
	if g.all >= maxHandshakes || g.from[a] >= maxHandshakesAddr {
		return errBusy
	}
	if g.from == nil {
		g.from = make(map[netip.Addr]int)
	}
	g.all++
	g.from[a]++
	return nil
}

func (g *gate) leave(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all--
	if g.from[a]--; g.from[a] == 0 {
		delete(g.from, a)
	}
}

// source is what one party is assumed to hold: an IPv4 address or an IPv6 /64.
func source(a net.Addr) netip.Addr {
	ip := addrPort(a).Addr()
	if ip.Is6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return ip
}

// handshake is one accepted connection until it is admitted. It rides in the
// connection's context.
type handshake struct {
	mu   sync.Mutex // guards all; written by crypto/tls's goroutine, read after it
	kind string
	svid *x509svid.SVID // what we showed
	name string         // the SNI of a tunnel

	leave     func()      // gives the place in the gate back; once
	admitting atomic.Bool // TLS is done and Link.admit reports the outcome
}

type handshakeKey struct{}

func handshakeOf(ctx context.Context) *handshake {
	h, _ := ctx.Value(handshakeKey{}).(*handshake)
	if h == nil {
		return &handshake{leave: func() {}}
	}
	return h
}

func (h *handshake) choose(kind, name string, svid *x509svid.SVID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kind, h.name, h.svid = kind, name, svid
}

func (h *handshake) chosen() (kind, name string, svid *x509svid.SVID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.kind, h.name, h.svid
}

// connContext is quic.Transport.ConnContext: it counts a new handshake in, and
// out again when it is admitted or over.
func (l *Link) connContext(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	from := source(info.RemoteAddr)
	if err := l.gate.enter(from); err != nil {
		l.m.handshakes.WithLabelValues("unknown", "accept", "busy").Inc()
		return nil, err
	}
	h := &handshake{kind: "unknown"}
	var once sync.Once
	h.leave = func() { once.Do(func() { l.gate.leave(from) }) }
	admitted := context.WithValue(ctx, handshakeKey{}, h)
	context.AfterFunc(ctx, func() {
		h.leave()
		if !h.admitting.Load() {
			kind, _, _ := h.chosen()
			l.refused(kind, "accept", addrPort(info.RemoteAddr), explain(context.Cause(ctx)))
		}
	})
	return admitted, nil
}
