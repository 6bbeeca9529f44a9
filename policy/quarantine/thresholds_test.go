package quarantine

import (
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestBounded(t *testing.T) {
	for _, tt := range []struct {
		in, want Thresholds
		moved    string
	}{
		{Thresholds{}, Defaults(), ""},
		{Thresholds{Hold: time.Minute, CapProven: 30}, Thresholds{time.Minute, 10 * time.Minute, 8, 10, 30, 45, 67, 3}, ""},
		{Thresholds{Cap: 100, CapProven: 100}, Thresholds{30 * time.Second, 10 * time.Minute, 8, 25, 49, 45, 67, 3}, "cap_percent is 25 instead of 100; cap_proven_percent is 49 instead of 100"},
		{Thresholds{Hold: time.Millisecond, HoldMax: time.Second, MildFaults: 1}, Thresholds{5 * time.Second, time.Minute, 2, 10, 25, 45, 67, 3}, "hold is 5s instead of 1ms; hold_max is 1m0s instead of 1s; mild_faults is 2 instead of 1"},
		{Thresholds{Hold: 4 * time.Minute, HoldMax: 2 * time.Minute}, Thresholds{4 * time.Minute, 4 * time.Minute, 8, 10, 25, 45, 67, 3}, "hold_max is 4m0s instead of 2m0s"},
		{Thresholds{Hold: -1, HoldMax: 1 << 62, MildFaults: -1, Cap: -1, CapProven: -1, Observers: -1, Quorum: 1000, Budget: -1}, Thresholds{5 * time.Second, 24 * time.Hour, 2, 1, 1, 5, 100, 1}, "hold is"},
	} {
		got, moved := tt.in.Bounded()
		if got != tt.want || !strings.HasPrefix(strings.Join(moved, "; "), tt.moved) || (tt.moved == "") != (len(moved) == 0) {
			t.Errorf("%+v: %+v, %q", tt.in, got, moved)
		}
	}
}

// What Use puts in force decides holds and caps, and nothing can be used that is out of bounds.
func TestUse(t *testing.T) {
	s := NewSet(td, Checks{})
	s.Use(Thresholds{Hold: 10 * time.Second, HoldMax: time.Minute, MildFaults: 2, Cap: 1000})
	now := time.Unix(1_790_000_000, 0)
	relay := spiffeid.RequireFromPath(td, "/node/r")
	for i, want := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute} {
		st := s.Fault(now, relay, Flood)
		if got := st.Until.Sub(now); st.Standing != Held || got != want {
			t.Errorf("hold %d: %s for %s, want %s", i, st.Standing, got, want)
		}
		now = st.Until
	}
	mild := spiffeid.RequireFromPath(td, "/node/m")
	if s.Fault(now, mild, Slow); s.Fault(now, mild, Slow).Standing != Held {
		t.Error("the second mild fault does not hold")
	}
	cut := 0
	for _, name := range strings.Split("abcdefghijklmnopqrst", "") {
		id := spiffeid.RequireFromPath(td, "/node/"+name)
		s.Fault(now, id, Flood)
		if s.Effects(id, now, Roster{Attested: 40}).CutSessions {
			cut++
		}
	}
	if cut > 10 { // two of them may be those above
		t.Errorf("%d of 40 cut without a proof, at most a quarter may be", cut)
	}
	if cut < 8 {
		t.Errorf("%d of 40 cut: the policy's cap is not in force", cut)
	}
}
