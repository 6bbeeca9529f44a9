package swim

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// network connects the transports of one bubble.
type network struct {
	mu    sync.Mutex // guards the rest
	rand  *rand.Rand
	nodes map[string]*transport // by address
	total traffic
	mark  []byte // what the message of the moment can be told by
	with  traffic
}

type traffic struct{ packets, bytes int }

func (t *traffic) add(n int) { t.packets, t.bytes = t.packets+1, t.bytes+n }

// transport is a node's place in the network.
type transport struct {
	net     *network
	addr    *net.UDPAddr
	packets chan *memberlist.Packet
	streams chan net.Conn
	closed  chan struct{}
}

func (n *network) place(i int) *transport {
	t := &transport{
		net: n, addr: &net.UDPAddr{IP: net.IPv4(10, 0, byte(i/250), byte(1+i%250)), Port: 7946},
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), closed: make(chan struct{}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[t.addr.String()] = t
	return t
}

// sent is what was sent so far.
func (n *network) sent() traffic {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.total
}

// marked is what was sent of the messages that were expected.
func (n *network) marked() traffic {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.with
}

// expect counts packets that contain mark apart.
func (n *network) expect(mark []byte) {
	n.mu.Lock()
	n.mark = mark
	n.mu.Unlock()
}

// FinalAdvertiseAddr is for memberlist, like the other exported methods.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.addr.IP, t.addr.Port, nil
}

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	n := t.net
	n.mu.Lock()
	to, delay := n.nodes[addr], Latency(n.rand)
	n.total.add(len(b))
	if n.mark != nil && bytes.Contains(b, n.mark) {
		n.with.add(len(b))
	}
	n.mu.Unlock()
	if to == nil {
		return time.Time{}, fmt.Errorf("no node at %s", addr)
	}
	p := &memberlist.Packet{Buf: bytes.Clone(b), From: t.addr}
	time.AfterFunc(delay, func() {
		p.Timestamp = time.Now()
		select {
		case to.packets <- p:
		case <-to.closed:
		}
	})
	return time.Now(), nil
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

func (t *transport) DialTimeout(addr string, _ time.Duration) (net.Conn, error) {
	t.net.mu.Lock()
	to := t.net.nodes[addr]
	t.net.mu.Unlock()
	if to == nil {
		return nil, fmt.Errorf("no node at %s", addr)
	}
	here, there := net.Pipe()
	select {
	case to.streams <- there:
		return here, nil
	case <-to.closed:
		return nil, net.ErrClosed
	}
}

func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

func (t *transport) Shutdown() error {
	close(t.closed)
	return nil
}
