package tunnel

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/caller"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/mesh/route"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

const (
	// statusTimeout bounds the destination's answer: its decision, and dialling
	// and attributing its target.
	statusTimeout = 15 * time.Second
	// heldStill is how old an attribution may be when an owner is asked.
	heldStill = 50 * time.Millisecond
)

// journey is one client on its way.
type journey struct {
	p       *Proxy
	f       *flow
	c       *net.TCPConn
	up      *uplink
	proc    *caller.Process
	seen    time.Time // when proc was attributed
	svid    *x509svid.SVID
	self    spiffeid.ID
	service string
	svc     Service
}

// client carries one accepted connection to its end.
func (p *Proxy) client(c *net.TCPConn, service string) {
	f := p.flows.add(false)
	if f == nil {
		abort(c)
		return
	}
	defer p.flows.remove(f)
	f.part(func() { abort(c) })
	r := Refusal{At: time.Now(), Side: Source, Service: service}
	j := &journey{p: p, f: f, c: c, service: service}
	if err := j.travel(&r); err != nil {
		f.kill(err)
		p.refused(r, err)
	}
	if j.up != nil {
		<-j.up.done
	}
	if j.proc != nil {
		j.proc.Close()
	}
}

// travel finds an owner and carries the connection; an error means that it was
// refused.
func (j *journey) travel(r *Refusal) error {
	r.Client = j.c.RemoteAddr().(*net.TCPAddr).AddrPort()
	var err error
	if j.proc, err = caller.FromTCP(r.Client, j.c.LocalAddr().(*net.TCPAddr).AddrPort()); err != nil {
		return err
	}
	j.seen = time.Now()
	r.PID, r.Exe = j.proc.PID, j.proc.Exe
	if j.svid, err = j.p.cfg.Workload(j.proc); err != nil {
		return fmt.Errorf("%w: pid %d (%s): %w", ErrUnknownWorkload, j.proc.PID, j.proc.Exe, err)
	}
	r.Workload = j.svid.ID
	if j.svc, err = j.p.cfg.Resolve(j.service); err != nil {
		return fmt.Errorf("%w: %q: %w", ErrNoService, j.service, err)
	}
	self, err := j.p.self()
	if err != nil {
		return err
	}
	j.self = self.ID
	owners := j.owners()
	if len(owners) == 0 {
		return fmt.Errorf("%w: %q", ErrNoOwner, j.service)
	}
	j.up = newUplink(j.f, j.c, j.p.m.up)
	var tried []error
	for _, o := range owners {
		r.Node = o.Node
		err := j.try(o, r)
		var d *Denied
		switch {
		case err == nil:
			return nil
		case errors.As(err, &d):
			return r.denied(d)
		case errors.Is(j.f.cause(), ErrCut):
			return j.f.cause()
		case j.f.cause() != nil:
			return nil // the client has left
		case errors.Is(err, caller.ErrGone), errors.Is(err, caller.ErrChanged), errors.Is(err, caller.ErrUnattributed):
			return err
		}
		j.p.log.Debug("owner failed", "service", j.service, "node", o.Node, "err", err)
		tried = append(tried, fmt.Errorf("%s: %w", o.Node, err))
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, errors.Join(tried...))
}

// owners are the allowed owners, best first.
func (j *journey) owners() []route.Owner {
	here := route.Place{Node: j.self, Region: j.p.cfg.Region}
	if n, err := identity.ParseNode(j.self); err == nil {
		here.Zone = n.Zone
	}
	return slices.DeleteFunc(route.Choose(here, j.svc.Owners), func(o route.Owner) bool {
		return !slices.Contains(j.svc.Allowed, o.Workload)
	})
}

// try decides about one owner and carries the connection there. Nil means that
// it was carried, to whatever end.
func (j *journey) try(o route.Owner, r *Refusal) error {
	d := j.decide(isNew, o)
	if !d.Allow {
		return denial(d)
	}
	if o.Node == j.self {
		return j.stay(o, r)
	}
	s, err := j.p.tunnelTo(j.f.ctx, key{j.svid.ID, o.Workload, o.Node}, j.svid, o.Addr, j.service)
	if err != nil {
		return err
	}
	defer s.release()
	if time.Since(j.seen) > heldStill {
		if err := j.proc.Recheck(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(j.f.ctx, statusTimeout)
	defer cancel()
	st, err := s.t.OpenStream(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	j.f.part(st.Reset)
	if err := writeFrame(st, opening{j.service, traceparent(), d.ID}, MaxFrame); err != nil {
		return err
	}
	_ = st.SetReadDeadline(time.Now().Add(statusTimeout))
	j.up.try(st)
	b, err := readFrame(st, MaxFrame)
	if err != nil {
		st.Reset()
		return fmt.Errorf("no answer: %w", err)
	}
	answer, err := parseStatus(b)
	if err == nil {
		err = answer.err()
	}
	if err != nil {
		st.Reset()
		return err
	}
	_ = st.SetReadDeadline(time.Time{})
	j.carry(o, st, "source")
	return nil
}

// carry moves bytes until both directions have ended.
func (j *journey) carry(o route.Owner, far end, side string) {
	j.f.admitted(o.Node, func() error { return j.again(o) })
	j.p.m.conns.WithLabelValues(side).Inc()
	j.up.won <- far
	down := pump(j.f, j.c, far, j.p.m.down)
	<-j.up.done
	if down && j.up.clean {
		j.c.Close()
	} else {
		abort(j.c)
	}
}

// again says whether the connection would be admitted now. A client that has
// ended and left nobody with its socket can do no more harm.
func (j *journey) again(o route.Owner) error {
	switch err := j.proc.Recheck(); {
	case errors.Is(err, caller.ErrGone):
	case err != nil:
		return err
	default:
		svid, err := j.p.cfg.Workload(j.proc)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnknownWorkload, err)
		}
		if svid.ID != j.svid.ID {
			return fmt.Errorf("%w: it was %s and is %s", ErrUnknownWorkload, j.svid.ID, svid.ID)
		}
	}
	svc, err := j.p.cfg.Resolve(j.service)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoService, err)
	}
	if !slices.Contains(svc.Allowed, o.Workload) {
		return fmt.Errorf("%w: %s may not answer for it any more", ErrNoOwner, o.Workload)
	}
	if d := j.decide(isLive, o); !d.Allow {
		return denial(d)
	}
	return nil
}

func (j *journey) decide(when moment, o route.Owner) policy.Decision {
	return j.p.decide(j.f.ctx, when, policy.Dial, j.svid.Certificates[0].NotAfter, j.p.cfg.Peer(j.svid.ID, j.self), j.p.cfg.Peer(o.Workload, o.Node), j.svc.Service)
}

// traceparent starts a trace (W3C Trace Context, version 00, sampled).
func traceparent() string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return fmt.Sprintf("00-%x-%x-01", b[:16], b[16:])
}
