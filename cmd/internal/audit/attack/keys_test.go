package attack

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
)

// madeUp is a trail of a node in an epoch by another's key: the folder of all epochs, and the
// head.
func madeUp(t *testing.T, n *node, epoch uint64, key *ecdsa.PrivateKey, roster [32]byte) (dir string, head trail.Checkpoint) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "trail")
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	must(t, err)
	defer st.Close()
	must(t, st.Update(func(tx *store.Tx) error { return trail.Append(tx, trail.NodeStart, map[string]any{}) }))
	tr, err := trail.Open(trail.Config{
		Dir: dir, Node: n.id, Epoch: epoch, Key: key, Protection: "tpm", Endorsement: n.endorsement, Store: st, Roster: func() [32]byte { return roster },
	})
	must(t, err)
	must(t, tr.Flush(t.Context()))
	head, err = trail.OpenCheckpoint(tr.Head().Raw, tr.VerifierKey())
	must(t, err)
	must(t, tr.Close())
	return dir, head
}

// Keys are shown as a node's that are not.
func TestForeignKeys(t *testing.T) {
	// Who stole what signs a node's state shows a trail key of its own for the next epoch, and
	// the node's own endorsement with it.
	t.Run("of a trail", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *region) {
			n, thief := r.nodes[3], signingKey(t)
			origin, err := trail.Origin(n.id, 2)
			must(t, err)
			chosen := n.witnesses()
			_, head := madeUp(t, n, 2, thief, n.book.Roster(time.Now()).Hash())
			keys, err := witnessing.NewRecord(thief, origin, n.cosigner.Verifier(), n.endorsement, time.Now())
			must(t, err)
			n.say(keys)
			for _, w := range chosen {
				if a := w.witness.Add(n.id, witness.Request{Head: head.Raw}.Encode()); a.Status != 404 {
					t.Errorf("%s: %d %s", w.id, a.Status, a.Body)
				}
			}
			n.show()
			time.Sleep(10 * time.Second)
			r.unharmed(nil)
		})
	})
	// A node shows as its own a witness key for which its trail key does not speak.
	t.Run("of a witness", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *region) {
			n := r.nodes[3]
			keys, err := witnessing.NewRecord(n.key, n.origin(), n.cosigner.Verifier(), n.endorsement, time.Now())
			must(t, err)
			other, err := witness.NewKey(n.id, [32]byte{1})
			must(t, err)
			keys.Witness = other.Verifier()
			b, err := keys.Encode()
			must(t, err)
			if v, err := witnessing.ReadRecord(b); !errors.Is(err, witnessing.ErrRecord) {
				t.Errorf("%+v, %v", v, err)
			}
			r.unharmed(nil)
		})
	})
	// A custodian makes up a trail of a node that is silent, and another takes its copy from it.
	t.Run("of a copy", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *region) {
			n := r.nodes[3]
			liar, victim := n.custodians()[0], n.custodians()[1]
			dir, head := madeUp(t, n, 1, signingKey(t), [32]byte{})
			for _, p := range r.nodes {
				p.leave(p != victim && p != liar)
			}
			for _, p := range []*node{liar, victim} {
				p.down()
				must(t, os.RemoveAll(p.copyOf(n)))
			}
			must(t, os.CopyFS(filepath.Join(liar.copyOf(n), "trail"), os.DirFS(dir)))
			victim.up()
			liar.up()
			time.Sleep(10 * time.Minute)
			path := filepath.Join(trail.EpochDir(filepath.Join(victim.copyOf(n), "trail"), 1), "checkpoint")
			if b, err := os.ReadFile(path); err == nil && bytes.Equal(b, head.Raw) {
				t.Error("the made-up trail was taken in")
			}
			for _, p := range r.nodes {
				p.leave(false)
			}
			time.Sleep(10 * time.Minute)
			if b, err := os.ReadFile(path); err != nil {
				t.Errorf("the right one was not: %v", err)
			} else if _, err := trail.OpenCheckpoint(b, n.vkey()); err != nil {
				t.Error(err)
			}
			liar.down() // it held on to what it made up
			must(t, os.RemoveAll(liar.copyOf(n)))
			liar.up()
			liar.forget(n.id)
			r.unharmed(nil)
		})
	})
}

// An honest node is accused of two histories.
func TestFalseAccusation(t *testing.T) {
	accuse := func(t *testing.T, name string, conflict func(t *testing.T, n *node) witness.Conflict) {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T, r *region) {
				n := r.nodes[2]
				a := witness.Accusation{Conflict: conflict(t, n), Endorsement: n.endorsement}
				if who, _, err := witnessing.Convict(a, r.authorityKey); err == nil {
					t.Errorf("%s is convicted", who)
				}
				r.unharmed(nil)
			})
		})
	}
	// Two of its heads, of which the one extends the other.
	accuse(t, "one history", func(t *testing.T, n *node) witness.Conflict {
		n.record(3)
		first := n.trail.Head()
		n.record(4)
		second := n.trail.Head()
		proof, err := trail.Consistency(n.epoch(), first.Size, second.Size)
		must(t, err)
		return witness.Conflict{Key: n.vkey(), First: first.Raw, Second: second.Raw, Proof: proof}
	})
	// Two heads of two histories, by a key that is not its own.
	accuse(t, "another key", func(t *testing.T, n *node) witness.Conflict {
		thief := signingKey(t)
		_, first := madeUp(t, n, 1, thief, [32]byte{})
		time.Sleep(time.Second)
		_, second := madeUp(t, n, 1, thief, [32]byte{})
		vkey, err := trail.VerifierKey(n.origin(), &thief.PublicKey)
		must(t, err)
		c := witness.Conflict{Key: vkey, First: first.Raw, Second: second.Raw}
		if _, err := c.Verify(); err != nil {
			t.Fatalf("the test shows no conflict: %v", err)
		}
		return c
	})
}
