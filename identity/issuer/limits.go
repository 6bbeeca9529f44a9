package issuer

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	attestRate     = 5  // attestations a second from one address
	attestBurst    = 20 // and at once
	attestOpen     = 16 // under way from one address
	attestOpenAll  = 64 // under way at all
	attestTimeout  = 30 * time.Second
	maxAccounts    = 4096
	accountForgets = time.Minute
	maxMessage     = MaxEvidence + 64<<10 // bytes of one gRPC message
)

// limits bounds attestations, the one expensive thing a stranger may ask for.
// An IPv6 address counts with its /64: one machine has all of it.
type limits struct {
	mu       sync.Mutex // held for map accesses only
	accounts map[netip.Prefix]*account
	open     int
}

type account struct {
	bucket *rate.Limiter
	open   int
	seen   time.Time
}

// begin admits one attestation from addr, or says no. The caller calls done
// when it is over.
func (l *limits) begin(addr netip.Addr, now time.Time) (done func(), ok bool) {
	bits := addr.Unmap().BitLen()
	if bits == 128 {
		bits = 64
	}
	key, _ := addr.Unmap().Prefix(bits) // an address that is none counts as one account
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[key]
	if a == nil {
		if len(l.accounts) >= maxAccounts && !l.forget(now) {
			return nil, false
		}
		if l.accounts == nil {
			l.accounts = map[netip.Prefix]*account{}
		}
		a = &account{bucket: rate.NewLimiter(attestRate, attestBurst)}
		l.accounts[key] = a
	}
	a.seen = now
	if l.open >= attestOpenAll || a.open >= attestOpen || !a.bucket.AllowN(now, 1) {
		return nil, false
	}
	l.open++
	a.open++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.open--
		a.open--
	}, true
}

// forget drops idle accounts and reports whether there is room again.
func (l *limits) forget(now time.Time) bool {
	for k, a := range l.accounts {
		if a.open == 0 && now.Sub(a.seen) > accountForgets {
			delete(l.accounts, k)
		}
	}
	return len(l.accounts) < maxAccounts
}
