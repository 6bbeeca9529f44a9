package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/caller"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
	"github.com/bailiwick-mesh/bailiwick/mesh/route"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

const (
	// openTimeout bounds the arrival of an open message.
	openTimeout = 10 * time.Second
	// targetTimeout bounds a connection to a local target.
	targetTimeout = 5 * time.Second
)

// svidFor is the link's question which workload answers for a server name.
func (p *Proxy) svidFor(name string) (*x509svid.SVID, error) {
	t, err := p.cfg.Serve(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrNoTarget, name, err)
	}
	return t.SVID, nil
}

// stream serves one connection of a tunnel.
func (p *Proxy) stream(s *session, st *link.Stream) {
	s.conns.Add(1)
	defer s.release()
	defer st.Close()
	f := p.flows.add(true)
	if f == nil {
		p.answer(st, status{Code: codeBusy, Text: "the node is stopping"})
		return
	}
	defer p.flows.remove(f)
	f.part(st.Reset)
	r := Refusal{At: time.Now(), Side: Destination, Workload: s.t.RemoteID, Node: s.far.node}
	select {
	case p.in <- struct{}{}:
		defer func() { <-p.in }()
	default:
		p.answer(st, status{Code: codeBusy, Text: "too many connections"})
		p.refused(r, fmt.Errorf("%w: %d from other nodes", ErrBusy, cap(p.in)))
		return
	}
	if err := p.admit(f, s, st, &r); err != nil && s.alive() {
		p.refused(r, err)
	}
}

// admit decides about one stream and carries it. An error means that it was
// refused, and that the source has been told if it is still there.
func (p *Proxy) admit(f *flow, s *session, st *link.Stream, r *Refusal) error {
	_ = st.SetReadDeadline(time.Now().Add(openTimeout))
	b, err := readFrame(st, MaxFrame)
	if err != nil {
		st.Reset()
		return fmt.Errorf("%w: open: %w", ErrFrame, err)
	}
	_ = st.SetReadDeadline(time.Time{})
	o, err := parseOpening(b)
	if err != nil {
		st.Reset()
		return err
	}
	r.Service = o.Service
	c, err := p.enter(f, o.Service, visitor{s.t.RemoteID, s.far.node, s.t.LocalID, s.ends}, r)
	if err != nil {
		p.answer(st, statusOf(err))
		return err
	}
	if err := p.answer(st, status{Code: codeOK}); err != nil {
		abort(c)
		return nil // the source has left
	}
	p.log.Debug("connection admitted", "service", o.Service, "workload", s.t.RemoteID, "node", s.far.node,
		"traceparent", o.Traceparent, "decision", o.Decision)
	p.m.conns.WithLabelValues("destination").Inc()
	up := make(chan bool, 1)
	go func() { up <- pump(f, c, st, p.m.up) }()
	down := pump(f, st, c, p.m.down)
	if <-up && down {
		c.Close()
	} else {
		abort(c)
	}
	return nil
}

// answer sends a status. The source may not be reading any more.
func (p *Proxy) answer(st *link.Stream, s status) error {
	s.Decision, s.Rule, s.Text = clean(s.Decision, 64), clean(s.Rule, 128), clean(s.Text, 512)
	_ = st.SetWriteDeadline(time.Now().Add(openTimeout))
	defer st.SetWriteDeadline(time.Time{})
	return writeFrame(st, s, MaxFrame)
}

func statusOf(err error) status {
	var d *Denied
	switch {
	case errors.As(err, &d):
		return status{Code: codeDenied, Decision: d.ID, Rule: d.Rule, Text: d.Reason}
	case errors.Is(err, ErrWrongOwner):
		return status{Code: codeWrongOwner, Text: "another process listens there"}
	default:
		return status{Code: codeNoTarget, Text: "nothing answers there"}
	}
}

// visitor is who comes: a workload from a node, to be served by an owner, until its identity ends.
type visitor struct {
	workload, node, owner spiffeid.ID
	ends                  time.Time
}

// enter decides at the destination and connects to the local target of the
// service.
func (p *Proxy) enter(f *flow, service string, v visitor, r *Refusal) (*net.TCPConn, error) {
	self, err := p.self()
	if err != nil {
		return nil, err
	}
	ask := func(when moment) (Target, error) {
		t, err := p.cfg.Serve(service)
		if err != nil {
			return t, fmt.Errorf("%w: %q: %w", ErrNoTarget, service, err)
		}
		if t.SVID.ID != v.owner {
			return t, fmt.Errorf("%w: %q is served by %s, not by %s", ErrNoTarget, service, t.SVID.ID, v.owner)
		}
		d := p.decide(f.ctx, when, policy.Accept, v.ends, p.cfg.Peer(v.workload, v.node), p.cfg.Peer(v.owner, self.ID), t.Service)
		if !d.Allow {
			return t, denial(d)
		}
		return t, nil
	}
	t, err := ask(isNew)
	if err != nil {
		if d := (*Denied)(nil); errors.As(err, &d) {
			return nil, r.denied(d)
		}
		return nil, err
	}
	c, err := p.dialTarget(f.ctx, t)
	if err != nil {
		return nil, err
	}
	f.part(func() { abort(c) })
	f.admitted(v.node, func() error { _, err := ask(isLive); return err })
	return c, nil
}

// stay carries a connection to an owner on this node: both decisions, no tunnel.
func (j *journey) stay(o route.Owner, r *Refusal) error {
	c, err := j.p.enter(j.f, j.service, visitor{j.svid.ID, j.self, o.Workload, j.svid.Certificates[0].NotAfter}, r)
	if err != nil {
		return err
	}
	j.up.try(c)
	j.carry(o, c, "local")
	c.Close()
	return nil
}

// targets are the processes that listen on the local targets, as attributed
// last.
type targets struct {
	mu     sync.Mutex // guards all below; not held while attributing
	procs  map[netip.AddrPort]*caller.Process
	closed bool
}

// get returns the process that listens on addr; stale is one that must not be
// used any more.
func (t *targets) get(addr netip.AddrPort, stale *caller.Process) (*caller.Process, error) {
	t.mu.Lock()
	p := t.procs[addr]
	t.mu.Unlock()
	if p != nil && p != stale {
		return p, nil
	}
	p, err := caller.FromListener(addr)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		p.Close()
		return nil, fmt.Errorf("%w: the node is stopping", ErrCut)
	}
	if t.procs == nil {
		t.procs = make(map[netip.AddrPort]*caller.Process)
	}
	if old := t.procs[addr]; old != nil {
		old.Close() // whoever still has it sees that it is gone, and asks again
	}
	t.procs[addr] = p
	return p, nil
}

func (t *targets) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, p := range t.procs {
		p.Close()
	}
	t.procs = nil
}

// dialTarget connects to the target, proven to be the workload that owns the
// service: the process was attributed before, and after connecting the same
// sockets of the same process are found to take connections to the address.
func (p *Proxy) dialTarget(ctx context.Context, t Target) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, targetTimeout)
	defer cancel()
	var stale *caller.Process
	for try := 0; ; try++ {
		proc, err := p.targets.get(t.Addr, stale)
		switch {
		case errors.Is(err, caller.ErrNoSocket):
			return nil, fmt.Errorf("%w: %w", ErrNoTarget, err)
		case err != nil:
			return nil, fmt.Errorf("%w: %w", ErrWrongOwner, err)
		}
		owner, err := p.cfg.Workload(proc)
		if err == nil && owner.ID != t.SVID.ID {
			err = fmt.Errorf("it is %s", owner.ID)
		}
		var c net.Conn
		if err == nil {
			if c, err = new(net.Dialer).DialContext(ctx, "tcp", t.Addr.String()); err != nil {
				err = fmt.Errorf("%w: %w", ErrNoTarget, err)
			}
		} else {
			err = fmt.Errorf("%w: pid %d (%s) on %s: %w", ErrWrongOwner, proc.PID, proc.Exe, t.Addr, err)
		}
		changed := proc.Recheck()
		switch {
		case err == nil && changed == nil:
			return c.(*net.TCPConn), nil
		case c != nil:
			abort(c.(*net.TCPConn))
		}
		// Another process may have taken over since it was attributed.
		if changed == nil {
			return nil, err
		}
		if stale = proc; try == 2 {
			return nil, fmt.Errorf("%w: %s: %w", ErrWrongOwner, t.Addr, errors.Join(err, changed))
		}
	}
}
