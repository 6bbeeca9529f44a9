package link

import (
	"net"
	"net/netip"
)

// partition is a packet conn that loses every packet from and to the addresses
// that refuse names. Wrapping costs the batch reads, GSO and ECN that quic-go
// does on a bare *net.UDPConn, so Listen wraps only where Config.Refuse is set.
type partition struct {
	net.PacketConn
	refuse func(netip.AddrPort) bool
}

// ReadFrom returns the next packet from an address that is not refused.
func (p partition) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := p.PacketConn.ReadFrom(b)
		if err != nil || !p.refuse(addrPort(from)) {
			return n, from, err
		}
	}
}

// WriteTo sends b, or pretends to.
func (p partition) WriteTo(b []byte, to net.Addr) (int, error) {
	if p.refuse(addrPort(to)) {
		return len(b), nil
	}
	return p.PacketConn.WriteTo(b, to)
}

// SetReadBuffer lets quic-go raise the socket's receive buffer.
func (p partition) SetReadBuffer(n int) error {
	if c, ok := p.PacketConn.(interface{ SetReadBuffer(int) error }); ok {
		return c.SetReadBuffer(n)
	}
	return nil
}

// SetWriteBuffer lets quic-go raise the socket's send buffer.
func (p partition) SetWriteBuffer(n int) error {
	if c, ok := p.PacketConn.(interface{ SetWriteBuffer(int) error }); ok {
		return c.SetWriteBuffer(n)
	}
	return nil
}

// addrPort gives IPv4 addresses their one form, also when a dual-stack socket
// reports them mapped into IPv6.
func addrPort(a net.Addr) netip.AddrPort {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
