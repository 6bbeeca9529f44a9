package governing

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
)

// enforcing is other nodes that are heard and have these records in force.
func enforcing(all ...*bundle.Verified) (out []rollout.Peer) {
	for i, v := range all {
		id := "spiffe://east.dev.example/node/canary-" + string(rune('a'+i))
		out = append(out, rollout.Peer{Node: rollout.Node{ID: id, Path: "/node/canary-" + string(rune('a'+i))}, Heard: true, Enforces: [8]byte(v.Name[:])})
	}
	return out
}

// A node that was down during a rollback takes what is in force elsewhere when it comes back, not the
// withdrawn version until the ring of the next one; and nothing that others withdrew.
func TestDownDuringARollback(t *testing.T) {
	e := stagedEastOn(t)
	e.take(e.version(policy.Regional, 4, true, nil))
	withdrawn := e.version(policy.Regional, 5, false, nil)
	e.take(withdrawn)
	back, staged := e.version(policy.Regional, 6, true, nil), e.version(policy.Regional, 7, true, othersFirst)

	// It was down, and hears of the newest first.
	e.take(staged)
	e.peers = enforcing(back, back)
	e.look(5, rollout.Waiting)
	if e.offers == 0 {
		t.Error("it does not look at what the newest has overtaken")
	}
	e.take(back)
	e.look(6, rollout.Waiting)
	if err := e.start(); err != nil { // also over a restart
		t.Fatal(err)
	}
	e.look(6, rollout.Waiting)

	for _, old := range []*bundle.Verified{withdrawn, e.version(policy.Regional, 3, true, nil)} {
		if refused, err := e.p.Take(old, false); err != nil || refused == nil && old != withdrawn {
			t.Errorf("version %d: %v, %v", old.Record.Version, refused, err)
		}
		e.expect(6)
	}
	e.peers = canaryPeer(rollout.Enforcing, time.Now().Add(-time.Hour))
	e.look(7, rollout.Enforcing)
}

// What was itself rolled out, and then overtaken, is taken once most others enforce it.
func TestOvertakenWhileItWasAway(t *testing.T) {
	for _, held := range []bool{true, false} { // whether it came before the newest, or is brought by the desk
		e := stagedEastOn(t)
		e.take(e.version(policy.Regional, 4, true, nil))
		before, done, staged := e.version(policy.Regional, 4, true, nil), e.version(policy.Regional, 5, true, othersFirst), e.version(policy.Regional, 6, true, othersFirst)
		if held {
			e.take(done)
			e.take(staged)
		} else {
			e.take(staged)
			e.take(done)
		}
		e.peers = enforcing(done, before)
		e.look(4, rollout.Waiting)
		e.r.fleet.Behind = func(context.Context) bool { return true }
		e.peers = enforcing(done, before, done)
		e.look(4, rollout.Waiting)
		e.r.fleet.Behind = func(context.Context) bool { return false }
		e.look(5, rollout.Waiting)
		if err := e.start(); err != nil {
			t.Fatal(err)
		}
		e.look(5, rollout.Waiting)
		if k := e.p.Kept(); !slices.ContainsFunc(k, func(k bundle.Kept) bool { return k.Name == done.Name }) {
			t.Error("what is in force is not held")
		}

		// What was stopped here stays so, whoever enforces it.
		next, after := e.version(policy.Regional, 7, true, othersFirst), e.version(policy.Regional, 8, true, othersFirst)
		e.take(next)
		k, _ := e.p.Newest(policy.Regional, "east.dev.example")
		if err := e.p.move(k, rollout.State{Phase: rollout.Stopped, Since: time.Now(), Reason: "denies"}, "canary", nil); err != nil {
			t.Fatal(err)
		}
		e.take(after)
		e.peers = enforcing(next, next, next)
		e.look(5, rollout.Waiting)
	}
}

// Who passes a staged version on passes on beside it what was in force before, and nothing else.
func TestCarriesWhatAStagedVersionOvertakes(t *testing.T) {
	e := stagedEastOn(t)
	take := func(v *bundle.Verified) {
		t.Helper()
		if refused, err := e.p.Take(v, true); refused != nil || err != nil {
			t.Fatal(refused, err)
		}
	}
	carries := func(want ...uint64) {
		t.Helper()
		carried := e.p.Carried(func(k bundle.Kept) bool { return k.Handed })
		var got []uint64
		for _, name := range slices.Sorted(maps.Keys(carried)) { // a name goes before the same with more
			r, err := bundle.ReadRecord(carried[name])
			if r.Level != policy.Regional {
				continue
			}
			if err != nil || strings.HasSuffix(name, Overtaken) != (len(got) > 0) {
				t.Errorf("%s: version %d, %v", name, r.Version, err)
			}
			got = append(got, r.Version)
		}
		if !slices.Equal(got, want) {
			t.Errorf("carries %d, want %d", got, want)
		}
	}
	take(e.version(policy.Regional, 1, true, nil))
	take(e.version(policy.Regional, 2, true, nil))
	carries(2)
	for n := uint64(3); n < 6; n++ {
		take(e.version(policy.Regional, n, true, othersFirst))
		carries(n, 2)
	}
	e.peers = canaryPeer(rollout.Enforcing, time.Now().Add(-time.Hour))
	e.look(5, rollout.Enforcing)
	carries(5, 2)
	take(e.version(policy.Regional, 6, true, othersFirst))
	carries(6, 5)
	take(e.version(policy.Regional, 7, true, nil))
	carries(7)
}

// Two records of one version end as the same one in force, whichever came first, staged or not, and also
// after a restart; what a node had in force of the other is not what it goes back to.
func TestTwoRecordsOfOneVersionInForce(t *testing.T) {
	e := stagedEastOn(t)
	e.take(e.version(policy.Regional, 1, true, nil))
	first, second := e.version(policy.Regional, 2, true, nil), e.version(policy.Regional, 2, false, nil)
	if second.Over(first) {
		first, second = second, first
	}
	e.take(second)
	other := e.engine.Revision()
	e.take(first) // has the lower name
	e.expect(2)
	in := e.engine.Revision()
	if in == other || e.p.current(policy.Regional).Name != first.Name {
		t.Errorf("%s is in force", in)
	}
	if refused, err := e.p.Take(second, false); !errors.Is(refused, bundle.ErrConflict) || err != nil {
		t.Errorf("the other again: %v, %v", refused, err)
	}
	if err := e.start(); err != nil || e.engine.Revision() != in {
		t.Errorf("after a restart: %s, %v", e.engine.Revision(), err)
	}
	if conflicts, err := e.p.Book().Conflicts(); err != nil || len(conflicts) != 1 || conflicts[0].Name != second.Name {
		t.Errorf("%+v, %v", conflicts, err)
	}

	staged, rival := e.version(policy.Regional, 3, true, othersFirst), e.version(policy.Regional, 3, false, othersFirst)
	if rival.Over(staged) {
		staged, rival = rival, staged
	}
	e.take(rival)
	e.look(2, rollout.Waiting)
	e.take(staged)
	e.look(2, rollout.Waiting)
	e.peers = canaryPeer(rollout.Enforcing, time.Now().Add(-time.Hour))
	e.look(3, rollout.Enforcing)
	if e.p.current(policy.Regional).Name != staged.Name {
		t.Error("the one that gave way is in force")
	}
	e.take(e.version(policy.Regional, 4, true, nil))
	e.expect(4)
	if conflicts, err := e.p.Book().Conflicts(); err != nil || len(conflicts) != 0 {
		t.Errorf("%+v, %v", conflicts, err)
	}
}
