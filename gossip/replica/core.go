package replica

import (
	"context"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// Core is a replica that is driven by calls, where Replica is by goroutines, timers
// and streams: for simulators. The same calls at the same times of Config.Now, with
// the same Config.Rand, give the same frames.
//
// The driver owes it Flush after calls that may have changed something, of any
// number at once; Tick every TickEvery and Lazy every LazyEvery; and Flush at the time
// that Due tells. Frames wait in the Links. A Core is not safe for concurrent use.
type Core struct{ r *Replica }

// How often a driver calls Tick and Lazy.
const (
	TickEvery = tick
	LazyEvery = lazyEvery
)

// NewCore reads the replica back from its disk; Config.Store is not used. The On
// callbacks of Config are called at the end of Flush, and may call the Core. Errors
// are Open's.
func NewCore(cfg Config, disk Disk) (*Core, error) {
	r, err := open(cfg, disk)
	if err != nil {
		return nil, err
	}
	if err := r.begin(); err != nil {
		return nil, err
	}
	return &Core{r}, nil
}

// SetIdentity is Replica's.
func (c *Core) SetIdentity(id Identity) error { return c.r.setIdentity(id) }

// Put writes ops of own keys as part of one record and tells the outcome in a later
// Flush, or of what can never be written at once. Errors are those of Replica.Put.
func (c *Core) Put(told func(Receipt, error), ops ...feed.Op) {
	if err := feed.CheckOps(c.r.cfg.Self, c.r.cfg.Kinds, ops); err != nil {
		told(Receipt{}, err)
		return
	}
	c.r.backlog = append(c.r.backlog, &request{ctx: context.Background(), ops: ops, tell: told})
}

// Tick does what time brings: roots, wants that stalled, parked records, the lease.
func (c *Core) Tick() { c.r.onTick(c.r.cfg.Now()) }

// Lazy tells some outside of the mesh of heads that moved.
func (c *Core) Lazy() { c.r.tellLazily() }

// Flush signs what the node may write and makes everything since the last Flush
// durable. An error is final.
func (c *Core) Flush() error {
	if err := c.r.flush(c.r.cfg.Now()); err != nil {
		return err
	}
	c.r.notices.call()
	return nil
}

// Due returns how long own writes have to wait for the node's bucket, or feeds that are
// left to others to fetch, and whether any wait for that or for Flush.
func (c *Core) Due() (wait time.Duration, waits bool) { return c.r.dueIn(c.r.cfg.Now()) }

// Dirty reports whether Flush has something to make durable or to answer now.
func (c *Core) Dirty() bool {
	r := c.r
	if len(r.writes)+len(r.leaves)+len(r.counted)+len(r.after)+len(r.rebuild) > 0 || len(r.unsaid) > 0 && r.mayWrite() == nil {
		return true
	}
	if wait, left := r.crossWait(r.cfg.Now()); left && wait == 0 {
		return true
	}
	wait, waits := r.writable(r.cfg.Now())
	return len(r.backlog) > 0 && !(waits && wait > 0)
}

// Checked returns how many records' signatures were verified so far.
func (c *Core) Checked() uint64 { return c.r.checked }

// Convicted returns the class of a finding against an origin; empty: there is none.
func (c *Core) Convicted(origin spiffeid.ID) string {
	for _, f := range c.r.known() {
		if f.Accused == origin {
			return f.Class
		}
	}
	return ""
}

// Frontier returns the heads held of all feeds.
func (c *Core) Frontier() feed.Frontier { return c.r.heads() }

// Debt is Replica's.
func (c *Core) Debt() Debt { return c.r.debt(c.r.cfg.Now()) }

// Get is Replica's.
func (c *Core) Get(key string) (Entry, bool) { return c.r.Get(key) }

// Held reports whether an origin is held.
func (c *Core) Held(origin spiffeid.ID) bool { return c.r.holds[origin].Held }

// Link is one session of a Core.
type Link struct {
	r *Replica
	s *session
}

// Connect begins a session with an authenticated peer. ended hears once or more that
// it has to be closed and why: ErrRelay or ErrSlow. It must not call the Core.
func (c *Core) Connect(peer spiffeid.ID, ended func(error)) *Link {
	l := &Link{c.r, newSession(ended)}
	c.r.attach(peer, l.s, c.r.cfg.Now())
	return l
}

// Receive takes one frame from the peer, and keeps it. Errors wrap ErrRelay: close
// the link.
func (l *Link) Receive(frame []byte) error {
	if len(frame) < frameHead {
		return fmt.Errorf("%w: %w: %d bytes", ErrRelay, errFrame, len(frame))
	}
	t, n, err := parseHead([frameHead]byte(frame))
	if err == nil && n != len(frame)-frameHead {
		err = fmt.Errorf("%w: %d bytes instead of %d", errFrame, len(frame)-frameHead, n)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRelay, err)
	}
	l.r.receive(l.s, t, frame[frameHead:], l.r.cfg.Now())
	return nil
}

// Idle reports whether no frame waits.
func (l *Link) Idle() bool { return l.s.out.empty() }

// Next takes the most urgent frame that waits for the peer; nil when none does, or when
// the budget of Config.Terms is spent.
func (l *Link) Next() []byte {
	b, _ := l.s.out.take(urgent, rest, nil, 1, l.r.cfg.Now())
	return b
}

// Wait takes one frame from the bucket of what the peer may send, and returns how long
// to read nothing from it.
func (l *Link) Wait() time.Duration {
	now := l.r.cfg.Now()
	return l.s.bucket.ReserveN(now, 1).DelayFrom(now)
}

// Close ends the session: because it was lost, or in good order, when a side does not want
// it any more.
func (l *Link) Close(parted bool) { l.r.detach(l.s, parted, l.r.cfg.Now()) }
