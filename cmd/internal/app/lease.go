package app

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

const (
	leaseBucket = "app/lease"
	leaseEvery  = time.Second
	leaseSave   = 30 * time.Second // how much of the lease a crash may give back
)

var contactKey = []byte("contact") // u64: Unix milliseconds of the last contact

// lease counts how long this node has not heard from its region's authority.
// Contact is a live, authenticated link to the authority's node. The boot clock
// counts beside the wall clock, so that setting the latter back lengthens nothing.
// The authority's own node, which is the issuer's too, is always in contact: what
// the degraded modes say of renewal and publishing holds there by itself.
type lease struct {
	st        *store.Store
	dir       *directory
	self      spiffeid.ID
	connected func(spiffeid.ID) bool
	onMode    func(from, to authority.Mode) // hears of every change

	mu      sync.RWMutex // held for assignments
	contact time.Time
	boot    time.Duration // CLOCK_BOOTTIME at the last contact of this run
	saved   time.Time
}

func newLease(st *store.Store, dir *directory, self spiffeid.ID) *lease {
	l := &lease{st: st, dir: dir, self: self, boot: bootTime(),
		connected: func(spiffeid.ID) bool { return false }, onMode: func(authority.Mode, authority.Mode) {}}
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

func (l *lease) run(ctx context.Context) error {
	tick := time.NewTicker(leaseEvery)
	defer tick.Stop()
	started, _, _ := l.status(time.Now())
	before := started.Mode
	for {
		if m := l.master(); !m.IsZero() && (m == l.self || l.connected(m)) {
			if err := l.heard(time.Now()); err != nil {
				return err
			}
		}
		if status, _, _ := l.status(time.Now()); status.Mode != before {
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

func (l *lease) heard(now time.Time) error {
	l.mu.Lock()
	l.contact, l.boot = now, bootTime()
	save := now.Sub(l.saved) >= leaseSave
	if save {
		l.saved = now
	}
	l.mu.Unlock()
	if !save {
		return nil
	}
	return l.st.Update(func(tx *store.Tx) error {
		return tx.Put(leaseBucket, contactKey, binary.BigEndian.AppendUint64(nil, uint64(now.UnixMilli())))
	})
}

// status resolves the lease now.
func (l *lease) status(now time.Time) (authority.LeaseStatus, authority.Record, bool) {
	l.mu.RLock()
	state := authority.LeaseState{LastContact: l.contact, Elapsed: max(0, bootTime()-l.boot)}
	l.mu.RUnlock()
	td := l.self.TrustDomain()
	state.Record = l.dir.book(td).Record(l.dir.region(td))
	fresh := !state.LastContact.IsZero() && now.Sub(state.LastContact) < 3*leaseEvery
	return authority.Lease(state, now), state.Record, fresh
}
