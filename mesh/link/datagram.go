package link

import (
	"errors"
	"fmt"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// MaxDatagram is the largest payload of SendDatagram in bytes: what fits a
	// path of the least MTU that QUIC allows (RFC 9000 section 14).
	MaxDatagram = 1150

	queueLen = 64 // datagrams waiting for one peer; quic-go holds 32 more
)

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
		c.use()
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
	c.use()
	select {
	case c.out <- append(append(make([]byte, 0, 1+len(b)), proto), b...):
		return nil
	default:
		c.l.m.dropped.WithLabelValues("queue").Inc()
		return ErrQueueFull
	}
}
