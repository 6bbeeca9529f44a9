package replica

import (
	"slices"
	"time"
)

// mayCompare reports whether to go down now into what differs from a peer's copy. Of far ones
// few are enough: what they tell, the near will fetch as well. They take turns, so that no one
// who says so all the time keeps others from being compared with.
func (r *Replica) mayCompare(s *session, theirs [32]byte, now time.Time) bool {
	if s.peer.near || r.near() == 0 {
		return true
	}
	s.root = theirs
	x := &r.crossings
	//bailiwick:check TestFarClaims/comparisons
	if !slices.ContainsFunc(x.waiting, func(other *session) bool { return other.peer == s.peer }) {
		x.waiting = append(x.waiting, s)
	}
	r.compareNext(now)
	return false
}

// compareNext compares with the far peers that come first, as many as may be now.
func (r *Replica) compareNext(now time.Time) {
	x := &r.crossings
	for len(x.waiting) > 0 {
		s := x.waiting[0]
		differs := r.sessions[s] && r.carriedWith(s.peer).tree.Hash("") != s.root
		if differs && (len(x.of) == 0 || now.Sub(s.told) >= compareBusy) {
			if !x.compares.AllowN(now, 1) {
				return
			}
			r.compare(s, s.root, now)
		}
		x.waiting = x.waiting[1:]
	}
}

// answered takes the time that a peer took to answer in a comparison.
func (r *Replica) answered(s *session, now time.Time) {
	if !s.compared.IsZero() && !s.peer.near {
		s.peer.round = max(s.peer.round, now.Sub(s.compared))
	}
	s.compared = time.Time{}
}
