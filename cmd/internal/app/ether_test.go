package app

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// ether is a network that takes a millisecond and loses nothing, unless it is slow: then
// what a node is sent waits in a queue, and is lost when that is full. (What package link
// simulates networks with is at home there.)
type ether struct {
	latency time.Duration
	rate    int // bytes a second to each node; 0: no limit
	queue   int // bytes that may wait for it

	mu    sync.Mutex
	ports map[netip.AddrPort]*port
}

type packet struct {
	from netip.AddrPort
	b    []byte
}

// port is one node's socket.
type port struct {
	ether   *ether
	addr    netip.AddrPort
	packets chan packet
	closed  chan struct{}
	once    sync.Once
	free    time.Time // the ether's: when all that waits for the node has come

	mu     sync.Mutex
	due    time.Time
	change chan struct{} // closed when due changes
}

func (e *ether) port(addr netip.AddrPort) *port {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := &port{ether: e, addr: addr, packets: make(chan packet, 4096), closed: make(chan struct{}), change: make(chan struct{})}
	if e.ports == nil {
		e.ports = map[netip.AddrPort]*port{}
	}
	e.ports[addr] = p
	return p
}

func (p *port) WriteTo(b []byte, to net.Addr) (int, error) {
	p.ether.mu.Lock()
	peer := p.ether.ports[to.(*net.UDPAddr).AddrPort()]
	takes, lost := p.ether.carry(peer, len(b))
	p.ether.mu.Unlock()
	if peer != nil && !lost {
		b := bytes.Clone(b)
		time.AfterFunc(takes, func() {
			select {
			case peer.packets <- packet{p.addr, b}:
			case <-peer.closed:
			default:
			}
		})
	}
	return len(b), nil
}

// carry says how long a packet takes; the lock is held.
func (e *ether) carry(to *port, size int) (takes time.Duration, lost bool) {
	if e.rate == 0 || to == nil {
		return e.latency, false
	}
	now := time.Now()
	if now.After(to.free) {
		to.free = now
	}
	after := to.free.Add(time.Duration(size) * time.Second / time.Duration(e.rate))
	if after.Sub(now) > time.Duration(e.queue)*time.Second/time.Duration(e.rate) {
		return 0, true
	}
	to.free = after
	return e.latency + after.Sub(now), false
}

func (p *port) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		p.mu.Lock()
		due, change := p.due, p.change
		p.mu.Unlock()
		var late <-chan time.Time
		if !due.IsZero() {
			late = time.After(time.Until(due))
		}
		select {
		case got := <-p.packets:
			return copy(b, got.b), net.UDPAddrFromAddrPort(got.from), nil
		case <-p.closed:
			return 0, nil, net.ErrClosed
		case <-late:
			return 0, nil, os.ErrDeadlineExceeded
		case <-change:
		}
	}
}

func (p *port) SetReadDeadline(at time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.due = at
	close(p.change)
	p.change = make(chan struct{})
	return nil
}

func (p *port) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *port) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(p.addr) }
func (p *port) SetDeadline(at time.Time) error   { return p.SetReadDeadline(at) }
func (p *port) SetWriteDeadline(time.Time) error { return nil }
