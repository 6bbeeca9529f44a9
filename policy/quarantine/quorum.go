package quarantine

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// doubt is what this node itself finds of another and can prove to nobody.
type doubt struct {
	class, what string
	since       time.Time
}

// Doubt notes that this node itself finds an identity at fault, where nothing proves it to others:
// it is held here until Trust. What doubts say is told to others by accusations alone.
func (s *Set) Doubt(now time.Time, id spiffeid.ID, class, what string) Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.doubts[id]
	if !ok && len(s.doubts) >= MaxAccused {
		return s.standing(id, now)
	}
	if !ok {
		d.since = now
	}
	d.class, d.what = class, what
	s.doubts[id] = d
	s.rank(id)
	return s.standing(id, now)
}

// Trust ends a doubt.
func (s *Set) Trust(id spiffeid.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.doubts, id)
}

// Accuse takes in what an accuser says under its own key; the caller has verified that the accuser
// signed it. Of one pair the newest counts, whatever came first, and what has expired never does.
// added reports whether it says something new. Errors wrap ErrAccusation, ErrForeign or ErrFull.
func (s *Set) Accuse(now time.Time, accuser spiffeid.ID, raw []byte) (a Accusation, added bool, err error) {
	if a, err = ParseAccusation(raw); err != nil {
		return a, false, err
	}
	a.Accuser = accuser
	switch {
	case a.Accused.TrustDomain() != s.td || accuser.TrustDomain() != s.td:
		return a, false, fmt.Errorf("%w: %s accuses %s, this region is %s", ErrForeign, accuser, a.Accused, s.td)
	case a.Accused == accuser:
		return a, false, fmt.Errorf("%w: %s accuses itself", ErrAccusation, accuser)
	case a.At.After(now.Add(maxAhead)):
		return a, false, fmt.Errorf("%w: it is dated %s, and it is %s here", ErrAccusation, a.At, now.UTC())
	case !now.Before(a.Expires.Add(AccusationTerm)):
		return a, false, nil // long over: it changes nothing
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetCharges(now)
	of, known := s.charges[accuser]
	if !known {
		if len(s.charges) >= MaxAccused {
			return a, false, fmt.Errorf("%w: %d accusers, no room for %s", ErrFull, MaxAccused, accuser)
		}
		of = map[spiffeid.ID]charge{}
		s.charges[accuser] = of
	}
	if have, ok := of[a.Accused]; ok && (have.At.After(a.At) || have.At.Equal(a.At) && bytes.Compare(have.raw, raw) >= 0) {
		return a, false, nil
	}
	of[a.Accused] = charge{a, bytes.Clone(raw)}
	if len(of) > maxCharges {
		delete(of, slices.MaxFunc(slices.Collect(maps.Keys(of)), compareID))
	}
	s.rank(a.Accused)
	_, kept := of[a.Accused]
	return a, kept, nil
}

// charge is an accusation and its bytes.
type charge struct {
	Accusation
	raw []byte
}

// window is the time in which an accusation counts against its accuser's budget, in force or not.
func (c charge) inWindow(now time.Time) bool {
	return !now.Before(c.At) && now.Before(c.At.Add(AccusationTerm))
}

// forgetCharges drops what has long expired, and what an older message could no longer revive:
// whatever is older has expired too.
func (s *Set) forgetCharges(now time.Time) {
	for accuser, of := range s.charges {
		maps.DeleteFunc(of, func(_ spiffeid.ID, c charge) bool { return !now.Before(c.Expires.Add(AccusationTerm)) })
		if len(of) == 0 {
			delete(s.charges, accuser)
		}
	}
	maps.DeleteFunc(s.ranks, func(id spiffeid.ID, _ []Member) bool {
		if _, ok := s.doubts[id]; ok {
			return false
		}
		for _, of := range s.charges {
			if _, ok := of[id]; ok {
				return false
			}
		}
		return true
	})
}

// Charge is one accusation, and whether it counts.
type Charge struct {
	Accusation
	Counts bool
	Why    string // it does not; empty where it does
}

// Tally is how many of an identity's assigned observers accuse it now.
type Tally struct {
	Observers int // assigned
	Count     int // of them that accuse it, so that it counts
	Quorum    int // that make a quorum; 0: there are too few observers for one
	Reached   bool
	Since     time.Time // when what made the quorum was seen
	Until     time.Time // when the first of them ends that the quorum needs, if nobody renews it
	Class     string    // what most of them say
	Charges   []Charge  // all that is kept against the identity, by accuser
}

// Tally counts what observers say of an identity.
func (s *Set) Tally(id spiffeid.ID, now time.Time) Tally {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tally(id, now)
}

func (s *Set) tally(id spiffeid.ID, now time.Time) (t Tally) {
	seats := s.seats(id)
	t.Observers = len(seats)
	if len(seats) >= fewestObservers {
		t.Quorum = max(len(seats)/2+1, (len(seats)*s.thresholds.Quorum+99)/100)
	}
	assigned, domains, accusing := map[spiffeid.ID]string{}, map[string]bool{}, map[string]bool{}
	for _, m := range seats {
		assigned[m.ID] = m.Domain
		domains[m.Domain] = true
	}
	var from, to []time.Time
	classes := map[string]int{}
	for accuser, of := range s.charges {
		c, ok := of[id]
		if !ok {
			continue
		}
		domain, seated := assigned[accuser]
		why := s.discount(c, now)
		if why == "" && !seated {
			why = "the accuser is none of the assigned observers"
		}
		t.Charges = append(t.Charges, Charge{c.Accusation, why == "", why})
		if why == "" {
			t.Count++
			accusing[domain] = true
			from, to = append(from, c.Seen), append(to, c.Expires)
			classes[c.Class]++
		}
	}
	slices.SortFunc(t.Charges, func(a, b Charge) int { return compareID(a.Accuser, b.Accuser) })
	if t.Quorum == 0 || t.Count < t.Quorum || len(domains) > 1 && len(accusing) == 1 {
		return t
	}
	t.Reached = true
	slices.SortFunc(from, time.Time.Compare)
	slices.SortFunc(to, time.Time.Compare)
	t.Since, t.Until = from[t.Quorum-1], to[len(to)-t.Quorum]
	for class, n := range classes {
		if n > classes[t.Class] || n == classes[t.Class] && class < t.Class {
			t.Class = class
		}
	}
	return t
}

// discount says why an accusation does not count, whoever its accuser is; empty: it does.
func (s *Set) discount(c charge, now time.Time) string {
	switch {
	case c.Withdrawn():
		return "withdrawn"
	case !c.inForce(now):
		return "expired"
	case s.convicted(c.Accuser):
		return "the accuser is shut out itself"
	case s.answered(c.Accusation):
		return "answered by a release"
	}
	spent := 0 // by accusations of those before, so that all spend it on the same
	for accused, other := range s.charges[c.Accuser] {
		if compareID(accused, c.Accused) < 0 && other.inWindow(now) {
			spent++
		}
	}
	if spent >= s.thresholds.Budget {
		return fmt.Sprintf("the accuser accuses others too, and has a say about %d at a time", s.thresholds.Budget)
	}
	return ""
}

// answered reports whether the authority decided on what was seen.
func (s *Set) answered(a Accusation) bool {
	c := s.facts[a.Accused]
	if c == nil {
		return false
	}
	for _, r := range c.releases {
		if !a.Seen.After(r.says.At) {
			return true
		}
	}
	return false
}

// verdict is the standing of an identity by observers' words and this node's own doubt: ok where
// there is neither. s.mu is held.
func (s *Set) verdict(id spiffeid.ID, now time.Time) Status {
	if _, ok := s.ranks[id]; !ok {
		return Status{} // the way of almost all: nobody says anything
	}
	t := s.tally(id, now)
	if t.Reached {
		return Status{Standing: Quarantined, Since: t.Since, Until: t.Until,
			Reason: fmt.Sprintf("%s, by the word of %d of %d assigned observers (%d make a quorum)", t.Class, t.Count, t.Observers, t.Quorum)}
	}
	d, ok := s.doubts[id]
	if !ok {
		return Status{}
	}
	st := Status{Standing: Held, Since: d.since, Doubted: true, Reason: fmt.Sprintf("%s, seen by this node: %s", d.class, d.what)}
	if t.Quorum == 0 {
		st.Reason += fmt.Sprintf("; %d observers are too few for a quorum", t.Observers)
	} else {
		st.Reason += fmt.Sprintf("; %d of %d assigned observers accuse it, %d make a quorum", t.Count, t.Observers, t.Quorum)
	}
	return st
}
