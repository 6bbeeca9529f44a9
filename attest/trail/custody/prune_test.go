package custody

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// A copy loses what its owner's trail gives up and is old here too; never one of the two alone. The copy
// stays whole, also for another that is made of it.
func TestCopiesArePruned(t *testing.T) {
	dirs := t
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(dirs, nodes(4)...)
		defer func() {
			for _, n := range r.nodes {
				n.end()
			}
		}()
		owner := nodes(4)[0]
		keeps, holds := r.nodes[Rank(owner, r.members())[0]], r.nodes[Rank(owner, r.members())[1]]
		keeps.cfg.Keep = 24 * time.Hour
		r.record(owner, 700)
		r.round()
		gone := func(n *node) uint64 {
			t.Helper()
			rep, err := trail.Verify(t.Context(), trail.EpochDir(n.place(owner).trail, 1), trail.Options{Node: owner})
			if err != nil || !rep.Good() {
				t.Errorf("the copy: %v, %v, %v", rep.Integrity, rep.Completeness, err)
			}
			return rep.Pruned
		}
		files := func(n *node) int {
			all, err := filepath.Glob(filepath.Join(n.place(owner).files, "*"))
			if err != nil {
				t.Fatal(err)
			}
			return len(all)
		}
		time.Sleep(48 * time.Hour)
		r.record(owner, 300)
		r.round()
		if n := gone(keeps); n != 0 || files(keeps) != 3 {
			t.Errorf("%d leaves went, and the owner gave none up; %d files", n, files(keeps))
		}
		if _, err := r.nodes[owner].tr.Prune(t.Context(), time.Now().Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
		r.round()
		if n := gone(keeps); n != 512 || files(keeps) != 2 {
			t.Errorf("%d leaves went, %d files are there", n, files(keeps))
		}
		if n := gone(holds); n != 0 || files(holds) != 3 {
			t.Errorf("%d leaves went where all are kept; %d files", n, files(holds))
		}
		keeps.Keeper = New(keeps.cfg) // after a restart it is not made again
		r.record(owner, 10)
		r.round()
		if n := gone(keeps); n != 512 || files(keeps) != 3 {
			t.Errorf("after a restart %d leaves are gone, %d files are there", n, files(keeps))
		}
		if err := os.RemoveAll(holds.cfg.Dir); err != nil {
			t.Fatal(err)
		}
		holds.Keeper = New(holds.cfg)
		r.nodes[owner].away = true
		r.round()
		if n := gone(holds); n != 512 {
			t.Errorf("a copy of a copy lacks %d", n)
		}
	})
}

// An owner sees who keeps its trail, how far, and whose copy is of another trail than its disk.
func TestCustodiansSeen(t *testing.T) {
	r := newRegion(t, nodes(5)...)
	owner := nodes(5)[0]
	own := r.nodes[owner]
	count := func() (whole int, behind uint64, errs []error) {
		for _, k := range own.Custodians() {
			if behind += k.Behind; k.Whole {
				whole++
			}
			if k.Err != nil {
				errs = append(errs, k.Err)
			}
		}
		return whole, behind, errs
	}
	r.round()
	r.round()
	if whole, behind, errs := count(); whole != 3 || behind != 0 || errs != nil {
		t.Errorf("%d whole copies, %d leaves behind, %v", whole, behind, errs)
	}
	r.record(owner, 100)
	own.round(t.Context()) // nobody has come for them yet
	if whole, behind, _ := count(); whole != 3 || behind != 3*101 {
		t.Errorf("just after leaves came: %d whole copies, %d leaves behind", whole, behind)
	}
	own.round(t.Context())
	if whole, _, _ := count(); whole != 0 {
		t.Errorf("a round later, and nobody came: %d whole copies", whole)
	}
	r.nodes[Rank(owner, r.members())[0]].away = true
	r.round()
	r.round()
	if whole, _, errs := count(); whole != 2 || len(errs) != 1 {
		t.Errorf("one is away: %d whole copies, %v", whole, errs)
	}
	own.end()
	if err := errors.Join(os.RemoveAll(own.cfg.Trail), os.Remove(filepath.Join(own.dir, "store"))); err != nil {
		t.Fatal(err)
	}
	own.begin(t, owner, 1)
	own.round(t.Context())
	whole, _, errs := count()
	lost := 0
	for _, err := range errs {
		if errors.Is(err, trail.ErrRollback) {
			lost++
		}
	}
	if whole != 0 || lost != 2 {
		t.Errorf("on another disk: %d whole copies, %v", whole, errs)
	}
}
