package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const (
	helloVersion = 1
	helloSize    = 17
	helloTimeout = 5 * time.Second
	headTimeout  = 5 * time.Second // for a stream header

	// MaxDatagram is the largest payload of SendDatagram in bytes: what fits a
	// path of the least MTU that QUIC allows (RFC 9000 section 14).
	MaxDatagram = 1150
	queueLen    = 64 // datagrams waiting for one peer; quic-go holds 32 more
)

// Conn is a live connection to a node. It may be used from many goroutines.
type Conn struct {
	l    *Link
	s    *session
	bout bout
	out  chan []byte // to the writer goroutine; never closed
}

// admit takes an accepted connection through the rest of its checks. It owns
// the connection until then.
func (l *Link) admit(qc *quic.Conn) {
	h := handshakeOf(qc.Context())
	h.admitting.Store(true)
	defer h.leave()
	kind, name, svid := h.chosen()
	if svid == nil {
		_ = qc.CloseWithError(codeUntrusted, "no identity was shown")
		return
	}
	var err error
	if kind == kindTunnel {
		err = l.admitTunnel(qc, name, svid)
	} else {
		err = l.admitNode(qc, svid)
	}
	if err != nil {
		l.refused(kind, "accept", addrPort(qc.RemoteAddr()), err)
		return
	}
	l.m.handshakes.WithLabelValues(kind, "accept", "ok").Inc()
}

func (l *Link) admitNode(qc *quic.Conn, own *x509svid.SVID) error {
	s, err := newSession(qc, kindNode, own.Certificates, l.cfg.Authorize)
	if err != nil {
		_ = qc.CloseWithError(codeUntrusted, err.Error())
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	if err := l.track(s); err != nil {
		return err
	}
	instance, err := readHello(l.ctx, qc)
	if err != nil {
		s.end(codeHello, "no valid hello came in time")
		return fmt.Errorf("hello of %s: %w", s.id, err)
	}
	c := l.newConn(s, s.id, instance)
	if _, err := l.register(c); err != nil {
		return err
	}
	if err := l.sendHello(qc); err != nil {
		s.end(codeHello, "the hello could not be sent")
		return fmt.Errorf("hello to %s: %w", s.id, explain(err))
	}
	return nil
}

func (l *Link) newConn(s *session, initiator spiffeid.ID, instance [16]byte) *Conn {
	return &Conn{
		l: l, s: s, out: make(chan []byte, queueLen),
		bout: bout{initiator: initiator, instance: instance, since: time.Now()},
	}
}

func (l *Link) sendHello(qc *quic.Conn) error {
	st, err := qc.OpenUniStream()
	if err != nil {
		return err
	}
	if _, err := st.Write(append([]byte{helloVersion}, l.instance[:]...)); err != nil {
		return err
	}
	_ = st.Close() // fails when the peer has read all it wants and said so
	return nil
}

func readHello(ctx context.Context, qc *quic.Conn) (instance [16]byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	st, err := qc.AcceptUniStream(ctx)
	if err != nil {
		return instance, explain(err)
	}
	defer st.CancelRead(resetDone) // what a later version appends
	_ = st.SetReadDeadline(time.Now().Add(helloTimeout))
	var b [helloSize]byte
	if n, err := io.ReadFull(st, b[:]); err == io.EOF || err == io.ErrUnexpectedEOF {
		return instance, fmt.Errorf("%w: its hello has %d bytes, not %d", ErrUnauthorized, n, helloSize)
	} else if err != nil {
		return instance, explain(err)
	}
	if b[0] < helloVersion {
		return instance, fmt.Errorf("%w: its hello is of version %d", ErrUnauthorized, b[0])
	}
	return [16]byte(b[1:]), nil
}

// serve accepts streams and moves datagrams until the connection ends.
func (c *Conn) serve() {
	done := make(chan struct{}, 2)
	go func() { c.writeDatagrams(); done <- struct{}{} }()
	go func() { c.readDatagrams(); done <- struct{}{} }()
	ctx := c.s.qc.Context()
	for {
		qs, err := c.s.qc.AcceptStream(ctx)
		if err != nil {
			break
		}
		go c.serveStream(ctx, newStream(c.s.qc, qs)) // at most maxStreams of them
	}
	<-ctx.Done()
	c.l.unregister(c)
	<-done
	<-done
	c.l.log.Info("peer connection ended", "peer", c.s.id.String(), "why", c.Err())
}

func (c *Conn) serveStream(ctx context.Context, s *Stream) {
	_ = s.SetReadDeadline(time.Now().Add(headTimeout))
	name, err := readHeader(s)
	if err != nil {
		s.reset(resetHeader)
		return
	}
	_ = s.SetReadDeadline(time.Time{})
	c.l.mu.Lock()
	fn := c.l.streams[name]
	c.l.mu.Unlock()
	if fn == nil {
		c.l.log.Debug("no handler for stream protocol", "protocol", name, "peer", c.s.id.String())
		s.reset(resetUnknown)
		return
	}
	fn(ctx, c.s.id, s)
}

// Handle registers fn for streams that peers open with this protocol name, which
// must be valid (ErrProtocolName panics: it is a mistake in the program). fn
// runs in a goroutine of its own, owns s and must close it; ctx ends with the
// connection.
func (l *Link) Handle(proto string, fn func(ctx context.Context, peer spiffeid.ID, s *Stream)) {
	if err := checkName(proto); err != nil {
		panic(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams[proto] = fn
}

// HandleDatagram registers fn for datagrams of this protocol. fn is called from
// one goroutine per connection and must not block; it may keep b.
func (l *Link) HandleDatagram(proto byte, fn func(peer spiffeid.ID, b []byte)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.datagrams[proto] = fn
}

func (c *Conn) readDatagrams() {
	for {
		b, err := c.s.qc.ReceiveDatagram(c.s.qc.Context())
		if err != nil {
			return
		}
		var fn func(spiffeid.ID, []byte)
		if len(b) > 0 {
			c.l.mu.Lock()
			fn = c.l.datagrams[b[0]]
			c.l.mu.Unlock()
		}
		if fn == nil {
			c.l.m.dropped.WithLabelValues("protocol").Inc()
			continue
		}
		fn(c.s.id, b[1:])
	}
}

// writeDatagrams is the only caller of quic-go's SendDatagram, which blocks
// while its own queue is full.
func (c *Conn) writeDatagrams() {
	for {
		select {
		case <-c.s.qc.Context().Done():
			return
		case b := <-c.out:
			var tooLarge *quic.DatagramTooLargeError
			if err := c.s.qc.SendDatagram(b); errors.As(err, &tooLarge) {
				c.l.m.dropped.WithLabelValues("size").Inc()
			}
		}
	}
}

// SendDatagram queues b for the peer and returns at once. It may be lost, later
// or now: ErrQueueFull, ErrTooLarge (over MaxDatagram) and ErrClosed say that it
// was not queued. b may be re-used.
func (c *Conn) SendDatagram(proto byte, b []byte) error {
	if len(b) > MaxDatagram {
		return fmt.Errorf("%w: %d bytes of at most %d", ErrTooLarge, len(b), MaxDatagram)
	}
	if !c.s.alive() {
		return c.Err()
	}
	select {
	case c.out <- append(append(make([]byte, 0, 1+len(b)), proto), b...):
		return nil
	default:
		c.l.m.dropped.WithLabelValues("queue").Inc()
		return ErrQueueFull
	}
}

// OpenStream opens a stream of a protocol. It waits while the peer has as many
// streams open as it allows, until ctx ends. That the peer serves the protocol
// shows at the first Read (ErrNoProtocol).
func (c *Conn) OpenStream(ctx context.Context, proto string) (*Stream, error) {
	if err := checkName(proto); err != nil {
		return nil, err
	}
	qs, err := c.s.qc.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("open stream %q to %s: %w", proto, c.s.id, explain(err))
	}
	s := newStream(c.s.qc, qs)
	if _, err := s.Write(appendHeader(nil, proto)); err != nil {
		s.Reset()
		return nil, fmt.Errorf("open stream %q to %s: %w", proto, c.s.id, err)
	}
	return s, nil
}

// Peer returns the node at the other end.
func (c *Conn) Peer() spiffeid.ID { return c.s.id }

// RemoteAddr returns where the peer's packets come from now.
func (c *Conn) RemoteAddr() netip.AddrPort { return addrPort(c.s.qc.RemoteAddr()) }

// RTT returns the smoothed round-trip time, or zero before the first sample.
func (c *Conn) RTT() time.Duration { return c.s.qc.ConnectionStats().SmoothedRTT }

// Expires returns when the first certificate of either side, and with it the
// connection, ends.
func (c *Conn) Expires() time.Time { return c.s.expires }

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.s.qc.Context().Done() }

// Err says why the connection ended, or nil while it lives.
func (c *Conn) Err() error { return c.s.err() }
