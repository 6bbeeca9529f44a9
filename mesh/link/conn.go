package link

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const headTimeout = 5 * time.Second // for a stream header

// Conn is a live connection to a node. It may be used from many goroutines.
type Conn struct {
	l    *Link
	s    *session
	bout bout
	out  chan []byte // to the writer goroutine; never closed

	open atomic.Int64 // streams of both sides that are not closed
	used atomic.Int64 // Unix nanoseconds of the last stream's end, or datagram
}

func (l *Link) newConn(s *session, initiator spiffeid.ID, instance [16]byte) *Conn {
	c := &Conn{
		l: l, s: s, out: make(chan []byte, queueLen),
		bout: bout{initiator: initiator, instance: instance, since: time.Now()},
	}
	c.use()
	return c
}

// stream wraps a stream of this connection, which is in use until it is closed.
func (c *Conn) stream(qs *quic.Stream) *Stream {
	s := newStream(c.s.qc, qs)
	c.open.Add(1)
	s.over = sync.OnceFunc(func() {
		c.use()
		c.open.Add(-1)
	})
	return s
}

func (c *Conn) use() { c.used.Store(time.Now().UnixNano()) }

// Idle returns for how long nothing has used the connection: no stream is open, and
// no datagram came or went. Zero while a stream is open.
func (c *Conn) Idle() time.Duration {
	if c.open.Load() > 0 {
		return 0
	}
	return max(0, time.Since(time.Unix(0, c.used.Load())))
}

// Close ends the connection because nobody needs it, and tells the peer so.
func (c *Conn) Close() {
	c.s.end(codeIdle, "nothing used this connection: dial again when it is needed")
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
		go c.serveStream(ctx, c.stream(qs)) // at most maxStreams of them
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
	s := c.stream(qs)
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
