package identity

import (
	"hash/fnv"
	"time"
)

// Renewal says when a credential is to be renewed. It is pure: the caller
// holds the timer. The zero value is due at once.
//
// A credential is due at half of its life, give or take a tenth of its life,
// so that a fleet started together does not renew together. After a failure
// the caller waits as Retry says. Neither ever names a time after NotAfter
// while the credential is valid: the last attempt falls on the expiry itself.
type Renewal struct {
	NotBefore, NotAfter time.Time
	// Seed spreads renewals; any value that differs between nodes will do. The
	// same seed and validity give the same times.
	Seed uint64
}

const (
	firstRetry = time.Second
	lastRetry  = 2 * time.Minute
)

// Due returns when to renew for the first time.
func (r Renewal) Due() time.Time {
	life := r.NotAfter.Sub(r.NotBefore)
	if life <= 0 {
		return r.NotAfter
	}
	return r.NotBefore.Add(life/2 + spread(r.Seed, uint64(r.NotBefore.UnixNano()), life/10))
}

// Retry returns when to try again after the failures-th failure in a row (1 is
// the first), which happened at now: one second, doubling to two minutes, a
// quarter either way. After the expiry it goes on in the same steps: there is
// then nothing left to lose, and nothing to extend.
func (r Renewal) Retry(now time.Time, failures int) time.Time {
	wait := lastRetry
	if n := max(failures, 1) - 1; n < 7 {
		wait = min(firstRetry<<n, lastRetry)
	}
	at := now.Add(wait + spread(r.Seed, uint64(failures), wait/4))
	if now.Before(r.NotAfter) && at.After(r.NotAfter) {
		return r.NotAfter
	}
	return at
}

// Expired reports whether the credential is no longer valid at now.
func (r Renewal) Expired(now time.Time) bool { return !now.Before(r.NotAfter) }

// spread returns a duration in [-width, width) that depends only on its
// arguments.
func spread(seed, salt uint64, width time.Duration) time.Duration {
	if width <= 0 {
		return 0
	}
	h := fnv.New64a()
	for _, v := range [2]uint64{seed, salt} {
		for i := range 8 {
			h.Write([]byte{byte(v >> (8 * i))})
		}
	}
	return time.Duration(h.Sum64()%uint64(2*width)) - width
}
