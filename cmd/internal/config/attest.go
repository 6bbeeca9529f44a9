package config

import (
	"fmt"
	"time"
)

// Attest says how often this node proves anew what its machine runs, and looks at
// the proofs of others.
type Attest struct {
	// Interval is the time between two quotes. A peer that stays connected and shows no
	// new evidence for 2.5 intervals is no longer taken for attested, so give all nodes of
	// a region the same. 1s to 24h; 0 never quotes and expects none. On the region's
	// authority it is also the time between two beacons, which are the checkpoints of the
	// region's state too, and come every minute at the latest. Default 60s.
	Interval Interval `yaml:"interval"`
}

// Never is the Interval that is written 0.
const Never = Interval(-1)

const (
	defaultInterval = Interval(time.Minute)
	leastInterval   = time.Second
	mostInterval    = 24 * time.Hour
)

// Interval is a duration that may be written 0 for never; its zero value is one
// that was not set.
type Interval time.Duration

// UnmarshalText reads a duration, or 0.
func (i *Interval) UnmarshalText(b []byte) error {
	d, err := time.ParseDuration(string(b))
	switch {
	case err != nil || d < 0 || d > 0 && d < leastInterval || d > mostInterval:
		return fmt.Errorf("want %s to %s, like 60s, or 0 for never", leastInterval, mostInterval)
	case d == 0:
		*i = Never
	default:
		*i = Interval(d)
	}
	return nil
}

// Every returns the duration, zero for never.
func (i Interval) Every() time.Duration { return max(0, time.Duration(i)) }
