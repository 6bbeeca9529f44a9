package tunnel

import (
	"io"
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Idle directions hold a small buffer; a large one is borrowed while reads fill
// it.
const (
	smallBuffer = 4 << 10
	largeBuffer = 64 << 10
)

var (
	small = sync.Pool{New: func() any { b := make([]byte, smallBuffer); return &b }}
	large = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}
)

// end is one side of a connection: a *net.TCPConn or a *link.Stream.
type end interface {
	io.ReadWriter
	CloseWrite() error
}

// pump copies one direction until its end of data, which it passes on. A reset
// of the source kills the flow. A destination that takes no more ends this
// direction only: what it still says is delivered; clean is false then.
func pump(f *flow, dst, src end, moved prometheus.Counter) (clean bool) {
	if to, ok := dst.(*net.TCPConn); ok {
		if from, ok := src.(*net.TCPConn); ok {
			n, err := to.ReadFrom(from) // splice(2)
			moved.Add(float64(n))
			if err != nil {
				f.kill(err)
				return false
			}
			return to.CloseWrite() == nil
		}
	}
	little := small.Get().(*[]byte)
	defer small.Put(little)
	var big *[]byte
	defer func() {
		if big != nil {
			large.Put(big)
		}
	}()
	buf := *little
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				if s, ok := src.(interface{ CancelRead() }); ok {
					s.CancelRead()
				}
				return false
			}
			moved.Add(float64(n))
		}
		switch {
		case err == io.EOF:
			return dst.CloseWrite() == nil
		case err != nil:
			f.kill(err)
			return false
		case big == nil && n == len(buf):
			big = large.Get().(*[]byte)
			buf = *big
		case big != nil && n < smallBuffer:
			large.Put(big)
			big, buf = nil, *little
		}
	}
}

// uplink reads from the client while it is still being decided where to. The
// first bytes are kept, so that another owner can be tried, and nothing more is
// read before one was found.
type uplink struct {
	f    *flow
	c    *net.TCPConn
	won  chan end      // the end that was found
	done chan struct{} // closed when the upward direction has ended

	mu    sync.Mutex // guards all below, and is held while writing first
	to    end        // being tried
	read  bool
	first []byte
	clean bool // the direction ended well
}

func newUplink(f *flow, c *net.TCPConn, moved prometheus.Counter) *uplink {
	u := &uplink{f: f, c: c, won: make(chan end, 1), done: make(chan struct{})}
	go u.run(moved)
	return u
}

func (u *uplink) run(moved prometheus.Counter) {
	defer close(u.done)
	buf := small.Get().(*[]byte)
	n, err := u.c.Read(*buf)
	if err != nil && err != io.EOF {
		small.Put(buf)
		u.f.kill(err)
		return
	}
	u.mu.Lock()
	u.first, u.read = (*buf)[:n], true
	u.send()
	u.mu.Unlock()
	var dst end
	select {
	case dst = <-u.won:
	case <-u.f.ctx.Done():
	}
	u.mu.Lock()
	u.first = nil
	u.mu.Unlock()
	small.Put(buf)
	if dst == nil {
		return
	}
	moved.Add(float64(n))
	if err == io.EOF {
		u.clean = dst.CloseWrite() == nil
		return
	}
	u.clean = pump(u.f, dst, u.c, moved)
}

// try sends the first bytes to an end that is being tried, now or as soon as
// they come.
func (u *uplink) try(to end) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.to = to
	u.send()
}

// send needs mu. Its errors show when the end's status is read.
func (u *uplink) send() {
	if u.read && u.to != nil && len(u.first) > 0 {
		_, _ = u.to.Write(u.first)
	}
}
