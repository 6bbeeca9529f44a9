package quarantine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Every node of one region is guilty, and the proofs, releases and revocations of all of them reach a
// node of another region. What that has of its own region is the same to the byte, and so is what it
// does.
func TestNoRegionJudgesAnother(t *testing.T) {
	s := NewSet(td, plainChecks())
	roster := Roster{Attested: 8}
	mustAdd(t, s, t0, evidence("a", 1, 1))
	s.Fault(t0, node("b"), Malformed)
	seen := func() (all []byte) {
		b, err := s.Marshal(node("a"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
		for _, c := range s.Cases(t0.Add(time.Second)) {
			all = fmt.Appendf(all, "%s %+v %s\n", c.Accused, c.Status, s.Effects(c.Accused, t0.Add(time.Second), roster))
		}
		next, ok := s.Deadline(t0.Add(time.Second), roster)
		return fmt.Appendf(all, "%s %t", next, ok)
	}
	before := seen()
	west := spiffeid.RequireTrustDomainFromString("west.dev.example")
	for i := range byte(100) {
		id := spiffeid.RequireFromPath(west, fmt.Sprintf("/node/w%d", i))
		proof, err := json.Marshal(plainEvidence{Accused: id.String(), Class: "equivocation", N: i, Epoch: 1})
		if err != nil {
			t.Fatal(err)
		}
		release, err := Release{Accused: id, Epoch: 2, Until: t0, At: t0}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		revocation, err := Revocation{Accused: id, At: t0}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		_, _, proven := s.AddEvidence(t0, proof, node("gateway"))
		_, _, released := s.AddRelease(t0, release)
		_, _, revoked := s.AddRevocation(t0, revocation)
		for what, err := range map[string]error{"proof": proven, "release": released, "revocation": revoked} {
			if !errors.Is(err, ErrForeign) {
				t.Errorf("%s of %s: %v, want %v", what, id, err, ErrForeign)
			}
		}
		if e := s.Effects(id, t0, roster); e != (Effects{}) {
			t.Errorf("%s: %s", id, e)
		}
	}
	if after := seen(); !bytes.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// A liar that first had others sacrificed, so that the cap is burnt, is frozen like any, and cut in
// its turn; the order in which proofs come is all that decides it.
func TestSacrificesBuyTimeForSessionsOnly(t *testing.T) {
	s := NewSet(td, plainChecks())
	roster := Roster{Attested: 20} // 5 with a proof
	for i := range byte(5) {
		mustAdd(t, s, t0, evidence(fmt.Sprintf("pawn%d", i), i+1, 1))
	}
	mustAdd(t, s, t0.Add(time.Second), evidence("king", 9, 1))
	king := node("king")
	if e := s.Effects(king, t0.Add(time.Minute), roster); !e.FreezeFeed || !e.RefuseRelay || !e.RefuseIssue || e.CutSessions || !e.Capped {
		t.Errorf("with the cap burnt: %s", e)
	}
	if e := s.Effects(king, t0.Add(capWindow), roster); !e.CutSessions || e.Capped {
		t.Errorf("after the window: %s", e)
	}
	if _, _, err := s.AddRevocation(t0.Add(time.Minute), revocation(t, "king")); err != nil {
		t.Fatal(err)
	}
	if e := s.Effects(king, t0.Add(time.Minute), roster); !e.CutSessions {
		t.Errorf("the authority's word waits for no cap: %s", e)
	}
}

// A policy comes by which no machine is sound, so everybody accuses everybody. Whatever the
// thresholds: sessions of no more than the cap are cut in any 10 minutes, nobody else is frozen or
// refused credentials, and with the policy that mends it all are well again.
func TestPolicyThatNoMachineSatisfies(t *testing.T) {
	for _, budget := range []int{0, maxCharges} {
		s := NewSet(td, plainChecks())
		s.Use(Thresholds{Budget: budget, Quorum: 51})
		members := fleet(30)
		s.Enrol(members)
		roster := Roster{Attested: len(members)} // 3 without a proof
		accuseAll := func(at time.Time) {
			for i, by := range members {
				for j := range maxCharges { // all that a node may keep up
					of := members[(i+j+1)%len(members)].ID
					if j < maxCharges/2 {
						of = members[j].ID // the same for all, so that there are quorums
					}
					if of != by.ID {
						accuse(t, s, at, by.ID, accusation(t, of, at))
					}
				}
			}
		}
		accuseAll(t0)
		for minute := range 10 {
			at := t0.Add(time.Duration(minute) * time.Minute)
			if minute == 5 {
				accuseAll(at) // they keep it up
			}
			cut := 0
			for _, m := range members {
				e := s.Effects(m.ID, at, roster)
				if e.CutSessions {
					cut++
				} else if e.FreezeFeed || e.RefuseIssue || e.RefuseRelay {
					t.Fatalf("%s, beyond the cap: %s", m.ID, e)
				}
			}
			if cut == 0 || cut > 3 || budget > 3 && cut < 3 {
				t.Fatalf("minute %d: %d of %d are cut", minute, cut, len(members))
			}
		}
		if kept := len(s.Capped(t0.Add(5*time.Minute), roster)); (kept > 0) != (budget > 3) {
			t.Errorf("with a say about %d, sessions of %d are kept by the cap", s.Thresholds().Budget, kept)
		}
		for _, m := range members {
			if e := s.Effects(m.ID, t0.Add(5*time.Minute+AccusationTerm), roster); e != (Effects{}) {
				t.Errorf("%s, when nobody accuses any more: %s", m.ID, e)
			}
		}
	}
}
