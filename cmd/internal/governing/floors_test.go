package governing

import (
	"crypto/ecdsa"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
)

// A node that joins late takes from nobody what is older than what its issuer showed it when it enrolled,
// not from a hostile peer that has nothing else, nor from its own configuration; and denies until the newer
// comes. What is not signed sets no floor.
func TestLateJoinerHasAFloor(t *testing.T) {
	st := openStore(t, filepath.Join(t.TempDir(), "node.db"))
	e := newStagedEast(t, st)
	must(t, e.start())
	global, old, current := e.version(policy.Global, 1, true, nil), e.version(policy.Regional, 3, true, nil), e.version(policy.Regional, 7, false, nil)
	stranger := newStagedEast(t, st)
	heads := [][]byte{global.Statement(), current.Statement(), stranger.version(policy.Global, 900, true, nil).Statement()}

	floors := NewFloors(slog.New(slog.DiscardHandler))
	must(t, floors.Told(heads))
	must(t, floors.Open(e.p.Book(), []*ecdsa.PublicKey{&e.global.PublicKey})) // the enrolment may come first

	e.take(global)
	for range 2 {
		if refused, err := e.p.Take(old, false); !errors.Is(refused, bundle.ErrFloor) || err != nil {
			t.Errorf("an old version: %v, %v", refused, err)
		}
		if v := e.p.Version(policy.Regional); v != 0 || e.decide(0).Allow {
			t.Errorf("version %d is in force", v)
		}
		file, err := bundle.Join(old.Statement(), old.Packed())
		must(t, err)
		path := filepath.Join(t.TempDir(), "old.policy")
		must(t, os.WriteFile(path, file, 0o600))
		e.c.Policy.Region = config.Path(path)
		must(t, e.start())
		must(t, e.p.Reload())
	}
	e.take(current)
	e.expect(7)
}

// A node that holds an older version keeps it until the newer comes, and takes nothing in between.
func TestFloorOfANodeThatWasAway(t *testing.T) {
	e := stagedEastOn(t)
	e.take(e.version(policy.Regional, 3, true, nil))
	current := e.version(policy.Regional, 7, true, othersFirst)
	if err := e.p.Book().Raise(current); err != nil {
		t.Fatal(err)
	}
	if refused, err := e.p.Take(e.version(policy.Regional, 6, true, nil), false); !errors.Is(refused, bundle.ErrFloor) || err != nil {
		t.Errorf("%v, %v", refused, err)
	}
	e.expect(3)
	if err := e.start(); err != nil {
		t.Fatal(err)
	}
	e.expect(3)
	e.take(current)
	e.peers = nil
	e.look(3, rollout.Waiting)
	e.take(e.version(policy.Regional, 8, true, nil))
	e.expect(8)
}

// Who enrols is told of what all enforce: not of a staged version that is on its way.
func TestPolicyHeads(t *testing.T) {
	one, other := [32]byte{1}, [32]byte{2}
	heard := func(enforces ...[32]byte) (out []rollout.Peer) {
		for _, e := range enforces {
			out = append(out, rollout.Peer{Heard: true, Enforces: [8]byte(e[:8])})
		}
		return append(out, rollout.Peer{Enforces: [8]byte{9}})
	}
	for name, c := range map[string]struct {
		peers []rollout.Peer
		want  bool
	}{"all": {heard(one, one), true}, "one does not": {heard(one, other), false}, "one has not said": {heard(one, [32]byte{}), true}} {
		if got := allEnforce(c.peers, one); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	e := stagedEastOn(t)
	e.take(e.version(policy.Regional, 2, true, nil))
	e.take(e.version(policy.Regional, 3, true, othersFirst))
	heads := e.p.Heads(e.c.Node, func(bundle.Kept) []rollout.Peer { return e.peers })
	if len(heads) != 2 {
		t.Fatalf("%d records", len(heads))
	}
	if r, err := bundle.ReadRecord(heads[1]); err != nil || r.Level != policy.Regional || r.Version != 2 {
		t.Errorf("%s, %v", r.String(), err)
	}
}
