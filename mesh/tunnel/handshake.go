package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/mesh/link"
)

// tunnelTo returns a tunnel for connections of svid to an owner, which the
// caller must release.
func (p *Proxy) tunnelTo(ctx context.Context, k key, svid *x509svid.SVID, addr netip.AddrPort, service string) (*session, error) {
	return p.pool.get(ctx, k, svid, func(d *pending) {
		s, err := p.dial(k, svid, addr, service)
		p.pool.settle(k, d, s, err)
	})
}

// dial makes a tunnel and proves its two nodes to each other.
func (p *Proxy) dial(k key, svid *x509svid.SVID, addr netip.AddrPort, service string) (*session, error) {
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	defer cancel()
	t, err := p.cfg.Link.DialTunnel(ctx, addr, svid, service, func(id spiffeid.ID) error {
		if id != k.destination {
			return fmt.Errorf("want %s", k.destination)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s, err := p.dialled(ctx, t, k)
	if err != nil {
		t.Refuse(clean(err.Error(), 200))
		return nil, err
	}
	p.m.tunnels.WithLabelValues("out").Inc()
	return s, nil
}

func (p *Proxy) dialled(ctx context.Context, t *link.Tunnel, k key) (*session, error) {
	own, err := p.self()
	if err != nil {
		return nil, err
	}
	b := binding{dialler: t.Local[0], acceptor: t.Remote[0]}
	if b.exporter, err = t.Export(exporterLabel, nil); err != nil {
		return nil, err
	}
	st, err := t.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	deadline, _ := ctx.Deadline()
	_ = st.SetDeadline(deadline)
	mine, err := p.statement(b, dialler, own)
	if err != nil {
		return nil, err
	}
	if err := writeFrame(st, mine, MaxNodeFrame); err != nil {
		return nil, fmt.Errorf("send node statement: %w", err)
	}
	far, err := readNode(st, b, acceptor)
	if err != nil {
		return nil, err
	}
	if far.node != k.node {
		return nil, fmt.Errorf("%w: %s answers and %s was chosen", ErrNodeRefused, far.node, k.node)
	}
	return p.proven(newSession(t, true, far, own))
}

// accept serves one tunnel that another node made; it is over when it returns.
func (p *Proxy) accept(ctx context.Context, t *link.Tunnel) {
	s, err := p.accepted(ctx, t)
	if errors.Is(err, link.ErrClosed) || errors.Is(err, link.ErrUnreachable) {
		p.log.Debug("dialler left", "workload", t.RemoteID, "err", err)
		return
	}
	if err != nil {
		t.Refuse(clean(err.Error(), 200))
		r := Refusal{At: time.Now(), Side: Destination, Service: t.ServerName, Workload: t.RemoteID}
		if s != nil {
			r.Node = s.far.node
		}
		p.refused(r, err)
		return
	}
	p.m.tunnels.WithLabelValues("in").Inc()
	for {
		st, err := t.AcceptStream(ctx)
		if err != nil {
			return
		}
		go p.stream(s, st)
	}
}

// accepted is the acceptor's side of dialled. With an error, the session tells
// who was refused, if that is known.
func (p *Proxy) accepted(ctx context.Context, t *link.Tunnel) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	own, err := p.self()
	if err != nil {
		return nil, err
	}
	b := binding{dialler: t.Remote[0], acceptor: t.Local[0]}
	if b.exporter, err = t.Export(exporterLabel, nil); err != nil {
		return nil, err
	}
	st, err := t.AcceptStream(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: none came: %w", ErrNodeStatement, err)
	}
	defer st.Close()
	deadline, _ := ctx.Deadline()
	_ = st.SetDeadline(deadline)
	far, err := readNode(st, b, dialler)
	if err != nil {
		return nil, err
	}
	// Only for whom it serves does this node trouble its key.
	s, err := p.proven(newSession(t, false, far, own))
	if err != nil {
		return s, err
	}
	mine, err := p.statement(b, acceptor, own)
	if err != nil {
		return s, err
	}
	if err := writeFrame(st, mine, MaxNodeFrame); err != nil {
		return s, fmt.Errorf("send node statement: %w", err)
	}
	return s, nil
}

// statement is what this node says of itself on a tunnel.
func (p *Proxy) statement(b binding, by role, own *x509svid.SVID) (nodeFrame, error) {
	f, err := b.sign(by, own)
	if err == nil && p.cfg.Endorsement != nil {
		f.Endorsement = p.cfg.Endorsement()
	}
	return f, err
}

func readNode(r io.Reader, b binding, by role) (proof, error) {
	frame, err := readFrame(r, MaxNodeFrame)
	if err != nil {
		return proof{}, fmt.Errorf("%w: read: %w", ErrNodeStatement, err)
	}
	return b.parseNode(by, frame)
}

// proven makes the session visible to Cut and Recheck and then asks whether its
// node is welcome: a change of standing before is seen here, a later one there.
// The session is returned with the error too.
func (p *Proxy) proven(s *session) (*session, error) {
	if !p.pool.add(s) {
		return s, fmt.Errorf("%w: the node is stopping", ErrCut)
	}
	if p.cfg.Endorsed != nil {
		// A chain that nobody vouches for must not speak of any node.
		if err := s.far.check(s.t.RemoteID, p.cfg.Bundles, func(spiffeid.ID) error { return nil }, time.Now()); err != nil {
			return s, err
		}
		p.cfg.Endorsed(s.far.node, s.far.chain[0], s.far.endorsement)
	}
	guard := func() error { return p.check(s, time.Now()) }
	if err := guard(); err != nil {
		return s, err
	}
	s.t.Guard(guard)
	expiry := time.AfterFunc(time.Until(s.ends), func() { s.t.Close("a certificate of this tunnel has expired: dial again") })
	go func() {
		<-s.t.Done()
		expiry.Stop()
	}()
	return s, nil
}
