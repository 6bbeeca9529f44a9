package quarantine

import (
	"fmt"
	"time"
)

// Thresholds are the numbers of containment that a region's policy may choose. A
// field at zero is the default's.
type Thresholds struct {
	Hold       time.Duration // the first hold for a local fault; doubled each time
	HoldMax    time.Duration // the longest
	MildFaults int           // mild faults within a minute that make a hold
	Cap        int           // percent of the roster whose sessions may be cut per 10 minutes without a proof
	CapProven  int           // the same with a proof
	Observers  int           // assigned observers of each identity
	Quorum     int           // percent of them that make a quorum; never fewer than a majority
	Budget     int           // identities that one accuser has a say about at a time
}

// Defaults are in force until Use.
func Defaults() Thresholds {
	return Thresholds{
		Hold: 30 * time.Second, HoldMax: 10 * time.Minute, MildFaults: 8, Cap: 10, CapProven: 25,
		Observers: 45, Quorum: 67, Budget: 3,
	}
}

// Bounds that no policy moves: a relay at fault is kept away for a while, and back
// within the day; and a fault in the software, which looks like many guilty nodes,
// never cuts off half a region.
var least, most = Thresholds{
	Hold: 5 * time.Second, HoldMax: time.Minute, MildFaults: 2, Cap: 1, CapProven: 1,
	Observers: fewestObservers, Quorum: 51, Budget: 1,
}, Thresholds{
	Hold: 5 * time.Minute, HoldMax: 24 * time.Hour, MildFaults: 1000, Cap: 25, CapProven: 49,
	Observers: 101, Quorum: 100, Budget: maxCharges,
}

// Bounded returns t with defaults for what is zero and everything within the bounds,
// and says what it had to move.
func (t Thresholds) Bounded() (Thresholds, []string) {
	var moved []string
	bound(&moved, "hold", &t.Hold, Defaults().Hold, least.Hold, most.Hold)
	bound(&moved, "hold_max", &t.HoldMax, Defaults().HoldMax, max(least.HoldMax, t.Hold), most.HoldMax)
	bound(&moved, "mild_faults", &t.MildFaults, Defaults().MildFaults, least.MildFaults, most.MildFaults)
	bound(&moved, "cap_percent", &t.Cap, Defaults().Cap, least.Cap, most.Cap)
	bound(&moved, "cap_proven_percent", &t.CapProven, Defaults().CapProven, least.CapProven, most.CapProven)
	bound(&moved, "observers", &t.Observers, Defaults().Observers, least.Observers, most.Observers)
	bound(&moved, "quorum_percent", &t.Quorum, Defaults().Quorum, least.Quorum, most.Quorum)
	bound(&moved, "accusations", &t.Budget, Defaults().Budget, least.Budget, most.Budget)
	return t, moved
}

func bound[N int | time.Duration](moved *[]string, name string, v *N, otherwise, least, most N) {
	if *v == 0 {
		*v = otherwise
	}
	if within := min(max(*v, least), most); within != *v {
		*moved = append(*moved, fmt.Sprintf("%s is %v instead of %v", name, within, *v))
		*v = within
	}
}

// Use puts thresholds in force, within their bounds. Holds that run keep their ends.
func (s *Set) Use(t Thresholds) {
	t, _ = t.Bounded()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.thresholds = t
}

// Thresholds returns what is in force.
func (s *Set) Thresholds() Thresholds {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.thresholds
}

// share is the percentage of a roster that may be cut.
func (t Thresholds) share(proven bool) int {
	if proven {
		return t.CapProven
	}
	return t.Cap
}
