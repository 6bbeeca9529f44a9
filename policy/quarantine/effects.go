package quarantine

import (
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// capWindow is the span in which a cap counts.
const capWindow = 10 * time.Minute

// Roster is what the caps are measured against.
type Roster struct {
	Attested   int // nodes with a TPM in the signed roster
	Unattested int // nodes without; they have a cap of their own

	// IsAttested says which kind an identity is. Nil: all are attested.
	IsAttested func(spiffeid.ID) bool
}

// Effects is what to do about an identity now. Release and revocation apart, it
// only ever grows with the facts.
type Effects struct {
	FreezeFeed  bool // take no further records of its feed; its last good state stays readable as suspect
	RefuseRelay bool // no gossip with it: accept nothing it relays, relay nothing to it
	RefuseIssue bool // issue and renew no credential
	CutSessions bool // close its connections and the tunnels of its workloads
	Capped      bool // CutSessions is due, but the cap is reached: keep sessions and ask the authority

	MinEpoch uint64 // records of its feed below this epoch stay frozen; 0: none
}

// String says what is done, in a line for an operator.
func (e Effects) String() string {
	var did []string
	if e.FreezeFeed {
		did = append(did, "its feed is frozen")
	}
	if e.RefuseRelay {
		did = append(did, "nothing it relays is taken")
	}
	if e.RefuseIssue {
		did = append(did, "it gets no credentials")
	}
	switch {
	case e.Capped:
		did = append(did, "its sessions are KEPT, because as many as may be were cut in the last 10 minutes")
	case e.CutSessions:
		did = append(did, "its sessions are cut")
	}
	if len(did) == 0 {
		return "nothing is kept from it"
	}
	return strings.Join(did, ", ")
}

// Capped returns whose sessions are kept only because the cap is reached, sorted. Where there is
// anybody, a fault in the software is as likely as so many guilty nodes: somebody has to look.
func (s *Set) Capped(now time.Time, roster Roster) (out []spiffeid.ID) {
	for _, c := range s.Cases(now) {
		if s.Effects(c.Accused, now, roster).Capped {
			out = append(out, c.Accused)
		}
	}
	return out
}

// Effects says what to do about an identity. On a proof freezing is immediate;
// without one all waits for the cap: a policy that no machine satisfies has all of them accused,
// and what this node alone finds wrong with many relays may be wrong with itself. Cutting is granted in the order in which this node learned of the cases, at most as many of
// the roster per 10 minutes as the thresholds say, and one in any case; a
// revocation is the authority's word and has no cap. The same set, thresholds,
// time and roster give the same answer, whoever asked before.
func (s *Set) Effects(id spiffeid.ID, now time.Time, roster Roster) Effects {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := s.standing(id, now)
	e := Effects{MinEpoch: st.MinEpoch}
	switch st.Standing {
	case OK, Watch, Released:
		return e
	case Held:
		if s.local[id].status(now).Standing != Held {
			return e // only this node's doubt: what ends it has to reach this node, by whom it may
		}
	}
	proven := s.facts[id].status(now).Standing >= Quarantined
	e.CutSessions = st.Standing == Revoked || !s.grant(id, now, roster, proven).After(now)
	e.Capped = !e.CutSessions
	e.RefuseRelay = proven || e.CutSessions
	if st.Standing != Held {
		e.FreezeFeed, e.RefuseIssue = e.RefuseRelay, e.RefuseRelay
	}
	return e
}

// Deadline returns the next time after now at which time alone changes a
// standing or an effect. ok is false when none does.
func (s *Set) Deadline(now time.Time, roster Roster) (next time.Time, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	offer := func(t time.Time) {
		if t.After(now) && (!ok || t.Before(next)) {
			next, ok = t, true
		}
	}
	for _, id := range s.known() {
		st := s.standing(id, now)
		if !st.Until.IsZero() {
			offer(st.Until)
		}
		if st.Standing == Held || st.Standing == Quarantined {
			offer(s.grant(id, now, roster, s.facts[id].status(now).Standing == Quarantined))
		}
		for _, of := range s.charges {
			if c, ok := of[id]; ok {
				offer(c.At)
				offer(c.At.Add(AccusationTerm)) // its accuser has a say again about another
				offer(c.Expires)
			}
		}
	}
	return next, ok
}

// candidate is one case that competes for being cut.
type candidate struct {
	id    spiffeid.ID
	since time.Time
}

// grant returns when the sessions of id may be cut. The n-th case in order of
// time waits until the window of the case that is a whole cap before it is over.
func (s *Set) grant(id spiffeid.ID, now time.Time, roster Roster, proven bool) time.Time {
	kind := roster.attested(id)
	var all []candidate
	if proven {
		for other, c := range s.facts {
			if st := c.status(now); st.Standing == Quarantined && roster.attested(other) == kind {
				all = append(all, candidate{other, st.Since})
			}
		}
	} else {
		for other, l := range s.local { // holds that ended count until the window is over
			if l.holds > 0 && now.Sub(l.held) < capWindow && roster.attested(other) == kind {
				all = append(all, candidate{other, l.held})
			}
		}
		for _, other := range s.accused() {
			if t := s.tally(other, now); t.Reached && !s.convicted(other) && roster.attested(other) == kind {
				all = slices.DeleteFunc(all, func(c candidate) bool { return c.id == other && c.since.After(t.Since) })
				all = append(all, candidate{other, t.Since})
			}
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		if d := a.since.Compare(b.since); d != 0 {
			return d
		}
		return compareID(a.id, b.id)
	})
	limit := roster.limit(kind, s.thresholds.share(proven))
	at := make([]time.Time, len(all))
	for i, c := range all {
		at[i] = c.since
		if i >= limit {
			if free := at[i-limit].Add(capWindow); free.After(at[i]) {
				at[i] = free
			}
		}
		if c.id == id {
			return at[i]
		}
	}
	return now.Add(capWindow) // not a candidate: nothing to cut
}

func (r Roster) attested(id spiffeid.ID) bool { return r.IsAttested == nil || r.IsAttested(id) }

func (r Roster) limit(attested bool, percent int) int {
	n := r.Unattested
	if attested {
		n = r.Attested
	}
	return max(1, n*percent/100)
}
