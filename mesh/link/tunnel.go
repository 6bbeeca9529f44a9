package link

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/identity"
)

// maxTunnels bounds the accepted tunnels of this node.
const maxTunnels = 4096

type tunnelHooks struct {
	svidFor func(serverName string) (*x509svid.SVID, error)
	accept  func(ctx context.Context, t *Tunnel)
	live    int // accepted tunnels; guarded by Link.mu
}

// Tunnel is a live connection between two workloads, mutually authenticated
// with their SVIDs. It says nothing of the nodes they run on.
type Tunnel struct {
	// Local and Remote are the chains shown by either side, leaf first. They
	// must not be changed.
	Local, Remote []*x509.Certificate
	// LocalID and RemoteID are the SPIFFE IDs of the two leaves.
	LocalID, RemoteID spiffeid.ID
	// ServerName is the name that the dialler asked for (SNI).
	ServerName string

	s *session
}

func newTunnel(s *session, own *x509svid.SVID, name string) *Tunnel {
	return &Tunnel{Local: own.Certificates, Remote: s.chain, LocalID: own.ID, RemoteID: s.id, ServerName: name, s: s}
}

// HandleTunnels makes this link accept tunnels: svidFor chooses the workload
// that answers for a server name, and its error refuses the handshake; accept is
// then run in a goroutine of its own for as long as the tunnel is wanted: the
// tunnel is closed when it returns, and ctx ends with the tunnel. Nothing but the
// peer's chain was decided before accept.
func (l *Link) HandleTunnels(svidFor func(serverName string) (*x509svid.SVID, error), accept func(ctx context.Context, t *Tunnel)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tunnels.svidFor, l.tunnels.accept = svidFor, accept
}

func (l *Link) tunnelSVID(name string) (*x509svid.SVID, error) {
	l.mu.Lock()
	svidFor := l.tunnels.svidFor
	l.mu.Unlock()
	if svidFor == nil {
		return nil, errors.New("this node takes no tunnels")
	}
	svid, err := svidFor(name)
	if err != nil {
		return nil, fmt.Errorf("tunnel to %q: %w", name, err)
	}
	return svid, nil
}

func (l *Link) admitTunnel(qc *quic.Conn, name string, own *x509svid.SVID) error {
	s, err := newSession(qc, kindTunnel, own.Certificates, func(id spiffeid.ID) error { return workloadPeer(id, nil) })
	if err != nil {
		_ = qc.CloseWithError(codeUntrusted, err.Error())
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	if err := l.track(s); err != nil {
		return err
	}
	l.mu.Lock()
	accept, full := l.tunnels.accept, l.tunnels.live >= maxTunnels
	if !full {
		l.tunnels.live++
	}
	l.mu.Unlock()
	if full {
		s.end(codeBusy, "too many tunnels")
		return fmt.Errorf("%w: %d tunnels are open", ErrUnauthorized, maxTunnels)
	}
	go func() {
		defer func() {
			l.mu.Lock()
			l.tunnels.live--
			l.mu.Unlock()
		}()
		t := newTunnel(s, own, name)
		accept(qc.Context(), t)
		t.Close("the node is done with the tunnel")
	}()
	return nil
}

// DialTunnel makes a tunnel to the node at addr for the workload svid. It does
// not pool. serverName becomes the SNI; authorize says which workload may
// answer, is called again at every Recheck, and nil refuses all. The peer's own
// refusal may come after the return, as ErrPeerRefused from stream operations.
// Errors are those of Dial.
func (l *Link) DialTunnel(ctx context.Context, addr netip.AddrPort, svid *x509svid.SVID, serverName string, authorize func(spiffeid.ID) error) (*Tunnel, error) {
	t, err := l.dialTunnel(ctx, addr, svid, serverName, authorize)
	if err != nil {
		l.refused(kindTunnel, "dial", addr, err)
		return nil, fmt.Errorf("tunnel to %q at %s: %w", serverName, addr, err)
	}
	l.m.handshakes.WithLabelValues(kindTunnel, "dial", "ok").Inc()
	return t, nil
}

func (l *Link) dialTunnel(ctx context.Context, addr netip.AddrPort, svid *x509svid.SVID, name string, authorize func(spiffeid.ID) error) (*Tunnel, error) {
	welcome := func(id spiffeid.ID) error {
		if err := workloadPeer(id, nil); err != nil {
			return err
		}
		if authorize == nil {
			return errors.New("nothing here says who is")
		}
		return authorize(id)
	}
	if err := current(svid.Certificates, time.Now()); err != nil {
		return nil, err
	}
	conf := identity.ClientTLS(svid, l.cfg.Bundles, func(id spiffeid.ID, _ [][]*x509.Certificate) error { return welcome(id) })
	conf.ServerName = name
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	qc, err := l.quicDial(ctx, addr, ProtoTunnel, conf)
	if err != nil {
		return nil, err
	}
	s, err := newSession(qc, kindTunnel, svid.Certificates, welcome)
	if err != nil {
		_ = qc.CloseWithError(codeUntrusted, err.Error())
		return nil, fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	if err := l.track(s); err != nil {
		return nil, err
	}
	return newTunnel(s, svid, name), nil
}

// Guard adds a check that every Recheck makes; its error closes the tunnel and
// is told to the peer. It is for what was decided after the handshake, such as
// the standing of the node behind the peer.
func (t *Tunnel) Guard(fn func() error) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	t.s.guards = append(t.s.guards, fn)
}

// Export derives 32 bytes that only the two ends of this tunnel can know (RFC
// 8446 section 7.5). Both get the same for the same label and context.
func (t *Tunnel) Export(label string, context []byte) (key [32]byte, err error) {
	cs := t.s.qc.ConnectionState()
	b, err := cs.TLS.ExportKeyingMaterial(label, context, len(key))
	if err != nil {
		return key, fmt.Errorf("TLS exporter %q: %w", label, err)
	}
	return [32]byte(b), nil
}

// OpenStream opens a stream, waiting while the peer has as many open as it
// allows, until ctx ends. The peer sees it at the first Write.
func (t *Tunnel) OpenStream(ctx context.Context) (*Stream, error) {
	qs, err := t.s.qc.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("open stream to %s: %w", t.RemoteID, explain(err))
	}
	return newStream(t.s.qc, qs), nil
}

// AcceptStream returns the next stream that the peer opened.
func (t *Tunnel) AcceptStream(ctx context.Context) (*Stream, error) {
	qs, err := t.s.qc.AcceptStream(ctx)
	if err != nil {
		return nil, explain(err)
	}
	return newStream(t.s.qc, qs), nil
}

// RemoteAddr returns where the peer's packets come from now.
func (t *Tunnel) RemoteAddr() netip.AddrPort { return addrPort(t.s.qc.RemoteAddr()) }

// Close ends the tunnel and all its streams and tells the peer why.
func (t *Tunnel) Close(reason string) { t.s.end(codeTunnelEnd, reason) }

// Refuse is Close for a peer that is not welcome: it sees ErrPeerRefused.
func (t *Tunnel) Refuse(reason string) { t.s.end(codeUnauthorized, reason) }

// Done is closed when the tunnel has ended.
func (t *Tunnel) Done() <-chan struct{} { return t.s.qc.Context().Done() }

// Err says why the tunnel ended, or nil while it lives.
func (t *Tunnel) Err() error { return t.s.err() }
