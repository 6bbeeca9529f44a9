package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/sync/errgroup"

	"github.com/bailiwick-mesh/bailiwick/mesh/link"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// lingerFor is how long a tunnel outlives its last connection, so that what was
// written to it arrives: QUIC does not say when it has.
const lingerFor = time.Second

// Proxy carries the connections of this node's workloads. Make one with Listen.
type Proxy struct {
	cfg     Config
	log     *slog.Logger
	m       metrics
	lns     []*net.TCPListener
	pool    *pool
	flows   flows
	targets targets
	out, in chan struct{} // one slot for every live connection of the direction

	ctx  context.Context // ends when Close begins
	stop context.CancelFunc
	once sync.Once
}

// Listen opens the listeners and registers the tunnel handlers with the link.
// Connections are carried once Run runs; until then clients wait. It fails with
// ErrPortBusy, or with what the address or the metrics registry said.
func Listen(cfg Config) (*Proxy, error) {
	if cfg.Link == nil || cfg.Bundles == nil || cfg.NodeSVID == nil || cfg.Workload == nil || cfg.Resolve == nil ||
		cfg.Serve == nil || cfg.Node == nil || cfg.Peer == nil || cfg.Decide == nil {
		return nil, errors.New("mesh/tunnel: every hook of Config but Refused is required")
	}
	p := &Proxy{
		cfg: cfg, log: cfg.Log, pool: newPool(),
		out: make(chan struct{}, cfg.maxConns()), in: make(chan struct{}, cfg.maxConns()),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	go p.pool.run()
	err := p.listen()
	if err == nil {
		p.m, err = newMetrics(cfg.Metrics, p.Stats)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	cfg.Link.HandleTunnels(p.svidFor, p.accept)
	return p, nil
}

func (p *Proxy) listen() error {
	for _, l := range p.cfg.Listeners {
		ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(l.Addr))
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("listener %s for %s: %w", l.Addr, l.Service, ErrPortBusy)
		}
		if err != nil {
			return fmt.Errorf("listener %s for %s: %w", l.Addr, l.Service, err)
		}
		p.lns = append(p.lns, ln)
	}
	return nil
}

// Addrs are the addresses of the listeners, in the order of Config.Listeners.
func (p *Proxy) Addrs() []netip.AddrPort {
	var out []netip.AddrPort
	for _, ln := range p.lns {
		out = append(out, ln.Addr().(*net.TCPAddr).AddrPort())
	}
	return out
}

// Run carries connections until ctx ends. Then it takes no more, lets those it
// has finish for Config.Drain, and closes. The link must outlive it.
func (p *Proxy) Run(ctx context.Context) error {
	for i, ln := range p.lns {
		go p.serve(ln, p.cfg.Listeners[i].Service)
	}
	sweep := time.NewTicker(time.Minute)
	defer sweep.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return nil
		case now := <-sweep.C:
			for _, s := range p.pool.sweep(now) {
				s.t.Close("idle")
			}
		case <-ctx.Done():
			for _, ln := range p.lns {
				ln.Close()
			}
			drained := p.flows.drain()
			enough := time.After(p.cfg.drain())
			select {
			case <-drained:
				// What was written last may still be on its way.
				select {
				case <-time.After(p.pool.quiet(time.Now(), lingerFor)):
				case <-enough:
				}
			case <-enough:
			}
			p.Close()
			<-drained
			return nil
		}
	}
}

// Close ends every connection and tunnel at once. It may be called twice.
func (p *Proxy) Close() error {
	p.once.Do(func() {
		p.stop()
		for _, ln := range p.lns {
			ln.Close()
		}
		p.flows.drain()
		for _, f := range p.flows.all() {
			p.m.cutOne()
			f.kill(fmt.Errorf("%w: the node is stopping", ErrCut))
		}
		for _, s := range p.pool.sessions(func(*session) bool { return true }) {
			s.t.Close("the node is stopping")
		}
		close(p.pool.stop)
		p.targets.close()
	})
	return nil
}

// serve accepts clients. While there is no room for one, those after it wait in
// the kernel's backlog.
func (p *Proxy) serve(ln *net.TCPListener, service string) {
	for {
		c, err := ln.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			p.log.Warn("accept failed", "listener", ln.Addr(), "service", service, "err", err)
			select { // out of descriptors, most likely: those in use will be closed
			case <-time.After(100 * time.Millisecond):
			case <-p.ctx.Done():
			}
			continue
		}
		select {
		case p.out <- struct{}{}:
		case <-p.ctx.Done():
			abort(c)
			return
		}
		go func() {
			defer func() { <-p.out }()
			p.client(c, service)
		}()
	}
}

// Cut ends every tunnel to and from a node, and every connection on them, before
// it returns, and tells how many there were. Config.Node must refuse the node by then,
// or it may come back. The node may be this one: then its local connections end.
func (p *Proxy) Cut(node spiffeid.ID) (tunnels, connections int) {
	for _, s := range p.pool.sessions(func(s *session) bool { return s.far.node == node }) {
		s.t.Refuse("standing of node " + node.String())
		tunnels++
	}
	for _, f := range p.flows.all() {
		f.mu.Lock()
		hit := f.node == node
		f.mu.Unlock()
		if hit {
			p.m.cutOne()
			f.kill(fmt.Errorf("%w: standing of node %s", ErrCut, node))
			connections++
		}
	}
	return tunnels, connections
}

// Recheck asks again, of every tunnel, whether its far node is welcome and
// verifies, and of every connection, whether it would be admitted now: process,
// SVID, owners and both policy decisions of this node. What fails is ended. Call
// it when standing, trust bundles, SVIDs, services or policy changed; link.Recheck
// looks after the workload SVIDs of tunnels.
func (p *Proxy) Recheck() {
	now := time.Now()
	for _, s := range p.pool.sessions(func(*session) bool { return true }) {
		if err := p.check(s, now); err != nil {
			p.log.Info("tunnel ended", "node", s.far.node, "workload", s.t.RemoteID, "err", err)
			s.t.Refuse(err.Error())
		}
	}
	var g errgroup.Group
	g.SetLimit(16) // looking at processes is slow, and waiting looks share their work
	for _, f := range p.flows.all() {
		g.Go(func() error {
			if err := f.recheck(); err != nil {
				p.m.cutOne()
				p.log.Info("connection ended", "err", err)
			}
			return nil
		})
	}
	_ = g.Wait()
}

func (p *Proxy) check(s *session, now time.Time) error {
	return s.far.check(s.t.RemoteID, p.cfg.Bundles, p.cfg.Node, now)
}

// Stats counts what is live now.
func (p *Proxy) Stats() (s Stats) {
	for _, t := range p.pool.sessions(func(*session) bool { return true }) {
		if t.out {
			s.TunnelsOut++
		} else {
			s.TunnelsIn++
		}
	}
	for _, f := range p.flows.all() {
		if f.in {
			s.ConnsIn++
		} else {
			s.ConnsOut++
		}
	}
	return s
}

// moment says whether a connection is new or was admitted before.
type moment bool

const (
	isNew  moment = false
	isLive moment = true
)

// decide asks policy about one connection of an identity that ends at a time.
func (p *Proxy) decide(ctx context.Context, when moment, action string, ends time.Time, source, destination policy.Peer, svc policy.Service) policy.Decision {
	self, err := p.self()
	if err != nil {
		return policy.Decision{Kind: policy.Connect, Rule: policy.RuleInput, Reason: err.Error()}
	}
	if own := self.Certificates[0].NotAfter; own.Before(ends) {
		ends = own
	}
	here := p.cfg.Peer(self.ID, self.ID)
	decide := p.cfg.Decide
	if when == isLive && p.cfg.Stay != nil {
		decide = p.cfg.Stay
	}
	return decide(ctx, policy.Input{
		V: policy.InputVersion, Kind: policy.Connect, Time: policy.Time{Unix: time.Now().Unix(), Until: ends.Unix()},
		Self: &here, Source: &source, Destination: &destination, Service: &svc,
		Action: &policy.Action{Name: action},
	})
}

func (p *Proxy) self() (*x509svid.SVID, error) {
	svid, err := p.cfg.NodeSVID.GetX509SVID()
	if err != nil {
		return nil, fmt.Errorf("this node has no SVID: %w", err)
	}
	return svid, nil
}

// refused tells everyone of a refusal.
func (p *Proxy) refused(r Refusal, err error) {
	r.Cause = err
	p.m.refused.WithLabelValues(string(r.Side), label(err)).Inc()
	p.log.Info("connection refused", "side", r.Side, "service", r.Service, "workload", r.Workload, "node", r.Node,
		"pid", r.PID, "decision", r.Decision, "err", err)
	if p.cfg.Refused != nil {
		p.cfg.Refused(r)
	}
}

// denied fills in a refusal from a denial.
func (r *Refusal) denied(d *Denied) error {
	r.Decision, r.Rule, r.Recorded = d.ID, d.Rule, !d.Remote
	return d
}

func denial(d policy.Decision) *Denied {
	return &Denied{ID: d.ID, Rule: d.Rule, Reason: d.Told()}
}

var _ end = (*link.Stream)(nil)
