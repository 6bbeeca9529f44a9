package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
)

// What QUIC adds to a frame: headers of UDP, IP and QUIC for each packet.
const (
	packetSize     = 1200
	packetOverhead = 60
)

// errLost ends a session whose other side does not answer.
var errLost = errors.New("the peer does not answer")

// idleTimeout is after how long of silence a session is given up, as mesh/link has it.
const idleTimeout = 10 * time.Second

// Frames that the simulator looks into; see the package doc of gossip/replica.
const (
	frameHead   = 5
	frameCert   = 1
	frameRoot   = 2
	frameHeads  = 3
	frameWant   = 4
	frameRecord = 5
	frameSeal   = 6
	frameHeader = 7
)

// end is one side of a session.
type end struct {
	node, peer *node
	other      *end
	link       *replica.Link
	latency    time.Duration
	free       time.Duration // when the line has taken what was sent
	last       time.Duration // when the last frame sent arrives: a session keeps order
	open       time.Duration // when the bucket lets the reader read on
	held       [][]byte      // came to a cut; sent again when that is healed
	waiting    bool          // a pump is planned
	closed     bool
}

// connect begins a session between two nodes that are up.
func (f *fleet) connect(a, b *node) {
	f.meet(a, b)
	latency := f.Latency
	if f.Jitter > 0 {
		latency += time.Duration(f.rand.Int64N(int64(f.Jitter)))
	}
	x := &end{node: a, peer: b, latency: latency}
	y := &end{node: b, peer: a, latency: latency, other: x}
	x.other = y
	for _, e := range []*end{x, y} {
		e.node.ends = append(e.node.ends, e) // its roster names the peer
		e.link = e.node.core.Connect(e.peer.id, func(err error) { f.after(0, func() { f.hangUp(e, err) }) })
	}
	a.pump()
	b.pump()
}

// hangUp ends a session on both sides: in good order, or for what e's side says.
func (f *fleet) hangUp(e *end, err error) {
	if e.closed {
		return
	}
	if errors.Is(err, replica.ErrRelay) {
		f.blamed[pair{e.node.index, e.peer.index}] = true
		f.tell(e.node, "drops %s: %v", e.peer.name(), err)
		if e.peer.honest() && e.node.honest() {
			f.harm("%s dropped the honest %s: %v", e.node.name(), e.peer.name(), err)
		}
	}
	for _, side := range []*end{e, e.other} {
		side.close(err == nil)
	}
}

func (e *end) close(parted bool) {
	if e.closed {
		return
	}
	e.closed = true
	e.node.ends = slices.DeleteFunc(e.node.ends, func(other *end) bool { return other == e })
	if e.node.up {
		e.link.Close(parted)
	}
}

// pump sends what waits in a node's queues as far as its lines take it.
func (n *node) pump() {
	for _, e := range n.ends {
		n.send(e)
	}
}

func (n *node) send(e *end) {
	f := n.fleet
	for !e.closed && !e.waiting && n.up && !f.apart(n, e.peer) && !e.link.Idle() {
		if start := max(n.busyLine, e.free); start > f.elapsed {
			e.waiting = true
			f.at(start, func() {
				e.waiting = false
				n.send(e)
			})
			return
		}
		if frame := n.role.passes(n, e, e.link.Next()); frame != nil {
			f.transmit(e, frame)
		}
	}
}

// transmit puts a frame on the line.
func (f *fleet) transmit(e *end, frame []byte) {
	frame = f.shared(frame)
	packets := (len(frame) + packetSize - 1) / packetSize
	size := len(frame) + packets*packetOverhead
	e.node.busyLine = f.elapsed + duration(size, f.Bandwidth)
	e.free = e.node.busyLine
	if f.crosses(e.node, e.peer) && f.Thin > 0 {
		e.free = max(f.thinFree[e.node.side()], f.elapsed) + duration(size, f.Thin)
		f.thinFree[e.node.side()] = e.free
	}
	arrives := e.free + e.latency
	for range packets {
		for f.Loss > 0 && f.rand.Float64() < f.Loss {
			arrives += f.Retransmit
		}
	}
	e.last = max(arrives, e.last)
	e.node.sent.count(frame, size)
	if f.rejoin != nil && !f.rejoin.ended && f.wasInside(e.node) != f.wasInside(e.peer) {
		f.rejoin.crossed += uint64(len(frame))
	}
	f.mark('s', e.node.index, e.peer.index, frame)
	to := e.other
	f.at(e.last, func() { to.arrive(frame) })
}

func duration(size int, perSecond int64) time.Duration {
	return time.Duration(int64(size) * int64(time.Second) / perSecond)
}

// arrive hands a frame to the node's loop, when the bucket of the session allows.
func (e *end) arrive(frame []byte) {
	f := e.node.fleet
	if e.closed || !e.node.up {
		return
	}
	if f.apart(e.node, e.peer) {
		e.held = append(e.held, frame)
		return
	}
	e.open = max(f.elapsed+e.link.Wait(), e.open)
	if e.open > f.elapsed {
		f.at(e.open, func() { e.take(frame) })
		return
	}
	e.take(frame)
}

func (e *end) take(frame []byte) {
	if !e.closed && e.node.up {
		e.node.inbox = append(e.node.inbox, job{end: e, frame: frame})
		e.node.work()
	}
}

// shared returns the one copy of a frame's bytes that all nodes keep.
func (f *fleet) shared(frame []byte) []byte {
	if t := frame[frameHead-1]; t != frameRecord && t != frameCert {
		return frame
	}
	if one, ok := f.bytes[string(frame)]; ok {
		return one
	}
	f.bytes[string(frame)] = frame
	return frame
}

// traffic is what a node sent.
type traffic struct {
	frames  uint64
	records uint64 // frames that carry one
	payload uint64 // bytes of frames
	wire    uint64 // bytes with what QUIC adds
	bodies  uint64 // bytes of the frames that carry a record
}

func (t *traffic) count(frame []byte, wire int) {
	t.frames++
	t.payload += uint64(len(frame))
	t.wire += uint64(wire)
	if frame[frameHead-1] == frameRecord {
		t.records++
		t.bodies += uint64(len(frame))
	}
}

func (t traffic) since(before traffic) traffic {
	return traffic{t.frames - before.frames, t.records - before.records, t.payload - before.payload, t.wire - before.wire, t.bodies - before.bodies}
}

func (t traffic) plus(other traffic) traffic {
	return traffic{t.frames + other.frames, t.records + other.records, t.payload + other.payload, t.wire + other.wire, t.bodies + other.bodies}
}
