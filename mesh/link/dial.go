package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity"
)

// dialTimeout bounds a dial that its callers still wait for.
const dialTimeout = 15 * time.Second

// dialKey tells dials apart: callers that want the same share one.
type dialKey struct {
	addr netip.AddrPort
	want spiffeid.ID
}

// dialing is one dial under way. done is closed after conn and err are set.
type dialing struct {
	done chan struct{}
	conn *Conn
	err  error
}

// Dial returns the connection in use with the node want, or makes one to addr.
// A zero want takes whichever authorised node answers at addr. It returns once
// the peer has admitted this node too. Errors: ErrUnreachable, ErrPeerRefused,
// ErrWrongPeer, ErrUnauthorized, ErrOwnExpired, ErrClosed, or what the SVID source
// said.
func (l *Link) Dial(ctx context.Context, addr netip.AddrPort, want spiffeid.ID) (*Conn, error) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	if c := l.live(addr, want); c != nil {
		return c, nil
	}
	key := dialKey{addr, want}
	l.mu.Lock()
	d := l.dials[key]
	if d == nil && !l.closed {
		d = &dialing{done: make(chan struct{})}
		l.dials[key] = d
		l.wg.Go(func() { l.dial(key, d) })
	}
	l.mu.Unlock()
	if d == nil {
		return nil, at(addr, fmt.Errorf("%w: the link is closed", ErrClosed))
	}
	select {
	case <-d.done:
		return d.conn, at(addr, d.err)
	case <-ctx.Done():
		return nil, at(addr, fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err()))
	}
}

// live returns the connection that a dial would only repeat.
func (l *Link) live(addr netip.AddrPort, want spiffeid.ID) *Conn {
	if !want.IsZero() {
		c, _ := l.Conn(want)
		return c
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.peers {
		if p.inUse.s.alive() && p.inUse.RemoteAddr() == addr {
			return p.inUse
		}
	}
	return nil
}

func (l *Link) dial(key dialKey, d *dialing) {
	ctx, cancel := context.WithTimeout(l.ctx, dialTimeout)
	defer cancel()
	d.conn, d.err = l.dialNode(ctx, key.addr, key.want)
	if d.err == nil {
		l.m.handshakes.WithLabelValues(kindNode, "dial", "ok").Inc()
	} else {
		l.refused(kindNode, "dial", key.addr, d.err)
		if c := l.live(key.addr, key.want); c != nil { // the peer's own dial got through meanwhile
			d.conn, d.err = c, nil
		}
	}
	l.mu.Lock()
	delete(l.dials, key)
	l.mu.Unlock()
	close(d.done)
}

func (l *Link) dialNode(ctx context.Context, addr netip.AddrPort, want spiffeid.ID) (*Conn, error) {
	own, err := l.cfg.SVID.GetX509SVID()
	if err != nil {
		return nil, fmt.Errorf("own SVID: %w", err)
	}
	//bailiwick:check TestExpiryRetryStorm/links
	if err := current(own.Certificates, time.Now()); err != nil {
		return nil, err
	}
	welcome := func(id spiffeid.ID) error {
		if !want.IsZero() && id != want {
			return fmt.Errorf("%w: wanted %s", ErrWrongPeer, want)
		}
		if l.cfg.Authorize == nil {
			return errors.New("nothing here says who is")
		}
		return l.cfg.Authorize(id)
	}
	node := l.nodePeer(own)
	qc, err := l.quicDial(ctx, addr, ProtoNode, identity.ClientTLS(own, l.cfg.Bundles, func(id spiffeid.ID, chains [][]*x509.Certificate) error {
		if err := node(id, chains); err != nil {
			return err
		}
		return welcome(id)
	}))
	if err != nil {
		return nil, err
	}
	s, err := newSession(qc, kindNode, own.Certificates, welcome)
	if err != nil {
		_ = qc.CloseWithError(codeUntrusted, err.Error())
		return nil, fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	if err := l.track(s); err != nil {
		return nil, err
	}
	if err := l.sendHello(qc); err != nil {
		s.end(codeHello, "the hello could not be sent")
		return nil, explain(err)
	}
	instance, err := readHello(ctx, qc)
	if err != nil {
		s.end(codeHello, "no valid hello came in time")
		return nil, err
	}
	return l.register(l.newConn(s, own.ID, instance))
}

// quicDial does the QUIC and TLS handshakes of either kind of connection.
func (l *Link) quicDial(ctx context.Context, addr netip.AddrPort, proto string, conf *tls.Config) (*quic.Conn, error) {
	qc, err := l.tr.Dial(ctx, net.UDPAddrFromAddrPort(addr), l.harden(conf, proto), l.quicConfig())
	if err != nil {
		return nil, explain(err)
	}
	return qc, nil
}
