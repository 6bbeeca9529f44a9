package link

import (
	"net"
	"sync"
	"testing"
	"time"
)

// mortal is a socket that can be taken away from under a link that never notices.
type mortal struct {
	net.PacketConn
	once   sync.Once
	closed chan struct{} // when the link closes
}

func (m *mortal) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := m.PacketConn.ReadFrom(b)
	if err != nil {
		<-m.closed
	}
	return n, from, err
}

func (m *mortal) WriteTo(b []byte, to net.Addr) (int, error) {
	_, _ = m.PacketConn.WriteTo(b, to) // a dead process sends nothing
	return len(b), nil
}

// SetReadDeadline is how QUIC ends a read when the link closes.
func (m *mortal) SetReadDeadline(at time.Time) error {
	m.once.Do(func() { close(m.closed) })
	_ = m.PacketConn.SetReadDeadline(at)
	return nil
}

func (m *mortal) Close() error {
	_ = m.PacketConn.Close() // the second time after a death
	return nil
}

// TestKilledPeerIsNoticed kills a link without a word, as kill -9 does, and starts
// it again on the same address: the peer's next packet is answered by a stateless
// reset, so that it need not wait for the idle timeout.
func TestKilledPeerIsNoticed(t *testing.T) {
	ca := newAuthority(t, td)
	a := start(t, ca.svid(t, "/node/a", time.Hour), nil, ca)
	svid := ca.svid(t, "/node/b", time.Hour)
	key := [32]byte{1, 2, 3}
	listen := func(addr string) (*mortal, func(*Config)) {
		socket, err := net.ListenPacket("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conn := &mortal{PacketConn: socket, closed: make(chan struct{})}
		return conn, func(c *Config) { c.PacketConn, c.ResetKey = conn, &key }
	}
	socket, with := listen("127.0.0.1:0")
	b := start(t, svid, with, ca)
	conn := a.mustDial(b)
	echo(t, conn, "hi")

	if err := socket.PacketConn.Close(); err != nil { // nothing more is sent: no CONNECTION_CLOSE
		t.Fatal(err)
	}
	_, with = listen(socket.LocalAddr().String())
	start(t, svid, with, ca)

	began := time.Now()
	s, err := conn.OpenStream(t.Context(), "echo")
	if err == nil {
		_, err = s.Write([]byte("are you there?"))
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-conn.Done():
	case <-time.After(2 * maxIdle):
		t.Fatal("the connection to a process that is gone was kept")
	}
	if took := time.Since(began); took > maxIdle/2 {
		t.Errorf("noticed after %s: by a timeout, not by a reset", took)
	}
}
