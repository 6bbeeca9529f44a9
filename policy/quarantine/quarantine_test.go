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
	if st := s.Fault(now, relay, Flood); st.Until.Sub(now) != holdBase {
		t.Errorf("next hold lasts %s, want %s", st.Until.Sub(now), holdBase)
	}
}

func TestMildFaultsNeedNumbers(t *testing.T) {
	s := NewSet(td, plainChecks())
	relay := node("r")
	for i := range mildMax - 1 {
		if st := s.Fault(t0.Add(time.Duration(i)*time.Second), relay, Replay); st.Standing != Watch {
			t.Fatalf("fault %d: %s, want watch", i, st.Standing)
		}
	}
	if st := s.Standing(relay, t0.Add(5*time.Minute)); st.Standing != OK {
		t.Errorf("later: %s, want ok", st.Standing)
	}
	for i := range mildMax {
		s.Fault(t0.Add(time.Hour+time.Duration(i)*time.Second), relay, Replay)
	}
	if st := s.Standing(relay, t0.Add(time.Hour+10*time.Second)); st.Standing != Held {
		t.Errorf("%d in a row: %s, want held", mildMax, st.Standing)
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
		if e.CutSessions != want || e.Capped == want || !e.RefuseRelay || e.FreezeFeed || e.RefuseIssue {
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

// FuzzOrder applies facts in two orders and to two halves that are then merged:
// the sets must be equal.
func FuzzOrder(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Add([]byte{0x10, 0x51, 0x92, 0xd3, 0x14, 0x55})
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 60 {
			return
		}
		apply := func(s *Set, i int) {
			op := ops[i]
			at := t0.Add(time.Duration(op) * time.Second)
			accused := string('a' + rune(op>>2&1))
			switch op & 3 {
			case 0, 1:
				s.AddEvidence(at, evidence(accused, op>>4, uint64(op>>5)), node(string('p'+rune(op&7))))
			case 2:
				s.AddRelease(at, release(t, accused, uint64(op>>6)+1, t0.Add(time.Duration(op)*time.Minute), op>>4))
			case 3:
				if op > 250 {
					s.AddRevocation(at, revocation(t, accused))
				}
			}
		}
		ahead, back, left, right := NewSet(td, plainChecks()), NewSet(td, plainChecks()), NewSet(td, plainChecks()), NewSet(td, plainChecks())
		for i := range ops {
			apply(ahead, i)
			apply(back, len(ops)-1-i)
			if i%2 == 0 {
				apply(left, i)
			} else {
				apply(right, i)
			}
		}
		for _, id := range []spiffeid.ID{node("a"), node("b")} {
			if b, err := right.Marshal(id); err == nil {
				if err := left.Unmarshal(b); err != nil {
					t.Fatal(err)
				}
			}
			want, _ := ahead.Marshal(id)
			for name, s := range map[string]*Set{"backwards": back, "merged": left} {
				if got, _ := s.Marshal(id); !bytes.Equal(got, want) {
					t.Errorf("%s %s:\n%x, want\n%x", name, id, got, want)
				}
				for _, d := range []time.Duration{0, time.Hour, 5 * time.Hour} {
					if got, want := s.Standing(id, t0.Add(d)), ahead.Standing(id, t0.Add(d)); got != want {
						t.Errorf("%s %s at +%s: %+v, want %+v", name, id, d, got, want)
					}
				}
			}
		}
	})
}

func FuzzUnmarshal(f *testing.F) {
	s := NewSet(td, plainChecks())
	mustAdd(f, s, t0, evidence("a", 1, 1))
	s.AddRelease(t0, release(f, "a", 3, t0.Add(time.Hour), 1))
	s.AddRevocation(t0, revocation(f, "a"))
	b, err := s.Marshal(node("a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, in []byte) {
		s := NewSet(td, Checks{})
		if err := s.Unmarshal(in); err != nil {
			if len(s.Cases(t0)) != 0 {
				t.Errorf("refused (%v), yet a case is there", err)
			}
			return
		}
		for _, c := range s.Cases(t0) {
			if _, err := s.Marshal(c.Accused); err != nil {
				t.Errorf("%s was read and cannot be written: %v", c.Accused, err)
			}
		}
	})
}

func FuzzParseRelease(f *testing.F) {
	f.Add(release(f, "a", 3, t0, 1, 2))
	f.Add(revocation(f, "a"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if r, err := ParseRelease(in); err == nil {
			if out, err := r.Encode(); err != nil || !bytes.Equal(in, out) {
				t.Errorf("%x parses but encodes as %x (%v)", in, out, err)
			}
		}
		if r, err := ParseRevocation(in); err == nil {
			if out, err := r.Encode(); err != nil || !bytes.Equal(in, out) {
				t.Errorf("%x parses but encodes as %x (%v)", in, out, err)
			}
		}
	})
}
