package attack

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
)

// hints are the refusals without a proof.
func hints(all []refusal, why witness.Reason) (n int) {
	for _, f := range all {
		if f.why == why && f.conflict == nil {
			n++
		}
	}
	return n
}

// goneOn records leaves, takes a copy of the disk, records more that are witnessed, and leaves the node down.
func (n *node) goneOn(leaves, more int) (old string) {
	n.r.t.Helper()
	n.await(n.record(leaves))
	n.down()
	old = n.copyDisk()
	n.up()
	n.await(n.record(more))
	n.down()
	return old
}

// An old copy of the disk is put back, and the node goes on from there.
func TestRestoredDisk(t *testing.T) {
	// The witnesses take the older head for a restore, and say so; it convicts nobody.
	t.Run("older head", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *region) {
			n := r.nodes[1]
			old := n.goneOn(67, 3)
			n.put(old)
			n.up()
			n.record(1) // under a new head, of fewer leaves than they cosigned
			time.Sleep(20 * time.Second)
			if got := hints(r.refusals(n), witness.Rollback); got < witness.Quorum {
				t.Errorf("%d of its witnesses tell of a rollback: %+v", got, r.refusals(n))
			}
			if !n.trail.Head().Unwitnessed {
				t.Error("the head is witnessed")
			}
			r.unharmed(n)
		})
	})
	// What it records from then on is another history: that is a proof.
	t.Run("goes on", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *region) {
			n := r.nodes[1]
			old := n.goneOn(67, 3)
			n.put(old)
			n.up()
			n.record(9)
			time.Sleep(20 * time.Second)
			r.convicted(n, witness.Quorum)
			if !n.trail.Head().Unwitnessed {
				t.Error("the other history is witnessed")
			}
			r.unharmed(n)
		})
	})
	// A folder of trails alone is put back: the store knows better, and so does the node.
	t.Run("without its store", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *region) {
			n := r.nodes[1]
			old := n.goneOn(5, 5)
			must(t, errors.Join(os.RemoveAll(n.dir()), os.CopyFS(n.dir(), os.DirFS(filepath.Join(old, "trail")))))
			st, err := store.Open(filepath.Join(n.disk, "state.db"))
			must(t, err)
			defer st.Close()
			must(t, st.Update(func(tx *store.Tx) error { return trail.Append(tx, trail.NodeStart, map[string]any{}) }))
			tr, err := trail.Open(trail.Config{Dir: n.dir(), Node: n.id, Epoch: 1, Key: n.key, Store: st})
			if !errors.Is(err, trail.ErrOtherStore) {
				t.Errorf("it opens: %v", errors.Join(err, tr.Close()))
			}
			r.unharmed(n)
		})
	})
}

// The whole history is written anew, as long as before, and signed by the right key.
func TestRewrittenTrail(t *testing.T) {
	simulated(t, func(t *testing.T, r *region) {
		n := r.nodes[2]
		size := n.record(66)
		n.await(size)
		n.down()
		must(t, os.RemoveAll(n.disk))
		must(t, os.MkdirAll(n.disk, 0o755))
		st, err := store.Open(filepath.Join(n.disk, "state.db"))
		must(t, err)
		must(t, st.Update(func(tx *store.Tx) error {
			for i := range size - 2 { // behind the genesis and trail.open
				if err := trail.Append(tx, trail.StateOut, map[string]any{"clean": i}); err != nil {
					return err
				}
			}
			return nil
		}))
		must(t, st.Close())
		n.up()
		n.record(0)
		time.Sleep(20 * time.Second)
		if got := n.trail.Head(); got.Size != size || !got.Unwitnessed {
			t.Fatalf("%d leaves, not %d; unwitnessed %t", got.Size, size, got.Unwitnessed)
		}
		r.convicted(n, witness.Quorum)
		r.unharmed(n)
	})
}

// The last leaves are cut off.
func TestTruncatedTail(t *testing.T) {
	cut := func(t *testing.T, r *region, n *node) (before trail.Checkpoint) {
		n.await(n.record(20))
		n.down()
		old := n.copyDisk()
		n.up()
		n.await(n.record(4))
		time.Sleep(10 * time.Minute) // custodians come
		before, err := trail.OpenCheckpoint(n.trail.Head().Raw, n.vkey())
		must(t, err)
		n.down()
		n.put(old)
		return before
	}
	t.Run("auditor", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *region) {
			n := r.nodes[3]
			before := cut(t, r, n)
			rep, err := trail.Verify(context.Background(), n.epoch(), trail.Options{VerifierKey: n.vkey(), Known: &before})
			must(t, err)
			if !rep.Integrity.Good || rep.Completeness.Good || !errors.Is(rep.Completeness.Err, trail.ErrRollback) {
				t.Errorf("%s, %s", rep.Integrity, rep.Completeness)
			}
			r.unharmed(n)
		})
	})
	t.Run("custodian", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *region) {
			n := r.nodes[3]
			before := cut(t, r, n)
			n.up()
			time.Sleep(10 * time.Minute)
			for _, c := range n.custodians() {
				if err := c.finding(n.id); !errors.Is(err, trail.ErrRollback) {
					t.Errorf("%s: %v", c.id, err)
				}
				s, err := trail.OpenSnapshot(trail.EpochDir(filepath.Join(c.copyOf(n), "trail"), 1))
				must(t, err)
				if s.Head().Size != before.Size {
					t.Errorf("%s gave up %d leaves for %d", c.id, before.Size, s.Head().Size)
				}
			}
			r.unharmed(n)
		})
	})
}
