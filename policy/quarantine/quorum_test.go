package quarantine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// fleet is n nodes, each its own failure domain.
func fleet(n int) (out []Member) {
	for i := range n {
		id := node(fmt.Sprintf("f%d", i))
		out = append(out, Member{id, id.String()})
	}
	return out
}

func accusation(t testing.TB, accused spiffeid.ID, at time.Time) []byte {
	t.Helper()
	b, err := Accusation{Accused: accused, Class: "attestation-stale", What: "nothing came", Seen: at, At: at, Expires: at.Add(AccusationTerm)}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func accuse(t testing.TB, s *Set, now time.Time, by spiffeid.ID, raw []byte) {
	t.Helper()
	if _, _, err := s.Accuse(now, by, raw); err != nil {
		t.Fatal(err)
	}
}

// A quorum of the assigned observers of one identity, and what keeps a vote from counting.
func TestQuorum(t *testing.T) {
	members := fleet(10) // 9 observers of each, 7 make a quorum
	accused := members[0].ID
	others := members[1:]
	late := t0.Add(time.Minute)
	for _, tt := range []struct {
		name  string
		facts func(*testing.T, *Set)
		at    time.Time
		want  Standing
		count int
	}{
		{"six of nine", func(t *testing.T, s *Set) {
			for _, m := range others[:6] {
				accuse(t, s, t0, m.ID, accusation(t, accused, t0))
			}
		}, t0, OK, 6},
		{"seven of nine", func(t *testing.T, s *Set) {
			for _, m := range others[:7] {
				accuse(t, s, t0, m.ID, accusation(t, accused, t0))
			}
		}, t0, Quarantined, 7},
		{"one seven times", func(t *testing.T, s *Set) {
			for i := range 7 {
				accuse(t, s, late, others[0].ID, accusation(t, accused, t0.Add(time.Duration(i)*time.Second)))
			}
		}, late, OK, 1},
		{"the doubt of this node and six", func(t *testing.T, s *Set) {
			for _, m := range others[:6] {
				accuse(t, s, t0, m.ID, accusation(t, accused, t0))
			}
			s.Doubt(t0, accused, "attestation-stale", "nothing came")
		}, t0, Held, 6},
		{"nobody of the roster", func(t *testing.T, s *Set) {
			for i := range 9 {
				accuse(t, s, t0, node(fmt.Sprintf("sybil%d", i)), accusation(t, accused, t0))
			}
		}, t0, OK, 0},
		{"expired", func(t *testing.T, s *Set) {
			for _, m := range others {
				accuse(t, s, t0, m.ID, accusation(t, accused, t0))
			}
		}, t0.Add(AccusationTerm), OK, 0},
		{"expired when it comes", func(t *testing.T, s *Set) {
			for _, m := range others {
				accuse(t, s, t0.Add(time.Hour), m.ID, accusation(t, accused, t0))
			}
		}, t0.Add(time.Hour), OK, 0},
		{"not yet in force", func(t *testing.T, s *Set) {
			for _, m := range others {
				accuse(t, s, t0, m.ID, accusation(t, accused, t0.Add(30*time.Second)))
			}
		}, t0, OK, 0},
		{"withdrawn, and the older comes late", func(t *testing.T, s *Set) {
			for i, m := range others {
				if i < 3 {
					b, err := Accusation{Accused: accused, Class: "x", Seen: t0, At: late, Expires: late}.Encode()
					if err != nil {
						t.Fatal(err)
					}
					accuse(t, s, late, m.ID, b)
				}
				accuse(t, s, late, m.ID, accusation(t, accused, t0))
			}
		}, late, OK, 6},
		{"three accusers are convicted: eight observers are left, and six", func(t *testing.T, s *Set) {
			for i, m := range others {
				accuse(t, s, t0, m.ID, accusation(t, accused, t0))
				if i < 3 {
					mustAdd(t, s, t0, evidence(strings.TrimPrefix(m.ID.Path(), "/node/"), byte(i+1), 1))
				}
			}
		}, t0, Quarantined, 6},
		{"who accuses everybody has a say about three", func(t *testing.T, s *Set) {
			for _, m := range others {
				for _, victim := range []string{"a", "b", "c"} { // before f
					accuse(t, s, t0, m.ID, accusation(t, node(victim), t0))
				}
				accuse(t, s, t0, m.ID, accusation(t, accused, t0))
			}
		}, t0, OK, 0},
		{"a release answers what was seen before", func(t *testing.T, s *Set) {
			for _, m := range others {
				accuse(t, s, t0, m.ID, accusation(t, accused, t0))
			}
			if _, _, err := s.AddRelease(late, release(t, "f0", 4, t0.Add(time.Hour))); err != nil {
				t.Fatal(err)
			}
		}, late, Released, 0},
		{"and not what is seen after", func(t *testing.T, s *Set) {
			if _, _, err := s.AddRelease(late, release(t, "f0", 4, t0.Add(time.Hour))); err != nil {
				t.Fatal(err)
			}
			for _, m := range others {
				accuse(t, s, late, m.ID, accusation(t, accused, late))
			}
		}, late, Quarantined, 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := NewSet(td, plainChecks())
			s.Enrol(members)
			tt.facts(t, s)
			got, tally := s.Standing(accused, tt.at), s.Tally(accused, tt.at)
			if got.Standing != tt.want || tally.Count != tt.count {
				t.Errorf("%s (%s), %d of %d count, want %s and %d: %+v", got.Standing, got.Reason, tally.Count, tally.Observers, tt.want, tt.count, tally.Charges)
			}
		})
	}
}

// Where there are too few nodes, all of them accuse, and it ends at held, where this node sees it
// itself.
func TestTooFewForAQuorum(t *testing.T) {
	for n, want := range map[int]Standing{3: Held, 5: Held, 6: Quarantined} {
		s := NewSet(td, plainChecks())
		members := fleet(n)
		s.Enrol(members)
		for _, m := range members[1:] {
			accuse(t, s, t0, m.ID, accusation(t, members[0].ID, t0))
		}
		if st := s.Doubt(t0, members[0].ID, "attestation-stale", "nothing came"); st.Standing != want || st.Doubted != (want == Held) {
			t.Errorf("%d nodes: %s (%s), want %s", n, st.Standing, st.Reason, want)
		}
		s.Trust(members[0].ID)
		if st := s.Standing(members[0].ID, t0); (st.Standing == Quarantined) != (want == Quarantined) || st.Standing == Held {
			t.Errorf("%d nodes without a doubt here: %s", n, st.Standing)
		}
	}
}

// One failure domain is no quorum by itself, if the observers are of several.
func TestQuorumIsOfTwoDomains(t *testing.T) {
	s := NewSet(td, plainChecks())
	members := fleet(20)
	for i := range members {
		members[i].Domain = "zone a"
	}
	accused := members[0].ID
	members[1].Domain = "zone b"
	s.Enrol(members)
	for _, m := range members[2:] {
		accuse(t, s, t0, m.ID, accusation(t, accused, t0))
	}
	if st := s.Standing(accused, t0); st.Standing != OK {
		t.Errorf("18 of zone a: %s", st.Standing)
	}
	accuse(t, s, t0, members[1].ID, accusation(t, accused, t0))
	if st := s.Standing(accused, t0); st.Standing != Quarantined {
		t.Errorf("with one of zone b: %s", st.Standing)
	}
}

// By the word of observers nothing at all happens beyond the cap, and a doubt alone cuts nobody.
func TestEffectsWithoutProof(t *testing.T) {
	s := NewSet(td, plainChecks())
	members := fleet(10)
	s.Enrol(members)
	roster := Roster{Attested: 10}
	for i, victim := range members[:2] {
		for _, m := range members {
			if m.ID != victim.ID {
				at := t0.Add(time.Duration(i) * time.Second)
				accuse(t, s, at, m.ID, accusation(t, victim.ID, at))
			}
		}
	}
	now := t0.Add(time.Minute)
	first, second := s.Effects(members[0].ID, now, roster), s.Effects(members[1].ID, now, roster)
	if want := (Effects{FreezeFeed: true, RefuseRelay: true, RefuseIssue: true, CutSessions: true}); first != want {
		t.Errorf("the first: %+v", first)
	}
	if want := (Effects{Capped: true}); second != want {
		t.Errorf("beyond the cap: %+v", second)
	}
	s.Doubt(now, members[5].ID, "attestation-stale", "nothing came")
	if e := s.Effects(members[5].ID, now, roster); e != (Effects{}) {
		t.Errorf("a doubt: %+v", e)
	}
	if next, ok := s.Deadline(now, roster); !ok || next.After(t0.Add(AccusationTerm)) {
		t.Errorf("deadline %s, %t: not when the accusations end", next, ok)
	}
	for _, id := range []spiffeid.ID{members[0].ID, members[1].ID} {
		if e := s.Effects(id, t0.Add(AccusationTerm+time.Second), roster); e != (Effects{}) {
			t.Errorf("after the accusations: %+v", e)
		}
	}
}

func TestAccusationRefusals(t *testing.T) {
	s := NewSet(td, plainChecks())
	west := spiffeid.RequireFromString("spiffe://west.dev.example/node/w")
	for name, tt := range map[string]struct {
		by   spiffeid.ID
		raw  []byte
		want error
	}{
		"of another region":   {node("b"), accusation(t, west, t0), ErrForeign},
		"by another region":   {west, accusation(t, node("a"), t0), ErrForeign},
		"itself":              {node("a"), accusation(t, node("a"), t0), ErrAccusation},
		"from the future":     {node("b"), accusation(t, node("a"), t0.Add(maxAhead+time.Second)), ErrAccusation},
		"not an accusation":   {node("b"), []byte("{"), ErrAccusation},
		"too many bytes":      {node("b"), make([]byte, MaxAccusation+1), ErrAccusation},
		"that is no encoding": {node("b"), append(accusation(t, node("a"), t0), 0), ErrAccusation},
	} {
		if _, _, err := s.Accuse(t0, tt.by, tt.raw); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	good := Accusation{Accused: node("a"), Class: "x", Seen: t0, At: t0, Expires: t0}
	for name, spoil := range map[string]func(*Accusation){
		"for ever":            func(a *Accusation) { a.Expires = t0.Add(AccusationTerm + time.Millisecond) },
		"over before":         func(a *Accusation) { a.Expires = t0.Add(-time.Second) },
		"seen after":          func(a *Accusation) { a.Seen = t0.Add(time.Second) },
		"no class":            func(a *Accusation) { a.Class = "" },
		"a long class":        func(a *Accusation) { a.Class = strings.Repeat("x", 65) },
		"a long story":        func(a *Accusation) { a.What = strings.Repeat("x", maxSeenBytes+1) },
		"nobody":              func(a *Accusation) { a.Accused = spiffeid.ID{} },
		"before the calendar": func(a *Accusation) { a.Seen = time.Unix(-1, 0) },
	} {
		a := good
		if spoil(&a); true {
			if _, err := a.Encode(); !errors.Is(err, ErrAccusation) {
				t.Errorf("%s: %v, want %v", name, err, ErrAccusation)
			}
		}
	}
	if len(s.Cases(t0)) != 0 {
		t.Error("a refused accusation left a case behind")
	}
}

// An accuser that floods makes no room for itself, and loses no other's accusation.
func TestAccusationsAreBounded(t *testing.T) {
	s := NewSet(td, plainChecks())
	for i := range 200 {
		s.Accuse(t0, node("liar"), accusation(t, node(fmt.Sprintf("v%d", i)), t0))
	}
	accuse(t, s, t0, node("honest"), accusation(t, node("v199"), t0))
	if n := len(s.charges[node("liar")]); n != maxCharges {
		t.Errorf("%d kept of one accuser, want %d", n, maxCharges)
	}
	if len(s.charges[node("honest")]) != 1 {
		t.Error("another's accusation is gone")
	}
	accuse(t, s, t0.Add(time.Hour), node("honest"), accusation(t, node("a"), t0.Add(time.Hour)))
	if len(s.charges) != 1 || len(s.ranks) != 1 {
		t.Errorf("what has expired is kept: %d accusers, %d accused", len(s.charges), len(s.ranks))
	}
}

// The observers of an identity are the same whatever the order of the roster, and one node more or
// less moves no two others past each other.
func TestRank(t *testing.T) {
	members := fleet(50)
	accused := members[7].ID
	rank := Rank(accused, members)
	turned := slices.Clone(members)
	slices.Reverse(turned)
	if !slices.Equal(rank, Rank(accused, turned)) || len(rank) != 49 {
		t.Error("the order of the roster matters, or the accused is its own observer")
	}
	without := slices.DeleteFunc(slices.Clone(rank), func(m Member) bool { return m.ID == members[20].ID })
	if !slices.Equal(without, Rank(accused, slices.DeleteFunc(turned, func(m Member) bool { return m.ID == members[20].ID }))) {
		t.Error("a node less moves others")
	}
	if slices.Equal(rank[:10], Rank(members[8].ID, members)[:10]) {
		t.Error("two nodes have the same observers")
	}
}

// Whatever there is against a node concerns it; of anybody else there are no effects.
func TestConcerns(t *testing.T) {
	members := fleet(10)
	accused := members[0].ID
	for name, against := range map[string]func(*Set){
		"a fault":       func(s *Set) { s.Fault(t0, accused, BadSignature) },
		"a doubt":       func(s *Set) { s.Doubt(t0, accused, "attestation-stale", "nothing came") },
		"an accusation": func(s *Set) { accuse(t, s, t0, members[1].ID, accusation(t, accused, t0)) },
		"evidence": func(s *Set) {
			if _, err := s.addFinding(Finding{Accused: accused, Class: "equivocation", Epoch: 1}, nil, t0, members[1].ID); err != nil {
				t.Fatal(err)
			}
		},
	} {
		s := NewSet(td, Checks{})
		s.Enrol(members)
		if s.Concerns(accused) {
			t.Errorf("before %s something is known", name)
		}
		against(s)
		if !s.Concerns(accused) || s.Concerns(members[2].ID) {
			t.Errorf("%s is known of %v, and of another %v", name, s.Concerns(accused), s.Concerns(members[2].ID))
		}
		if e := s.Effects(members[2].ID, t0, Roster{Attested: 10}); e != (Effects{}) {
			t.Errorf("%s has effects on another: %+v", name, e)
		}
	}
}
