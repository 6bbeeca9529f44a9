package app

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

const (
	leaseBucket = "app/lease"
	leaseEvery  = time.Second
	settleEvery = 20 * time.Millisecond
	settleFor   = 10 * time.Second
	leaseSave   = 30 * time.Second // how much of the lease a crash may give back
)

var contactKey = []byte("contact") // u64: Unix milliseconds of the last contact

// lease counts how long this node has not heard from its region's authority.
// Contact is a live, authenticated link to the authority's node or, in a region too
// large for a link to everybody, the newest record of its own that has come: that is
// signed, says when it was written, and is never older than half of recordTTL while
// nothing is cut. The boot clock
// counts beside the wall clock, so that setting the latter back lengthens nothing.
// The authority's own node, which is the issuer's too, is always in contact: what
// the degraded modes say of renewal and publishing holds there by itself.
type lease struct {
	st        *store.Store
	dir       *directory
	self      spiffeid.ID
	contacted func(spiffeid.ID) time.Time   // when a node was last in contact; zero: never
	onMode    func(from, to authority.Mode) // hears of every change

	inReach atomic.Bool // as of the last look

	mu      sync.RWMutex // held for assignments
	contact time.Time
	current time.Duration // how old the contact may be to be called a present one
	boot    time.Duration // CLOCK_BOOTTIME at the last contact of this run
	saved   time.Time
}

func newLease(st *store.Store, dir *directory, self spiffeid.ID) *lease {
	l := &lease{st: st, dir: dir, self: self, boot: bootTime(),
		contacted: func(spiffeid.ID) time.Time { return time.Time{} }, onMode: func(authority.Mode, authority.Mode) {}}
	_ = st.View(func(tx *store.Tx) error { // a store that cannot be read fails where it matters
		if b := tx.Get(leaseBucket, contactKey); len(b) == 8 {
			l.contact = time.UnixMilli(int64(binary.BigEndian.Uint64(b)))
		}
		return nil
	})
	return l
}

func bootTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// master is the node that is master of record for the region, zero while its
// authority record has not come.
func (l *lease) master() spiffeid.ID {
	td := l.self.TrustDomain()
	return l.dir.book(td).Record(l.dir.region(td)).Master
}

// settled returns when the region's authority record is known here, without which all is denied,
// or after settleFor, where it has not come by then; false when ctx ends.
func (l *lease) settled(ctx context.Context) bool {
	late, tick := time.NewTimer(settleFor), time.NewTicker(settleEvery)
	defer late.Stop()
	defer tick.Stop()
	for l.master().IsZero() {
		select {
		case <-ctx.Done():
			return false
		case <-late.C:
			return true
		case <-tick.C:
		}
	}
	return true
}

func (l *lease) run(ctx context.Context) error {
	tick := time.NewTicker(leaseEvery)
	defer tick.Stop()
	started, _, _ := l.status(time.Now())
	before := started.Mode
	for {
		if m := l.master(); !m.IsZero() {
			now := time.Now()
			at := now
			if m != l.self {
				at = l.contacted(m)
			}
			if err := l.heard(at, now); err != nil {
				return err
			}
		}
		status, _, fresh := l.status(time.Now())
		l.inReach.Store(fresh)
		if status.Mode != before {
			l.onMode(before, status.Mode)
			before = status.Mode
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// heard takes a contact, if it is later than the last, or that was kept while the clock was
// ahead. The zero time is none: a clock that is set back while the authority is away makes the last
// contact neither older nor younger.
func (l *lease) heard(at, now time.Time) error {
	if at.IsZero() {
		return nil
	}
	l.mu.Lock()
	if at.After(now) {
		at = now // by a clock that is ahead
	}
	if !at.After(l.contact) && !l.contact.After(now) {
		l.mu.Unlock()
		return nil
	}
	if l.current = 3 * leaseEvery; at.Before(now) {
		l.current = recordTTL
	}
	l.contact, l.boot = at, bootTime()-now.Sub(at)
	save := at.Sub(l.saved) >= leaseSave || l.saved.After(now)
	if save {
		l.saved = at
	}
	l.mu.Unlock()
	if !save {
		return nil
	}
	return l.st.Update(func(tx *store.Tx) error {
		return tx.Put(leaseBucket, contactKey, binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli())))
	})
}

// status resolves the lease now.
func (l *lease) status(now time.Time) (authority.LeaseStatus, authority.Record, bool) {
	l.mu.RLock()
	state := authority.LeaseState{LastContact: l.contact, Elapsed: max(0, bootTime()-l.boot)}
	fresh := !l.contact.IsZero() && l.gone(now) < l.current
	l.mu.RUnlock()
	td := l.self.TrustDomain()
	state.Record = l.dir.book(td).Record(l.dir.region(td))
	return authority.Lease(state, now), state.Record, fresh
}

// isolated reports whether the region's authority was out of reach when it was last looked.
func (l *lease) isolated() bool { return !l.inReach.Load() }

// isolated is that of the lease, once there is one.
func (a *App) isolated() bool { return a.lease == nil || a.lease.isolated() }

// quiet is how long the region's authority was not heard; since this process started where it
// never was. Setting the wall clock back does not shorten it.
func (l *lease) quiet(now time.Time) time.Duration {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.gone(now)
}

// gone is quiet; l.mu is held.
func (l *lease) gone(now time.Time) time.Duration {
	gone := max(0, bootTime()-l.boot)
	if !l.contact.IsZero() {
		gone = max(gone, now.Sub(l.contact))
	}
	return gone
}

// contacted is when a node of the region was last in contact with this one.
func (a *App) contacted(id spiffeid.ID) time.Time {
	if _, live := a.link.Conn(id); live {
		return time.Now()
	}
	if !a.peering.sparse() {
		return time.Time{}
	}
	at, _ := a.dir.heard(a.replica, id)
	return at
}
