package identity

import (
	"hash/fnv"
	"time"
)

// Renewal says when a credential is to be renewed. It is pure: the caller
// holds the timer. The zero value is due at once.
//
// A credential is due at half of its life, give or take a tenth of its life,
// so that a fleet started together does not renew together. Its life begins when it was
// got, where that is known: issuers date NotBefore back for clocks that are behind (SPIRE
// and ours ten seconds), and counted from there a credential of seconds would be due
// as soon as it is issued, as one of hours would by a clock that is ahead. After a failure
// the caller waits as Retry says. While more than half of such a wait is left before
// NotAfter, there is another attempt before it: in the second half of what is left, and
// not on the expiry itself, where a fleet whose credentials end together would meet.
type Renewal struct {
	NotBefore, NotAfter time.Time
	// Got is when it came, by the clock that Due is compared with; zero: not known.
	Got time.Time
	// Seed spreads renewals; any value that differs between nodes will do. The
	// same seed and validity give the same times.
	Seed uint64
}

const (
	firstRetry = time.Second
	lastRetry  = 2 * time.Minute
)

// Due returns when to renew for the first time: where Got is known, never within a second
// of it, however little life is left.
func (r Renewal) Due() time.Time {
	from := r.NotBefore
	if r.Got.After(from) {
		from = r.Got
	}
	due := r.NotAfter
	if life := r.NotAfter.Sub(from); life > 0 {
		due = from.Add(life/2 + spread(r.Seed, uint64(r.NotBefore.UnixNano()), life/10))
	}
	if soonest := r.Got.Add(firstRetry); !r.Got.IsZero() && due.Before(soonest) {
		return soonest
	}
	return due
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
	//bailiwick:check TestExpiryRetryStorm/renewals instead if now.Before(r.NotAfter) && at.After(r.NotAfter) { return r.NotAfter }
	if left := r.NotAfter.Sub(now); at.After(r.NotAfter) && left > wait/2 {
		return r.NotAfter.Add(-left/4 + spread(r.Seed, uint64(failures), left/4))
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
