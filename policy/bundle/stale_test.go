package bundle

import (
	"math"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

func TestStaleness(t *testing.T) {
	for _, tt := range []struct {
		name  string
		max   int64
		mode  string
		quiet time.Duration
		left  time.Duration
		want  string
		over  bool
	}{
		{"no bound", 0, StaleDenyNew, 1000 * time.Hour, 0, "", false},
		{"news a moment ago", 60, StaleFreeze, time.Second, 59 * time.Second, "", false},
		{"just before", 60, StaleFreeze, time.Minute - 1, 1, "", false},
		{"at the bound", 60, StaleFreeze, time.Minute, 0, policy.Freeze, true},
		{"deny_new", 60, StaleDenyNew, time.Hour, 0, policy.DenyNew, true},
		{"continue", 60, StaleContinue, time.Hour, 0, "", true},
		{"a clock set back", 60, StaleFreeze, -time.Hour, time.Minute, "", false},
		{"a bound beyond all", math.MaxInt64, StaleFreeze, time.Hour, MaxDelegation - time.Hour, "", false},
	} {
		r := &Record{MaxStaleness: tt.max, StaleMode: tt.mode}
		if s := r.Staleness(tt.quiet); s.Left != tt.left || s.Applies() != tt.want || s.Over() != tt.over || s.Bounded != (tt.max > 0) {
			t.Errorf("%s: %+v applies %q", tt.name, s, s.Applies())
		}
	}
}
