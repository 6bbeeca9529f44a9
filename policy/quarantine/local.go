package quarantine

import (
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Classes of local faults. They are against the relay that sent something, never
// against the origin named in it. The first group is held at once: no
// partial credit for a breach of protocol. The second may be an honest race and
// counts only in numbers.
const (
	BadSignature = "bad-signature"
	BodyMismatch = "body-mismatch"
	Malformed    = "malformed"
	Oversize     = "oversize"
	Flood        = "flood"

	Replay = "replay"
	Slow   = "slow"
)

const (
	watchTime = 10 * time.Minute // how long a hold is remembered after its end
	mildSpan  = time.Minute
	maxLocal  = 4096 // identities with local faults; the oldest is forgotten first
)

// local is what this node alone saw of one relay.
type local struct {
	class string    // of the last fault
	last  time.Time // of the last fault
	mild  int       // mild faults since mildFrom
	from  time.Time

	holds int       // holds without good behaviour in between
	held  time.Time // start of the last hold
	until time.Time // its end
}

// Fault notes that a relay broke the protocol towards this node. Faults are
// never shared. Class is one of the constants; any other is mild.
func (s *Set) Fault(now time.Time, relay spiffeid.ID, class string) Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.local[relay]
	if !ok {
		s.forget(now)
		l = &local{}
		s.local[relay] = l
	}
	l.fault(now, class, s.thresholds)
	return s.standing(relay, now)
}

func (l *local) fault(now time.Time, class string, t Thresholds) {
	if now.Sub(l.until) > watchTime {
		l.holds = 0
	}
	l.class, l.last = class, now
	switch class {
	case BadSignature, BodyMismatch, Malformed, Oversize, Flood:
	default:
		if now.Sub(l.from) > mildSpan {
			l.from, l.mild = now, 0
		}
		if l.mild++; l.mild < t.MildFaults {
			return
		}
	}
	l.mild = 0
	if now.Before(l.until) {
		return // what was under way when the hold began does not lengthen it
	}
	l.held = now
	l.until = now.Add(min(t.HoldMax, t.Hold<<min(l.holds, 16)))
	l.holds++
}

// Good notes that a relay behaved: its half-open try succeeded. It ends the
// watch, and the next hold is short again. During a hold it does nothing.
func (s *Set) Good(now time.Time, relay spiffeid.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, ok := s.local[relay]; ok && !now.Before(l.until) {
		delete(s.local, relay)
	}
}

func (l *local) status(now time.Time) Status {
	switch {
	case l == nil:
		return Status{}
	case now.Before(l.until):
		return Status{Standing: Held, Since: l.held, Until: l.until, Reason: fmt.Sprintf("%s, seen by this node only", l.class)}
	case l.holds > 0 && now.Before(l.until.Add(watchTime)):
		return Status{Standing: Watch, Since: l.until, Until: l.until.Add(watchTime), Reason: fmt.Sprintf("half-open after a hold for %s", l.class)}
	case now.Before(l.last.Add(mildSpan)):
		return Status{Standing: Watch, Since: l.from, Until: l.last.Add(mildSpan), Reason: fmt.Sprintf("%s, seen by this node only", l.class)}
	}
	return Status{}
}

// forget makes room for one more identity.
func (s *Set) forget(now time.Time) {
	if len(s.local) < maxLocal {
		return
	}
	var oldest spiffeid.ID
	var at time.Time
	for id, l := range s.local {
		if l.status(now).Standing == OK {
			delete(s.local, id)
		} else if at.IsZero() || l.last.Before(at) {
			oldest, at = id, l.last
		}
	}
	if len(s.local) >= maxLocal {
		delete(s.local, oldest)
	}
}
