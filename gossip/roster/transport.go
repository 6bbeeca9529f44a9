package roster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Network is what the roster needs of the mesh. Peers are authenticated: the ID of
// a datagram or stream is that of the certificate behind it.
type Network interface {
	// SendDatagram sends, drops or puts aside at once: it never blocks. With probe set
	// somebody waits for the answer, so that it is worth connecting first; else b is
	// dropped where no connection is.
	SendDatagram(peer spiffeid.ID, b []byte, probe bool) error
	// Datagrams yields what peers sent. It is read without pause.
	Datagrams() <-chan Datagram
	// Dial opens a stream to a peer, connecting first if need be.
	Dial(ctx context.Context, peer spiffeid.ID) (net.Conn, error)
	// Accept yields streams that peers opened.
	Accept() <-chan InboundStream
	// PeerByName returns the node with a name, the last segment of its path, if it
	// is in the region's roster.
	PeerByName(name string) (spiffeid.ID, bool)
	// NameOf is the inverse of PeerByName.
	NameOf(peer spiffeid.ID) (string, bool)
}

// Datagram is one packet and its authenticated sender.
type Datagram struct {
	Peer spiffeid.ID
	B    []byte // the roster's to keep
}

// InboundStream is one stream and who opened it.
type InboundStream struct {
	Peer spiffeid.ID
	Conn net.Conn
}

const (
	maxStreams     = 64 // inbound at once
	maxPeerStreams = 4  // of one peer
	packetQueue    = 1024
	streamTimeout  = 10 * time.Second
)

var errNoName = errors.New("address without a node name in the roster")

// transport is memberlist's transport: names in, links out, the filter between.
type transport struct {
	net    Network
	filter *filter
	self   string

	packets chan *memberlist.Packet
	streams chan net.Conn
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu   sync.Mutex          // guards open, for map work only
	open map[spiffeid.ID]int // inbound streams by peer
	all  int                 // their sum
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(n Network, f *filter) *transport {
	t := &transport{
		net: n, filter: f, self: f.self,
		packets: make(chan *memberlist.Packet, packetQueue), streams: make(chan net.Conn),
		open: map[spiffeid.ID]int{},
	}
	t.ctx, t.cancel = context.WithCancel(context.Background()) // ended by Shutdown
	t.wg.Go(t.receive)
	t.wg.Go(t.accept)
	return t
}

func (t *transport) receive() {
	for {
		select {
		case <-t.ctx.Done():
			return
		case d, ok := <-t.net.Datagrams():
			if !ok {
				return
			}
			t.take(d)
		}
	}
}

func (t *transport) take(d Datagram) {
	name, ok := t.net.NameOf(d.Peer)
	if !ok || name == t.self {
		t.filter.count("unknown-peer")
		return
	}
	now := time.Now()
	b := t.filter.packet(now, name, d.B)
	if b == nil {
		return
	}
	select {
	case t.packets <- &memberlist.Packet{Buf: b, From: net.UDPAddrFromAddrPort(address(name)), Timestamp: now}:
	default:
		t.filter.count("queue-full")
	}
}

func (t *transport) accept() {
	for {
		select {
		case <-t.ctx.Done():
			return
		case in, ok := <-t.net.Accept():
			if !ok {
				return
			}
			c, err := t.inbound(in)
			if err != nil {
				in.Conn.Close()
				continue
			}
			select {
			case t.streams <- c:
			case <-t.ctx.Done():
				c.Close()
				return
			}
		}
	}
}

// inbound wraps a stream, within the bounds of all and of its peer's.
func (t *transport) inbound(in InboundStream) (net.Conn, error) {
	name, ok := t.net.NameOf(in.Peer)
	if !ok || name == t.self {
		t.filter.count("unknown-peer")
		return nil, errNoName
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	//bailiwick:check TestSWIM/streams
	if t.all >= maxStreams || t.open[in.Peer] >= maxPeerStreams {
		t.filter.count("streams")
		return nil, errors.New("too many streams")
	}
	t.all++
	t.open[in.Peer]++
	return &filtered{
		Conn: in.Conn,
		read: func() ([]byte, error) { return t.filter.request(time.Now(), name, in.Conn) },
		told: t.filter.told,
		done: sync.OnceFunc(func() { t.closed(in.Peer) }),
	}, nil
}

func (t *transport) closed(peer spiffeid.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.open[peer]--; t.open[peer] == 0 {
		delete(t.open, peer)
	}
}

// FinalAdvertiseAddr returns this node's synthetic address, whatever was configured.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	a := address(t.self)
	return a.Addr().AsSlice(), int(a.Port()), nil
}

// WriteToAddress sends a packet by name. Loss is not an error: memberlist would
// not take a failed send for a failed probe.
func (t *transport) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	now := time.Now()
	peer, ok := t.net.PeerByName(to.Name)
	if !ok || to.Name == t.self {
		t.filter.count("unknown-target")
		return now, nil
	}
	may, probe := t.filter.sent(now, to.Name, b)
	if may == nil {
		return now, nil
	}
	if err := t.net.SendDatagram(peer, may, probe); err != nil {
		t.filter.count("not-sent")
	}
	return now, nil
}

// DialAddressTimeout opens a stream by name, whose answer is filtered too.
func (t *transport) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	peer, ok := t.net.PeerByName(to.Name)
	if !ok || to.Name == t.self {
		return nil, fmt.Errorf("%w: %q", errNoName, to.Name)
	}
	ctx, cancel := context.WithTimeout(t.ctx, min(timeout, streamTimeout))
	defer cancel()
	conn, err := t.net.Dial(ctx, peer)
	if err != nil {
		return nil, err
	}
	return &filtered{
		Conn: conn,
		read: func() ([]byte, error) { return t.filter.reply(time.Now(), to.Name, conn) },
		told: t.filter.told,
	}, nil
}

// WriteTo and DialTimeout know no name, and so no peer.
func (t *transport) WriteTo([]byte, string) (time.Time, error) { return time.Time{}, errNoName }

func (t *transport) DialTimeout(string, time.Duration) (net.Conn, error) { return nil, errNoName }

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

func (t *transport) Shutdown() error {
	t.cancel()
	t.wg.Wait()
	return nil
}
