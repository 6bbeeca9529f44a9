package quarantine

import (
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Standing is what this node makes of an identity. Greater is worse, except
// Released, which is no worse than Watch.
type Standing int

const (
	OK Standing = iota
	Released
	Watch
	Held
	Quarantined
	Revoked
)

var standingNames = [...]string{"ok", "released", "watch", "held", "quarantined", "revoked"}

// String returns the standing as status, logs and policy input spell it.
func (s Standing) String() string {
	if s < 0 || int(s) >= len(standingNames) {
		return fmt.Sprintf("standing(%d)", int(s))
	}
	return standingNames[s]
}

// Contained reports whether sessions and relays of such an identity are to be
// kept away: held, quarantined, revoked, and anything unknown.
func (s Standing) Contained() bool { return s >= Held || s < 0 }

// Status is a standing with its why.
type Status struct {
	Standing Standing
	Since    time.Time // when this node first had cause; zero for ok
	Until    time.Time // when it ends by itself; zero: it does not
	Findings int       // findings against the identity, answered ones too
	Reason   string    // one line for an operator; empty for ok
	MinEpoch uint64    // epochs of its feed below this stay frozen; 0: none
	Doubted  bool      // held only for what this node finds by itself and can prove to nobody: see Set.Doubt
}

// Standing computes the standing of an identity from the facts known now.
func (s *Set) Standing(id spiffeid.ID, now time.Time) Status {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.standing(id, now)
}

// Concerns reports whether anything is known of an identity: a fact, a fault, a doubt or an accusation.
// Of whom nothing is, the standing is OK, and Effects has none, whatever the thresholds and the roster.
func (s *Set) Concerns(id spiffeid.ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, doubted := s.doubts[id]; doubted || s.facts[id] != nil || s.local[id] != nil {
		return true
	}
	for _, of := range s.charges {
		if _, accused := of[id]; accused {
			return true
		}
	}
	return false
}

func (s *Set) standing(id spiffeid.ID, now time.Time) Status {
	st := s.facts[id].status(now)
	if st.Standing >= Quarantined {
		return st
	}
	l := s.local[id].status(now)
	if v := s.verdict(id, now); v.Standing > l.Standing {
		l = v
	}
	if l.Standing > st.Standing {
		l.Findings, l.MinEpoch = st.Findings, st.MinEpoch
		return l
	}
	return st
}

// status is the part of a standing that follows from shared facts alone.
func (c *facts) status(now time.Time) Status {
	if c == nil {
		return Status{}
	}
	st := Status{Findings: len(c.findings)}
	newest, released := c.newestRelease()
	if released {
		st.MinEpoch = newest.says.Epoch
	}
	if c.revocation != nil {
		st.Standing, st.Since = Revoked, c.revocation.firstSeen
		st.Reason = "revoked by the authority"
		if why := c.revocation.says.Reason; why != "" {
			st.Reason += ": " + why
		}
		return st
	}
	if first := c.firstOpen(); first != nil {
		st.Standing, st.Since = Quarantined, first.firstSeen
		st.Reason = fmt.Sprintf("%s, proof %x", first.Class, first.Digest[:8])
		return st
	}
	if !c.overflowAt.IsZero() {
		st.Standing, st.Since = Quarantined, c.overflowAt
		st.Reason = fmt.Sprintf("more than %d proofs; enrol the node under a new name", MaxFindings)
		return st
	}
	if released && now.Before(newest.says.Until) {
		st.Standing, st.Since, st.Until = Released, newest.firstSeen, newest.says.Until
		st.Reason = "on probation"
		if why := newest.says.Reason; why != "" {
			st.Reason += ": " + why
		}
	}
	return st
}

// firstOpen returns the finding first seen of those that no release covers.
func (c *facts) firstOpen() *finding {
	var first *finding
	for _, f := range c.findings {
		if c.covered(f) {
			continue
		}
		if first == nil || f.firstSeen.Before(first.firstSeen) ||
			f.firstSeen.Equal(first.firstSeen) && compareDigest(f.Digest, first.Digest) < 0 {
			first = f
		}
	}
	return first
}

// newestRelease is the one with the highest epoch, then the longest probation.
func (c *facts) newestRelease() (newest signed[Release], ok bool) {
	var newestKey [32]byte
	for key, r := range c.releases {
		a, b := r.says, newest.says
		if !ok || a.Epoch > b.Epoch || a.Epoch == b.Epoch && (a.Until.After(b.Until) ||
			a.Until.Equal(b.Until) && compareDigest(key, newestKey) < 0) {
			newest, newestKey, ok = r, key, true
		}
	}
	return newest, ok
}

func (c *facts) covered(f *finding) bool {
	for _, r := range c.releases {
		if f.Epoch != 0 && f.Epoch < r.says.Epoch {
			return true
		}
		for _, d := range r.says.Digests {
			if d == f.Digest {
				return true
			}
		}
	}
	return false
}
