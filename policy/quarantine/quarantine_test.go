package quarantine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

var (
	td = spiffeid.RequireTrustDomainFromString("east.dev.example")
	t0 = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
)

func node(name string) spiffeid.ID { return spiffeid.RequireFromPath(td, "/node/"+name) }

// In these tests evidence is the finding itself, and a signed release is the
// release itself: verification is the app's affair.
type plainEvidence struct {
	Accused, Class string
	N              byte
	Epoch          uint64
	Pad            string
}

func evidence(accused string, n byte, epoch uint64) []byte {
	b, _ := json.Marshal(plainEvidence{node(accused).String(), "equivocation", n, epoch, ""})
	return b
}

func plainChecks() Checks {
	return Checks{
		Evidence: func(b []byte) (Finding, error) {
			var p plainEvidence
			if err := json.Unmarshal(b, &p); err != nil {
				return Finding{}, err
			}
			id, err := spiffeid.FromString(p.Accused)
			return Finding{Accused: id, Class: p.Class, Digest: [32]byte{p.N}, Epoch: p.Epoch}, err
		},
		Release:    ParseRelease,
		Revocation: ParseRevocation,
	}
}

func release(t testing.TB, accused string, epoch uint64, until time.Time, digests ...byte) []byte {
	t.Helper()
	r := Release{Accused: node(accused), Epoch: epoch, Until: until, At: t0, Reason: "restored backup"}
	for _, d := range digests {
		r.Digests = append(r.Digests, [32]byte{d})
	}
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func revocation(t testing.TB, accused string) []byte {
	t.Helper()
	b, err := Revocation{Accused: node(accused), At: t0, Reason: "stolen"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustAdd(t testing.TB, s *Set, now time.Time, ev []byte) {
	t.Helper()
	if _, _, err := s.AddEvidence(now, ev, node("finder")); err != nil {
		t.Fatal(err)
	}
}

func TestStandingFollowsFacts(t *testing.T) {
	until := t0.Add(time.Hour)
	tests := []struct {
		name  string
		facts func(*testing.T, *Set)
		at    time.Duration
		want  Standing
	}{
		{"nothing", func(*testing.T, *Set) {}, 0, OK},
		{"a finding", func(t *testing.T, s *Set) { mustAdd(t, s, t0, evidence("a", 1, 3)) }, 0, Quarantined},
		{"a finding does not fade", func(t *testing.T, s *Set) { mustAdd(t, s, t0, evidence("a", 1, 3)) }, 1e6 * time.Hour, Quarantined},
		{"released by digest", func(t *testing.T, s *Set) {
			mustAdd(t, s, t0, evidence("a", 1, 0))
			s.AddRelease(t0, release(t, "a", 4, until, 1))
		}, 0, Released},
		{"released by epoch", func(t *testing.T, s *Set) {
			mustAdd(t, s, t0, evidence("a", 1, 3))
			s.AddRelease(t0, release(t, "a", 4, until))
		}, 0, Released},
		{"a late proof of the old epoch revives nothing", func(t *testing.T, s *Set) {
			s.AddRelease(t0, release(t, "a", 4, until, 1))
			mustAdd(t, s, t0, evidence("a", 1, 3))
			mustAdd(t, s, t0, evidence("a", 2, 3))
		}, 0, Released},
		{"a proof of the new epoch counts", func(t *testing.T, s *Set) {
			s.AddRelease(t0, release(t, "a", 4, until, 1))
			mustAdd(t, s, t0, evidence("a", 2, 4))
		}, 0, Quarantined},
		{"the release is for another", func(t *testing.T, s *Set) {
			mustAdd(t, s, t0, evidence("a", 1, 3))
			s.AddRelease(t0, release(t, "b", 4, until, 1))
		}, 0, Quarantined},
		{"probation ends", func(t *testing.T, s *Set) {
			mustAdd(t, s, t0, evidence("a", 1, 3))
			s.AddRelease(t0, release(t, "a", 4, until))
		}, time.Hour, OK},
		{"revoked absorbs", func(t *testing.T, s *Set) {
			s.AddRevocation(t0, revocation(t, "a"))
			s.AddRelease(t0, release(t, "a", 9, until, 1))
		}, 0, Revoked},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := NewSet(td, plainChecks())
			tt.facts(t, s)
			if got := s.Standing(node("a"), t0.Add(tt.at)); got.Standing != tt.want {
				t.Errorf("got %s (%s), want %s", got.Standing, got.Reason, tt.want)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	s := NewSet(td, plainChecks())
	west, _ := json.Marshal(plainEvidence{Accused: "spiffe://west.dev.example/node/x", Class: "equivocation", N: 1})
	if _, _, err := s.AddEvidence(t0, west, node("b")); !errors.Is(err, ErrForeign) {
		t.Errorf("other trust domain: %v, want %v", err, ErrForeign)
	}
	if _, _, err := s.AddEvidence(t0, []byte("{"), node("b")); !errors.Is(err, ErrEvidence) {
		t.Errorf("bad evidence: %v, want %v", err, ErrEvidence)
	}
	if _, _, err := s.AddEvidence(t0, make([]byte, MaxEvidence+1), node("b")); !errors.Is(err, ErrEvidence) {
		t.Errorf("oversized evidence: %v, want %v", err, ErrEvidence)
	}
	var zero Checks
	if _, _, err := NewSet(td, zero).AddEvidence(t0, evidence("a", 1, 1), node("b")); !errors.Is(err, ErrEvidence) {
		t.Errorf("no verifier: %v, want %v", err, ErrEvidence)
	}
	if _, err := (Release{Accused: node("a"), At: t0, Until: t0}).Encode(); !errors.Is(err, ErrMalformed) {
		t.Errorf("release without an epoch: %v, want %v", err, ErrMalformed)
	}
	if len(s.Cases(t0)) != 0 {
		t.Error("a refused fact left a case behind")
	}
}

func TestAddingTwiceIsOnce(t *testing.T) {
	s := NewSet(td, plainChecks())
	_, first, _ := s.AddEvidence(t0, evidence("a", 1, 1), node("b"))
	_, second, _ := s.AddEvidence(t0.Add(time.Second), evidence("a", 1, 1), node("c"))
	if !first || second {
		t.Errorf("added: %v then %v, want true then false", first, second)
	}
	c, _ := s.Case(node("a"), t0)
	if len(c.Evidence) != 1 || len(c.Evidence[0].By) != 2 || !c.Evidence[0].FirstSeen.Equal(t0) {
		t.Errorf("case: %+v", c)
	}
	if f, err := s.Verify(node("a"), [32]byte{1}); err != nil || f.Class != "equivocation" {
		t.Errorf("verified again: %+v, %v", f, err)
	}
	if _, err := s.Verify(node("a"), [32]byte{2}); !errors.Is(err, ErrNoCase) {
		t.Errorf("unknown digest: %v", err)
	}
}

func TestTooManyProofsAreNotReleased(t *testing.T) {
	s := NewSet(td, Checks{
		Evidence: func(b []byte) (Finding, error) {
			return Finding{Accused: node("a"), Class: "x", Digest: statement.Digest(b), Epoch: 1}, nil
		},
		Release: ParseRelease,
	})
	for i := range MaxFindings + 20 {
		mustAdd(t, s, t0, fmt.Append(nil, i))
	}
	s.AddRelease(t0, release(t, "a", 2, t0.Add(time.Hour)))
	st := s.Standing(node("a"), t0)
	if st.Standing != Quarantined || st.Findings != MaxFindings {
		t.Errorf("got %+v", st)
	}
	c, _ := s.Case(node("a"), t0)
	kept := 0
	for _, e := range c.Evidence {
		if e.Bytes != nil {
			kept++
		}
	}
	if kept > MaxKept {
		t.Errorf("%d evidences kept, at most %d", kept, MaxKept)
	}
}

func TestHoldDoublesAndIsHalfOpen(t *testing.T) {
	s := NewSet(td, plainChecks())
	relay, now := node("r"), t0
	for _, want := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute} {
		st := s.Fault(now, relay, BadSignature)
		if st.Standing != Held || st.Until.Sub(now) != want {
			t.Fatalf("got %s until +%s, want held for %s", st.Standing, st.Until.Sub(now), want)
		}
		if again := s.Fault(now.Add(time.Second), relay, Malformed); !again.Until.Equal(st.Until) {
			t.Fatalf("a fault during the hold moved its end")
		}
		now = st.Until
		if st := s.Standing(relay, now); st.Standing != Watch {
			t.Fatalf("after the hold: %s, want watch", st.Standing)
		}
	}
	s.Good(now, relay)
	if st := s.Standing(relay, now); st.Standing != OK {
		t.Errorf("after the half-open try: %s, want ok", st.Standing)
	}
	if st := s.Fault(now, relay, Flood); st.Until.Sub(now) != Defaults().Hold {
		t.Errorf("next hold lasts %s, want %s", st.Until.Sub(now), Defaults().Hold)
	}
}

func TestMildFaultsNeedNumbers(t *testing.T) {
	s := NewSet(td, plainChecks())
	relay := node("r")
	for i := range Defaults().MildFaults - 1 {
		if st := s.Fault(t0.Add(time.Duration(i)*time.Second), relay, Replay); st.Standing != Watch {
			t.Fatalf("fault %d: %s, want watch", i, st.Standing)
		}
	}
	if st := s.Standing(relay, t0.Add(5*time.Minute)); st.Standing != OK {
		t.Errorf("later: %s, want ok", st.Standing)
	}
	for i := range Defaults().MildFaults {
		s.Fault(t0.Add(time.Hour+time.Duration(i)*time.Second), relay, Replay)
	}
	if st := s.Standing(relay, t0.Add(time.Hour+10*time.Second)); st.Standing != Held {
		t.Errorf("%d in a row: %s, want held", Defaults().MildFaults, st.Standing)
	}
}

func TestFaultsAreNeverWrittenOut(t *testing.T) {
	s := NewSet(td, plainChecks())
	s.Fault(t0, node("r"), BadSignature)
	if _, err := s.Marshal(node("r")); !errors.Is(err, ErrNoCase) {
		t.Errorf("got %v, want %v", err, ErrNoCase)
	}
	if len(s.Cases(t0)) != 1 {
		t.Error("the held relay is not listed")
	}
}

func TestMarshalRoundTrip(t *testing.T) {
	s := NewSet(td, plainChecks())
	mustAdd(t, s, t0, evidence("a", 1, 1))
	mustAdd(t, s, t0.Add(time.Minute), evidence("a", 2, 5))
	s.AddRelease(t0, release(t, "a", 3, t0.Add(time.Hour), 1))
	s.AddRevocation(t0, revocation(t, "a"))
	b, err := s.Marshal(node("a"))
	if err != nil {
		t.Fatal(err)
	}
	back := NewSet(td, Checks{})
	for range 2 {
		if err := back.Unmarshal(b); err != nil {
			t.Fatal(err)
		}
	}
	if again, _ := back.Marshal(node("a")); !bytes.Equal(b, again) {
		t.Errorf("%x\nthen\n%x", b, again)
	}
	other := NewSet(spiffeid.RequireTrustDomainFromString("west.dev.example"), Checks{})
	if err := other.Unmarshal(b); !errors.Is(err, ErrForeign) {
		t.Errorf("other region: %v, want %v", err, ErrForeign)
	}
}

// The closed input of policy names every standing, and no other.
func TestPolicyKnowsEveryStanding(t *testing.T) {
	ask := func(standing string) error {
		_, err := policy.ParseInput([]byte(`{"v": 1, "kind": "connect", "time": {"unix": 1}, "policy": {}, "source": {"standing": "` + standing + `"}, "action": {"name": "link"}}`))
		return err
	}
	for s := OK; int(s) < len(standingNames); s++ {
		if err := ask(s.String()); err != nil {
			t.Error(err)
		}
	}
	if err := ask(Standing(len(standingNames)).String()); !errors.Is(err, policy.ErrInput) {
		t.Errorf("got %v", err)
	}
}
