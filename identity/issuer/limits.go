package issuer

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/time/rate"
)

const (
	attestRate     = 200 // attestations a second in all
	attestBurst    = 200 // and at once
	attestOpen     = 16  // under way from one address
	attestOpenAll  = 128 // under way at all
	attestQueue    = 1024
	attestQueueAll = 8192
	attestWait     = 20 * time.Second // longest wait for a turn
	attestTimeout  = 30 * time.Second // longest attestation after that
	maxAccounts    = 16 << 10
	maxMessage     = MaxEvidence + 64<<10 // bytes of one gRPC message

	// signRate is how many SVIDs one agent gets in a second, as in SPIRE, and
	// signBurst how many at once: a full batch of all it may ask for.
	signRate  = 500
	signBurst = 2000
)

// errBusy means it is not one's turn, and will not be soon.
var errBusy = errors.New("too many attestations: try again in a few seconds")

// limits shares out attestations, the one expensive thing a stranger may ask for.
// Addresses take turns, so that a storm from one of them, or from a whole region,
// delays everyone by the same little, and nobody who may come has to be configured.
// An IPv6 address counts with its /64: one machine has all of it.
type limits struct {
	mu       sync.Mutex // held for a few instructions; guards what follows
	accounts map[netip.Prefix]*account
	turns    []*account // those that have waiters, next first
	open     int
	waiting  int
	bucket   *rate.Limiter
	timer    *time.Timer // runs while waiters wait for the bucket
}

// account is one address.
type account struct {
	key     netip.Prefix
	open    int
	waiters []chan struct{} // closed when it is their turn
}

// begin waits for the turn of one attestation from addr, at most attestWait. The
// caller calls done when it is over. The error is errBusy or that of ctx.
func (l *limits) begin(ctx context.Context, addr netip.Addr) (done func(), err error) {
	bits := addr.Unmap().BitLen()
	if bits == 128 {
		bits = 64
	}
	key, _ := addr.Unmap().Prefix(bits) // an address that is none counts as one account
	a, turn, err := l.join(key)
	if err != nil {
		return nil, err
	}
	wait := time.NewTimer(attestWait)
	defer wait.Stop()
	select {
	case <-turn:
		return func() { l.leave(a) }, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-wait.C:
		err = errBusy
	}
	if !l.giveUp(a, turn) { // its turn came in the same moment
		l.leave(a)
	}
	return nil, err
}

func (l *limits) join(key netip.Prefix) (*account, chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.accounts == nil {
		l.accounts, l.bucket = map[netip.Prefix]*account{}, rate.NewLimiter(attestRate, attestBurst)
	}
	a := l.accounts[key]
	if l.waiting >= attestQueueAll || a == nil && len(l.accounts) >= maxAccounts || a != nil && len(a.waiters) >= attestQueue {
		return nil, nil, errBusy
	}
	if a == nil {
		a = &account{key: key}
		l.accounts[key] = a
	}
	turn := make(chan struct{})
	a.waiters = append(a.waiters, turn)
	l.waiting++
	if len(a.waiters) == 1 {
		l.turns = append(l.turns, a)
	}
	l.next()
	return a, turn, nil
}

// leave ends an attestation.
func (l *limits) leave(a *account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	a.open--
	l.next()
	l.forget(a)
}

// giveUp takes a waiter out, unless its turn has come.
func (l *limits) giveUp(a *account, turn chan struct{}) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(a.waiters, turn)
	if i < 0 {
		return false
	}
	a.waiters = slices.Delete(a.waiters, i, i+1)
	l.waiting--
	if len(a.waiters) == 0 {
		l.turns = slices.DeleteFunc(l.turns, func(x *account) bool { return x == a })
		l.forget(a)
	}
	return true
}

func (l *limits) forget(a *account) {
	if a.open == 0 && len(a.waiters) == 0 {
		delete(l.accounts, a.key)
	}
}

// next gives turns while there is room. The caller holds mu.
func (l *limits) next() {
	for skipped := 0; l.open < attestOpenAll && skipped < len(l.turns); {
		a := l.turns[0]
		l.turns = l.turns[1:]
		if a.open >= attestOpen {
			l.turns = append(l.turns, a)
			skipped++
			continue
		}
		if !l.bucket.Allow() {
			l.turns = slices.Insert(l.turns, 0, a)
			if l.timer == nil {
				l.timer = time.AfterFunc(time.Second/attestRate, func() {
					l.mu.Lock()
					defer l.mu.Unlock()
					l.timer = nil
					l.next()
				})
			}
			return
		}
		close(a.waiters[0])
		a.waiters = a.waiters[1:]
		l.waiting--
		l.open++
		a.open++
		skipped = 0
		if len(a.waiters) > 0 {
			l.turns = append(l.turns, a)
		}
	}
}

// shares bounds what one agent may have signed. Agents are verified, so there are
// no more of them than machines that attested.
type shares struct {
	mu  sync.Mutex // held for map accesses only
	of  map[spiffeid.ID]*rate.Limiter
	max rate.Limit // 0: signRate
}

// take reports whether an agent may have n more signed now.
func (s *shares) take(agent spiffeid.ID, n int, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.max < 0 {
		return true
	}
	b := s.of[agent]
	if b == nil {
		if s.of == nil {
			s.of = map[spiffeid.ID]*rate.Limiter{}
		}
		limit := s.max
		if limit == 0 {
			limit = signRate
		}
		b = rate.NewLimiter(limit, max(signBurst, int(limit)))
		s.of[agent] = b
	}
	return b.AllowN(now, n)
}

// tidy forgets agents whose share is whole again.
func (s *shares) tidy(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, b := range s.of {
		if b.TokensAt(now) >= float64(b.Burst()) {
			delete(s.of, id)
		}
	}
}
