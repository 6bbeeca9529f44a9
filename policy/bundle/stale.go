package bundle

import "time"

// Staleness is how a record stands towards its MaxStaleness.
type Staleness struct {
	Bounded bool
	Left    time.Duration // until Mode applies; 0 once it does. Of no meaning without a bound
	Mode    string        // of the record: StaleContinue, StaleFreeze or StaleDenyNew
}

// Over reports whether the level has been without news for too long.
func (s Staleness) Over() bool { return s.Bounded && s.Left == 0 }

// Applies is what policy.Level.Stale is to be.
func (s Staleness) Applies() string {
	if !s.Over() || s.Mode == StaleContinue {
		return ""
	}
	return s.Mode // named as in package policy
}

// Staleness resolves how long the level may go on, quiet being how long there was no news of it.
func (r *Record) Staleness(quiet time.Duration) Staleness {
	s := Staleness{Bounded: r.MaxStaleness > 0, Mode: r.StaleMode}
	if s.Bounded {
		most := time.Duration(min(r.MaxStaleness, int64(MaxDelegation/time.Second))) * time.Second
		s.Left = min(max(0, most-quiet), most)
	}
	return s
}
