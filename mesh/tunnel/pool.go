package tunnel

import (
	"context"
	"crypto/x509"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/mesh/link"
)

const (
	// dialTimeout bounds a tunnel's making: handshake and node statements.
	dialTimeout = 15 * time.Second
	// failedFor is how long an owner that could not be reached is passed over.
	failedFor = time.Second
	// idleFor is how long a tunnel without connections is kept.
	idleFor = 5 * time.Minute
	// freshFor is how much life a tunnel must have left to get new connections,
	// and how long it gets them in any case: another would not live longer.
	freshFor = time.Minute
)

// key is what connections of one tunnel have in common.
type key struct{ source, destination, node spiffeid.ID }

// session is a tunnel whose far node is proven.
type session struct {
	t     *link.Tunnel
	out   bool // made by this node
	far   proof
	made  time.Time
	ends  time.Time    // when the first certificate of workloads and nodes ends
	conns atomic.Int64 // connections on it; of a dialled one it grows only in the pool's goroutine
	used  atomic.Int64 // when conns shrank last, Unix nanoseconds
}

func newSession(t *link.Tunnel, out bool, far proof, own *x509svid.SVID) *session {
	s := &session{t: t, out: out, far: far, made: time.Now(), ends: far.ends()}
	for _, chain := range [][]*x509.Certificate{own.Certificates, t.Local, t.Remote} {
		for _, c := range chain {
			if c.NotAfter.Before(s.ends) {
				s.ends = c.NotAfter
			}
		}
	}
	s.used.Store(s.made.UnixNano())
	return s
}

func (s *session) alive() bool {
	select {
	case <-s.t.Done():
		return false
	default:
		return true
	}
}

// fresh says whether new connections of svid may use the tunnel. After a
// renewal they go to a new one, and the old one ends with its connections.
func (s *session) fresh(svid *x509svid.SVID, now time.Time) bool {
	lasts := now.Add(freshFor).Before(s.ends) || now.Before(s.made.Add(freshFor))
	return lasts && s.alive() && s.t.Local[0].Equal(svid.Certificates[0])
}

func (s *session) release() {
	s.used.Store(time.Now().UnixNano())
	s.conns.Add(-1)
}

// pending is a dial that several connections may wait for.
type pending struct {
	done chan struct{} // closed when s or err is set
	s    *session
	err  error
}

type failure struct {
	err   error
	until time.Time
}

// book is the pool's state.
type book struct {
	live   map[*session]struct{}
	ready  map[key]*session // the newest of a key
	dials  map[key]*pending
	failed map[key]failure
}

// pool owns the book: only its goroutine touches it, by running what do sends.
// What is sent must not block.
type pool struct {
	calls chan func(*book)
	stop  chan struct{} // closed by Close
}

func newPool() *pool {
	return &pool{calls: make(chan func(*book)), stop: make(chan struct{})}
}

func (p *pool) run() {
	b := &book{map[*session]struct{}{}, map[key]*session{}, map[key]*pending{}, map[key]failure{}}
	for {
		select {
		case fn := <-p.calls:
			fn(b)
		case <-p.stop:
			return
		}
	}
}

// do runs fn with the book and waits for it; false after the pool has ended.
func (p *pool) do(fn func(*book)) bool {
	done := make(chan struct{})
	select {
	case p.calls <- func(b *book) { fn(b); close(done) }:
		<-done
		return true
	case <-p.stop:
		return false
	}
}

// get returns a fresh tunnel of k, dialled if there is none; the caller
// must release it. Only one dial of a key runs at a time.
func (p *pool) get(ctx context.Context, k key, svid *x509svid.SVID, dial func(*pending)) (*session, error) {
	var s *session
	var d *pending
	var err error
	open := p.do(func(b *book) {
		now := time.Now()
		if r := b.ready[k]; r != nil && r.fresh(svid, now) {
			s = r
			s.conns.Add(1)
			return
		}
		if f, ok := b.failed[k]; ok && now.Before(f.until) {
			err = f.err
			return
		}
		if d = b.dials[k]; d == nil {
			d = &pending{done: make(chan struct{})}
			b.dials[k] = d
			go dial(d)
		}
	})
	switch {
	case !open:
		return nil, fmt.Errorf("%w: the node is stopping", ErrCut)
	case s != nil || err != nil:
		return s, err
	}
	select {
	case <-d.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if d.err == nil && !p.do(func(*book) { d.s.conns.Add(1) }) {
		return nil, fmt.Errorf("%w: the node is stopping", ErrCut)
	}
	return d.s, d.err
}

// settle ends the dial d of k: s is ready, or err is why not.
func (p *pool) settle(k key, d *pending, s *session, err error) {
	d.s, d.err = s, err
	p.do(func(b *book) {
		delete(b.dials, k)
		if err == nil {
			b.ready[k] = s
			return
		}
		now := time.Now()
		for k, f := range b.failed {
			if now.After(f.until) {
				delete(b.failed, k)
			}
		}
		b.failed[k] = failure{err, now.Add(failedFor)}
	})
	close(d.done)
}

// add makes s visible to all; it is forgotten when it ends.
func (p *pool) add(s *session) bool {
	if !p.do(func(b *book) { b.live[s] = struct{}{} }) {
		return false
	}
	go func() {
		<-s.t.Done()
		p.do(func(b *book) { b.forget(s) })
	}()
	return true
}

func (b *book) forget(s *session) {
	delete(b.live, s)
	for k, r := range b.ready {
		if r == s {
			delete(b.ready, k)
		}
	}
}

// sessions returns the live tunnels for which pick is true.
func (p *pool) sessions(pick func(*session) bool) (all []*session) {
	p.do(func(b *book) {
		for s := range b.live {
			if pick(s) {
				all = append(all, s)
			}
		}
	})
	return all
}

// quiet is how long it takes until every tunnel has been unused for a time.
func (p *pool) quiet(now time.Time, unused time.Duration) (wait time.Duration) {
	for _, s := range p.sessions(func(*session) bool { return true }) {
		wait = max(wait, time.Unix(0, s.used.Load()).Add(unused).Sub(now))
	}
	return wait
}

// sweep forgets and returns the dialled tunnels that nobody uses or will use.
func (p *pool) sweep(now time.Time) (idle []*session) {
	p.do(func(b *book) {
		current := make(map[*session]bool, len(b.ready))
		for _, s := range b.ready {
			current[s] = true
		}
		for s := range b.live {
			unused := now.Sub(time.Unix(0, s.used.Load()))
			if s.out && s.conns.Load() == 0 && (unused > idleFor || !current[s] && unused > dialTimeout) {
				b.forget(s)
				idle = append(idle, s)
			}
		}
	})
	return idle
}
