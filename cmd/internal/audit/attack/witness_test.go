package attack

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
)

// cosignature has a witness cosign a head, with the proof that it wants.
func cosignature(t *testing.T, w *witness.Keeper, n *node, dir string, head trail.Checkpoint) []byte {
	t.Helper()
	kept, err := w.Kept(head.Origin)
	must(t, err)
	old := min(kept.Size, head.Size)
	proof, err := trail.Consistency(dir, old, head.Size)
	must(t, err)
	a := w.Add(n.id, witness.Request{Old: old, Proof: proof, Head: head.Raw}.Encode())
	if a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	return a.Body
}

// judged is what cosignatures make of a head for one who believes the region's roster.
func (n *node) judged(head trail.Checkpoint, lines ...[]byte) witness.Verdict {
	n.r.t.Helper()
	c, err := trail.OpenCheckpoint(witness.Assemble(head.Raw, lines...), n.vkey())
	must(n.r.t, err)
	return witness.Judge(c, func(h [32]byte) (witness.Roster, bool) { return n.r.nodes[0].book.ByHash(h, time.Now()) })
}

// parted makes two histories of a node's trail that share all but their ends, and leaves
// the node down. Nobody has seen either.
func parted(t *testing.T, n *node) (dirs [2]string, heads [2]trail.Checkpoint) {
	t.Helper()
	n.await(n.record(20))
	n.down()
	before := n.copyDisk()
	n.leave(true)
	for i := range dirs {
		n.put(before)
		n.up()
		time.Sleep(time.Second)
		n.record(5 + 2*i)
		head, err := trail.OpenCheckpoint(n.trail.Head().Raw, n.vkey())
		must(t, err)
		n.down()
		heads[i], dirs[i] = head, trail.EpochDir(filepath.Join(n.copyDisk(), "trail"), 1)
	}
	return dirs, heads
}

// forgetful is a witness without a memory: it cosigns whatever head comes first.
func forgetful(t *testing.T, w *node, self spiffeid.ID, now func() time.Time) *witness.Keeper {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	must(t, err)
	t.Cleanup(func() { _ = st.Close() })
	return w.asWitness(st, self, w.cosigner, now)
}

// Two histories are shown, each to half of the witnesses.
func TestTwoHeads(t *testing.T) {
	simulated(t, func(t *testing.T, r *region) {
		n := r.nodes[4]
		dirs, heads := parted(t, n)
		var lines [2][][]byte
		for i, w := range n.witnesses() {
			lines[i%2] = append(lines[i%2], cosignature(t, w.witness, n, dirs[i%2], heads[i%2]))
		}
		for i := range heads {
			if v := n.judged(heads[i], lines[i]...); v.Good || len(v.By) != 2 {
				t.Errorf("half of the witnesses are enough: %+v", v)
			}
		}
		// A third witness for the longer one meets those who saw the other.
		w := n.witnesses()[0]
		kept, err := w.witness.Kept(n.origin())
		must(t, err)
		proof, err := trail.Consistency(dirs[1], kept.Size, heads[1].Size)
		must(t, err)
		if a := w.witness.Add(n.id, witness.Request{Old: kept.Size, Proof: proof, Head: heads[1].Raw}.Encode()); a.Status == 200 {
			t.Error("a witness cosigned both")
		}
		r.convicted(n, 1)
		r.unharmed(n)
	})
}

// Witnesses that lie cosign another history together with the node.
func TestCollusion(t *testing.T) {
	collude := func(t *testing.T, r *region, n *node, liars func(chosen, others []*node) [][]byte, head *trail.Checkpoint) witness.Verdict {
		chosen := n.witnesses()
		var others []*node
		for _, p := range r.nodes {
			if p != n && p != chosen[0] && p != chosen[1] && p != chosen[2] && p != chosen[3] {
				others = append(others, p)
			}
		}
		return n.judged(*head, liars(chosen, others)...)
	}
	for name, lie := range map[string]func(t *testing.T, n *node, dir string, head trail.Checkpoint, chosen, others []*node) [][]byte{
		// Two of them, twice each.
		"twice": func(t *testing.T, n *node, dir string, head trail.Checkpoint, chosen, _ []*node) (out [][]byte) {
			for _, w := range []*node{chosen[0], chosen[1], chosen[0], chosen[1]} {
				out = append(out, cosignature(t, forgetful(t, w, w.id, time.Now), n, dir, head))
			}
			return out
		},
		// Two of them, and others that are not its witnesses.
		"not chosen": func(t *testing.T, n *node, dir string, head trail.Checkpoint, chosen, others []*node) (out [][]byte) {
			for _, w := range chosen[:2] {
				out = append(out, cosignature(t, forgetful(t, w, w.id, time.Now), n, dir, head))
			}
			for _, w := range others {
				out = append(out, cosignature(t, forgetful(t, w, chosen[0].id, time.Now), n, dir, head))
			}
			return out
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T, r *region) {
				n := r.nodes[5]
				dirs, heads := parted(t, n)
				v := collude(t, r, n, func(chosen, others []*node) [][]byte { return lie(t, n, dirs[0], heads[0], chosen, others) }, &heads[0])
				if v.Good || len(v.By) != 2 || v.Why == "" {
					t.Errorf("%+v", v)
				}
				r.unharmed(n)
			})
		})
	}
}

// A key that was stolen when its time was over signs a leaf that says it is of before.
func TestBackDated(t *testing.T) {
	// It comes under a head only now, and one witness that lies about the time does not change it.
	t.Run("witnesses", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *region) {
			n := r.nodes[5]
			n.await(n.record(3))
			over := time.Now().Add(5 * time.Minute)
			long := time.Now()
			time.Sleep(10 * time.Minute)
			n.leaf(trail.StateOut, map[string]any{"epoch": 1, "seq": 9, "ops": 1, "record": make([]byte, 32), "at": long.Unix()})
			n.record(0)
			head, err := trail.OpenCheckpoint(n.trail.Head().Raw, n.vkey())
			must(t, err)
			n.down()
			var lines [][]byte
			for i, w := range n.witnesses() {
				keeper := w.witness
				if i == 0 {
					keeper = forgetful(t, w, w.id, func() time.Time { return long })
				}
				lines = append(lines, cosignature(t, keeper, n, n.epoch(), head))
			}
			if v := n.judged(head, lines...); !v.Good || !v.Seen.After(over) {
				t.Errorf("seen by %s, the key's time was over at %s: %+v", v.Seen, over, v)
			}
			r.unharmed(n)
		})
	})
	// The leaf itself has a time at which the certificate was valid: a case file tells that
	// nobody saw it then.
	t.Run("auditor", func(t *testing.T) {
		simulated(t, func(t *testing.T, r *region) {
			n, auditor := r.nodes[5], r.auditor()
			before := time.Now()
			n.leaf(trail.IdentityEpoch, epochLeaf(t, auditor.root, n.id, 20*time.Minute))
			n.await(n.record(3))
			if rep := auditor.whole(t, n.dir()); !rep.Dated.Good || rep.Dated.Seen != 1+4 || rep.Certificates.Verified != 1 {
				t.Fatalf("in time: %+v, %+v", rep.Dated, rep.Certificates)
			}
			ended := time.Now().Add(20 * time.Minute)
			n.down()
			st, err := store.Open(filepath.Join(n.disk, "state.db"))
			must(t, err)
			must(t, st.Update(func(tx *store.Tx) error {
				return trail.Append(tx, trail.StateOut, map[string]any{"epoch": 1, "seq": 9, "ops": 1, "record": make([]byte, 32)})
			}))
			must(t, st.Close())
			time.Sleep(40 * time.Minute)
			n.up() // what it wrote with the old clock comes under a head
			n.await(n.record(0))
			rep := auditor.whole(t, n.dir())
			if d := rep.Dated; d.Good || len(d.Late) != 1 || d.Late[0].At.After(ended) || d.Late[0].At.Before(before) || !d.Late[0].Seen.After(ended) {
				t.Errorf("%+v", d)
			}
			r.unharmed(nil)
		})
	})
}
