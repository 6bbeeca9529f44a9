package tunnel

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// flow is one TCP connection of a workload, from its arrival to its end.
type flow struct {
	in     bool // the client is on another node
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu     sync.Mutex // guards all below; held briefly
	node   spiffeid.ID
	parts  []func()       // how to end what it is made of, at once
	again  []func() error // whether it would be admitted now; empty while it is not
	killed bool
}

// part adds something that must end with the flow. It is ended at once if the
// flow was killed before.
func (f *flow) part(end func()) {
	f.mu.Lock()
	killed := f.killed
	f.parts = append(f.parts, end)
	f.mu.Unlock()
	if killed {
		end()
	}
}

// admitted says which node is at the other end, and adds how to ask again.
func (f *flow) admitted(node spiffeid.ID, again func() error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.node, f.again = node, append(f.again, again)
}

// kill ends the flow at once: its sockets and streams are reset.
func (f *flow) kill(why error) {
	f.cancel(why)
	f.mu.Lock()
	parts := f.parts
	f.parts, f.killed = nil, true
	f.mu.Unlock()
	for _, end := range parts {
		end()
	}
}

// cause says why the flow was killed, or nil.
func (f *flow) cause() error {
	if f.ctx.Err() == nil {
		return nil
	}
	return context.Cause(f.ctx)
}

// flows is the set of all flows.
type flows struct {
	mu    sync.Mutex // guards all below; held for map operations only
	live  map[*flow]struct{}
	empty chan struct{} // made by drain, closed when the last flow has ended
}

// add makes a flow; nil once draining has begun.
func (s *flows) add(in bool) *flow {
	f := &flow{in: in}
	f.ctx, f.cancel = context.WithCancelCause(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.empty != nil {
		f.cancel(nil)
		return nil
	}
	if s.live == nil {
		s.live = make(map[*flow]struct{})
	}
	s.live[f] = struct{}{}
	return f
}

func (s *flows) remove(f *flow) {
	f.cancel(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, f)
	if s.empty != nil && len(s.live) == 0 {
		close(s.empty)
	}
}

// drain lets no more flows in; the channel is closed when all have ended.
func (s *flows) drain() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.empty != nil {
		return s.empty
	}
	s.empty = make(chan struct{})
	if len(s.live) == 0 {
		close(s.empty)
	}
	return s.empty
}

func (s *flows) all() []*flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*flow, 0, len(s.live))
	for f := range s.live {
		out = append(out, f)
	}
	return out
}

// abort closes a TCP connection with a reset.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// recheck kills the flow if it would not be admitted now.
func (f *flow) recheck() error {
	f.mu.Lock()
	all := f.again
	f.mu.Unlock()
	for _, again := range all {
		if err := again(); err != nil {
			f.kill(fmt.Errorf("%w: %w", ErrCut, err))
			return err
		}
	}
	return nil
}
