package app

import (
	"sync"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Of questions of neighbours that are refused before policy decides them, this many of a user are
// recorded each in a period. Of the rest there is one event, and a metric counts them: nobody
// fills the log of decisions with what it may not ask.
const (
	refusedEach   = 60
	refusedPeriod = time.Minute
)

// refusedUsers counts them by user.
type refusedUsers struct {
	mu sync.Mutex
	of map[int64]*refusedUser
}

type refusedUser struct {
	since time.Time
	n     int
	event policy.Decision // of those beyond refusedEach
}

// beyond counts one refusal, and reports whether it is one of those that are only counted. The
// decision is then the event for all of them in this period, which record made when the first came.
func (r *refusedUsers) beyond(uid int64, now time.Time, record func(until time.Time) policy.Decision) (policy.Decision, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.user(uid, now)
	if u.n++; u.n <= refusedEach {
		return policy.Decision{}, false
	}
	if u.n == refusedEach+1 {
		u.event = record(u.since.Add(refusedPeriod))
	}
	return u.event, true
}

// user is the row of a user, of this period. Users that find no room share that of the unknown.
func (r *refusedUsers) user(uid int64, now time.Time) *refusedUser {
	if r.of == nil {
		r.of = map[int64]*refusedUser{}
	}
	ended := func(u *refusedUser) bool { return now.Sub(u.since) >= refusedPeriod }
	if u, ok := r.of[uid]; ok {
		if ended(u) {
			*u = refusedUser{since: now}
		}
		return u
	}
	if len(r.of) >= maxAskers {
		for old, u := range r.of {
			if ended(u) {
				delete(r.of, old)
			}
		}
		if len(r.of) >= maxAskers && uid >= 0 {
			return r.user(-1, now)
		}
	}
	u := &refusedUser{since: now}
	r.of[uid] = u
	return u
}
