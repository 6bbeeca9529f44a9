package app

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// judging is the part of a node that judges others and hears what they say of each other.
type judging struct {
	*accusing
	id       spiffeid.ID
	leaves   int
	changes  int
	degrades bool
}

func newJudging(id spiffeid.ID, members []quarantine.Member) *judging {
	j := &judging{id: id, accusing: newAccusing(id, quarantine.NewSet(tdEast, quarantine.Checks{}))}
	j.set.Enrol(members)
	j.changed = func(spiffeid.ID) { j.changes++ }
	j.degraded = func() bool { return j.degrades }
	j.record = func(map[string]any) error { j.leaves++; return nil }
	return j
}

func judges(n int) (out []*judging) {
	var members []quarantine.Member
	for i := range n {
		id := spiffeid.RequireFromPath(tdEast, fmt.Sprintf("/node/j%02d", i))
		members = append(members, quarantine.Member{ID: id, Domain: id.String()})
	}
	for _, m := range members {
		out = append(out, newJudging(m.ID, members))
	}
	return out
}

// tell brings what each says to all others, in an order of chance.
func tell(t *testing.T, now time.Time, random *rand.Rand, all []*judging) {
	t.Helper()
	type message struct {
		by  spiffeid.ID
		raw []byte
	}
	var said []message
	for _, j := range all {
		show, _, err := j.wanted(now, quarantine.Defaults().Budget)
		if err != nil {
			t.Fatal(err)
		}
		for name, raw := range show {
			if err := accusationSchema(name, raw); err != nil {
				t.Error(err)
			}
			said = append(said, message{j.id, raw})
		}
	}
	for _, j := range all {
		for _, i := range random.Perm(len(said)) {
			if _, _, err := j.set.Accuse(now, said[i].by, said[i].raw); err != nil {
				t.Error(err)
			}
		}
	}
}

var clock0 = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

// A machine whose quotes fail is quarantined by all, stays so while nobody hears from it, and is
// let in again when its evidence is good; 30 % of the fleet that accuse honest nodes meanwhile have
// nobody quarantined.
func TestFleetQuarantinesByQuorum(t *testing.T) {
	for seed := range uint64(2) {
		random := rand.New(rand.NewPCG(seed, 1))
		all := judges(20)
		liars, bad, honest := all[:6], all[6], all[7:]
		now := clock0
		for minute := range 40 {
			now = now.Add(time.Minute)
			for _, j := range honest {
				switch {
				case minute < 5:
					j.found(now, bad.id, "boot-log-replay", "PCR 8 differs", feed.ID{1}, now)
				case minute < 30:
					j.found(now, bad.id, "", "", feed.ID{}, time.Time{}) // it is shut out, and nothing comes
				default:
					j.found(now, bad.id, "", "", feed.ID{2}, now)
				}
			}
			for i, j := range liars {
				for _, victim := range honest[i%3 : i%3+3] {
					j.found(now, victim.id, ruleStale, "it is a lie", feed.ID{3}, now)
				}
			}
			tell(t, now, random, append(all[:6:6], honest...))
			for _, j := range honest {
				want := quarantine.Quarantined
				if minute >= 30 {
					want = quarantine.OK
				}
				if st := j.set.Standing(bad.id, now); st.Standing != want {
					t.Fatalf("seed %d, minute %d: %s takes the bad one for %s (%s), want %s", seed, minute, j.id, st.Standing, st.Reason, want)
				}
				for _, other := range honest {
					if st := j.set.Standing(other.id, now); st.Standing != quarantine.OK {
						t.Fatalf("seed %d, minute %d: %s takes the honest %s for %s: %s", seed, minute, j.id, other.id, st.Standing, st.Reason)
					}
				}
			}
		}
		if honest[0].leaves != 2 {
			t.Errorf("%d leaves, want one of the accusation and one of taking it back", honest[0].leaves)
		}
	}
}

// In a region of four there is no quorum: whoever sees it holds, and that ends when it is over.
func TestSmallRegionEndsAtHeld(t *testing.T) {
	all := judges(4)
	random := rand.New(rand.NewPCG(1, 2))
	bad := all[3]
	for _, found := range []string{ruleMissing, ""} {
		for _, j := range all[:3] {
			j.found(clock0, bad.id, found, "connected, and nothing came", feed.ID{}, time.Time{})
		}
		tell(t, clock0.Add(time.Second), random, all[:3])
		for _, j := range all[:3] {
			want := quarantine.OK
			if found != "" {
				want = quarantine.Held
			}
			if st := j.set.Standing(bad.id, clock0.Add(time.Second)); st.Standing != want || j.changes == 0 {
				t.Errorf("%q: %s (%s), want %s", found, st.Standing, st.Reason, want)
			}
		}
	}
}

// What a node says, and when it says it again or no more.
func TestAccusesAndTakesBack(t *testing.T) {
	all := judges(20)
	j, now := all[0], clock0
	says := func(at time.Time) (out []quarantine.Accusation, over int) {
		t.Helper()
		show, gone, err := j.wanted(at, quarantine.Defaults().Budget)
		if err != nil {
			t.Fatal(err)
		}
		for _, raw := range show {
			a, err := quarantine.ParseAccusation(raw)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, a)
		}
		return out, len(gone)
	}
	for _, other := range all[1:] {
		j.found(now, other.id, ruleStale, "nothing came", feed.ID{}, time.Time{})
	}
	j.degrades = true
	if got, _ := says(now); len(got) != 0 {
		t.Errorf("a degraded node accuses %d", len(got))
	}
	j.degrades = false
	if got, _ := says(now); len(got) != quarantine.Defaults().Budget {
		t.Errorf("it accuses %d, more or less than it has a say about", len(got))
	}
	for _, other := range all[2:] {
		j.found(now, other.id, "", "", feed.ID{}, now)
	}
	later := now.Add(quarantine.AccusationTerm - time.Minute)
	got, _ := says(later)
	kept, back := 0, 0
	for _, a := range got {
		switch {
		case a.Withdrawn() && a.At.Equal(later):
			back++
		case a.Accused == all[1].id && a.At.Equal(later) && a.Seen.Equal(now):
			kept++ // signed again, and what was seen is as old as it is
		}
	}
	if kept != 1 || back != 2 || len(got) != 3 {
		t.Errorf("%d kept up, %d taken back of %+v", kept, back, got)
	}
	j.found(later, all[1].id, "", "", feed.ID{}, later)
	if got, over := says(later.Add(2*quarantine.AccusationTerm + time.Second)); len(got) != 0 || over != 3 {
		t.Errorf("long after: %+v, %d keys deleted", got, over)
	}
}

// What a node says of another is in its trail, and in no feed if it cannot be.
func TestAccusationIsRecorded(t *testing.T) {
	st := openStore(t, t.TempDir()+"/state.db")
	a := &App{cfg: config.Config{Node: nodeN1}, store: st}
	a.standing = newStandings(quarantine.NewSet(tdEast, quarantine.Checks{}), st, slog.New(slog.DiscardHandler), nil)
	other := spiffeid.RequireFromString("spiffe://east.dev.example/node/n2")
	a.standing.set.Enrol([]quarantine.Member{{ID: nodeN1, Domain: "a"}, {ID: other, Domain: "b"}})
	c := a.newAccusing()
	c.degraded = func() bool { return false }
	c.found(clock0, other, ruleStale, "nothing came", feed.ID{}, time.Time{})
	for range 3 {
		if show, _, err := c.wanted(clock0, 3); err != nil || len(show) != 1 {
			t.Fatalf("%d accusations, %v", len(show), err)
		}
	}
	count := 0
	leaves, err := st.Outbox(0, 10)
	for _, l := range leaves {
		if l.Kind == trail.PeerAccuse.Name() {
			count++
		}
	}
	if err != nil || count != 1 {
		t.Errorf("%d leaves, %v", count, err)
	}
	c.record = func(map[string]any) error { return errors.New("disk") }
	c.found(clock0, other, ruleMissing, "nothing came", feed.ID{}, time.Time{})
	if show, _, err := c.wanted(clock0, 3); err == nil {
		t.Errorf("not recorded, yet said: %v", show)
	}
}

// Evidence and accusations of a peer act on standings, and what they froze thaws.
func TestAccusationsContain(t *testing.T) {
	st := openStore(t, t.TempDir()+"/state.db")
	s := newStandings(quarantine.NewSet(tdEast, quarantine.Checks{}), st, slog.New(slog.DiscardHandler), nil)
	all := judges(10)
	var members []quarantine.Member
	for _, j := range all {
		members = append(members, quarantine.Member{ID: j.id, Domain: j.id.String()})
	}
	s.size = func() quarantine.Roster { s.set.Enrol(members); return quarantine.Roster{Attested: 10} }
	did, regained := quarantine.Effects{}, 0
	s.enforce = func(_ spiffeid.ID, e quarantine.Effects) (was severed) { did = e; return was }
	s.regained = func() { regained++ }
	now, bad := time.Now(), all[9].id
	for _, withdrawn := range []bool{false, true} {
		for _, j := range all[:9] {
			a := quarantine.Accusation{Accused: bad, Class: ruleStale, Seen: now, At: now, Expires: now.Add(time.Minute)}
			if withdrawn {
				a.At = now.Add(time.Millisecond)
				a.Expires = a.At
			}
			raw, err := a.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.accusation(j.id, raw); err != nil {
				t.Fatal(err)
			}
		}
		if did.FreezeFeed == withdrawn || (s.admits(bad) == nil) != withdrawn {
			t.Errorf("taken back: %v, and %s", withdrawn, did)
		}
	}
	if regained != 1 {
		t.Errorf("what was refused is looked at again %d times, want once", regained)
	}
}
