package issuer_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// What could not be recorded is not sent: break each commit of a node's way,
// twice, and look at what it got.
func TestNotRecordedNotIssued(t *testing.T) {
	steps := []string{"server", "agent", "node", "epoch"} // the commits, in order
	for i, step := range steps {
		for _, fault := range []store.Fault{store.FaultBefore, store.FaultAfter} {
			faulty, err := store.OpenFaulty(filepath.Join(t.TempDir(), "store"), func(op int) store.Fault {
				if op == i+1 {
					return fault
				}
				return store.NoFault
			})
			if err != nil {
				t.Fatal(err)
			}
			r := newRegion(t, func(c *issuer.Config) { c.Store = faulty })
			got, err := walk(r)
			faulty.Close()
			if err == nil || errors.Is(err, spire.ErrAnswer) {
				t.Errorf("%s, fault %v: %v", step, fault, err)
			}
			if len(got) != max(i-1, 0) {
				t.Errorf("%s, fault %v: the node got %v", step, fault, got)
			}
		}
	}
}

// walk takes a node's way as far as it goes and says what it got.
func walk(r *region) (got []string, err error) {
	a, err := spire.Attest(r.t.Context(), r.cfg, r.machine, r.machine.key)
	if err != nil {
		return got, err
	}
	got = append(got, "agent")
	c := r.dial(a)
	results, err := c.NewX509SVIDs(r.t.Context(), []spire.Request{{EntryID: r.entry(c, n1).ID, ID: n1, Key: r.machine.key}})
	if err != nil {
		return got, err
	}
	if err := results[0].Err; err != nil {
		return got, err
	}
	got = append(got, "node")
	if _, err := c.Enrol(r.t.Context(), nil, 0, nil, 0); err != nil {
		return got, err
	}
	return append(got, "epoch"), nil
}

// That an SVID is shown for the first time is remembered with what comes of the call,
// in one commit: a region that renews at once pays for each commit.
func TestOneCommitForARenewal(t *testing.T) {
	commits := 0
	counted, err := store.OpenFaulty(filepath.Join(t.TempDir(), "store"), func(int) store.Fault {
		commits++
		return store.NoFault
	})
	if err != nil {
		t.Fatal(err)
	}
	defer counted.Close()
	r := newRegion(t, func(c *issuer.Config) { c.Store = counted })
	r.token("once", time.Hour)
	key := newKey(t)
	agent, err := spire.Attest(t.Context(), r.cfg, spire.NewJoinToken("once"), key)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		count := commits
		svid, err := r.dial(agent).Renew(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if n := commits - count; n != 1 {
			t.Errorf("%d commits, want 1", n)
		}
		before, after := r.dial(agent), r.dial(spire.Agent{SVID: svid})
		if _, err := before.Entries(t.Context(), nil); err != nil {
			t.Errorf("the SVID shown works until the next is: %v", err)
		}
		if _, err := after.Entries(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if _, err := before.Entries(t.Context(), nil); !errors.Is(err, spire.ErrMustAttest) {
			t.Errorf("the SVID before still works: %v", err)
		}
		if agent.SVID, err = after.Renew(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
}
