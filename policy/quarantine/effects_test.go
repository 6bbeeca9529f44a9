package quarantine

import (
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestProofFreezesBeyondTheCap(t *testing.T) {
	s := NewSet(td, plainChecks())
	roster := Roster{Attested: 8} // cap 2 per 10 minutes
	var ids []spiffeid.ID
	for i := range byte(6) {
		name := string('a' + rune(i))
		ids = append(ids, node(name))
		mustAdd(t, s, t0.Add(time.Duration(i)*time.Second), evidence(name, i+1, 1))
	}
	cut := func(at time.Time) (n int) {
		for _, id := range ids {
			e := s.Effects(id, at, roster)
			if !e.FreezeFeed || !e.RefuseRelay || !e.RefuseIssue {
				t.Fatalf("%s at %s: not frozen: %+v", id, at, e)
			}
			if e.CutSessions == e.Capped {
				t.Fatalf("%s: %+v", id, e)
			}
			if e.CutSessions {
				n++
			}
		}
		return n
	}
	for _, tt := range []struct {
		at   time.Duration
		want int
	}{{10 * time.Second, 2}, {599 * time.Second, 2}, {601 * time.Second, 4}, {1201 * time.Second, 6}} {
		if got := cut(t0.Add(tt.at)); got != tt.want {
			t.Errorf("at +%s: %d cut, want %d", tt.at, got, tt.want)
		}
	}
	if kept := s.Capped(t0.Add(10*time.Second), roster); len(kept) != 4 || kept[0] != ids[2] {
		t.Errorf("kept %v, want all but the first two", kept)
	}
	for id, want := range map[spiffeid.ID]string{
		ids[0]:       "its feed is frozen, nothing it relays is taken, it gets no credentials, its sessions are cut",
		ids[3]:       "its feed is frozen, nothing it relays is taken, it gets no credentials, its sessions are KEPT, because as many as may be were cut in the last 10 minutes",
		node("well"): "nothing is kept from it",
	} {
		if got := s.Effects(id, t0.Add(10*time.Second), roster).String(); got != want {
			t.Errorf("%s: %q", id, got)
		}
	}
	next, ok := s.Deadline(t0.Add(10*time.Second), roster)
	if !ok || !next.Equal(t0.Add(600*time.Second)) {
		t.Errorf("deadline %v %v, want +600s", next.Sub(t0), ok)
	}
	s.AddRevocation(t0, revocation(t, "f"))
	if e := s.Effects(node("f"), t0.Add(10*time.Second), roster); !e.CutSessions {
		t.Error("a revocation is not capped")
	}
}

func TestCapOfHoldsAndOfUnattested(t *testing.T) {
	s := NewSet(td, plainChecks())
	roster := Roster{Attested: 10, Unattested: 1, IsAttested: func(id spiffeid.ID) bool { return id != node("u") }}
	for _, name := range []string{"a", "b", "u"} {
		s.Fault(t0, node(name), BadSignature)
	}
	for name, want := range map[string]bool{"a": true, "b": false, "u": true} {
		e := s.Effects(node(name), t0, roster)
		if e.CutSessions != want || e.Capped == want || e.RefuseRelay != want || e.FreezeFeed || e.RefuseIssue {
			t.Errorf("%s: %+v", name, e)
		}
	}
	// The window counts holds that ended, so a series of short holds is capped too.
	s.Fault(t0.Add(2*time.Minute), node("c"), BadSignature)
	if e := s.Effects(node("c"), t0.Add(2*time.Minute), roster); e.CutSessions {
		t.Error("a third relay was cut within the window")
	}
	if e := s.Effects(node("unknown"), t0, roster); e != (Effects{}) {
		t.Errorf("unknown identity: %+v", e)
	}
}
