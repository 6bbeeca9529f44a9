package replica

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// pairProof is a proof that two records of one seq contradict.
func pairProof(t *testing.T, cert []byte, a, b feed.Record) []byte {
	t.Helper()
	if x, y := a.ID(), b.ID(); bytes.Compare(x[:], y[:]) > 0 {
		a, b = b, a
	}
	proof, err := statement.Marshal(struct {
		Form  uint8  `cbor:"1,keyasint"`
		Cert  []byte `cbor:"2,keyasint"`
		First []byte `cbor:"3,keyasint"`
		Other []byte `cbor:"4,keyasint"`
	}{1, cert, a.Statement(), b.Statement()})
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// Whose key signs at will can prove as many forks as it likes. Only what moves the
// feed's end is kept and told, and of that not everything.
func TestFindingsAreBounded(t *testing.T) {
	for name, tc := range map[string]struct {
		seq  func(i int) int // of the fork
		told int
		kept int
	}{
		"one place":      {func(int) int { return 1 }, 1, 1},
		"ever earlier":   {func(i int) int { return 40 - i }, 40, maxFindings},
		"ever later":     {func(i int) int { return 1 + i }, 1, 1},
		"back and forth": {func(i int) int { return 40 - i/2*2 + i%2 }, 20, maxFindings},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, liar, teller := newNode(t, 1), newHostile(t, 8), newHostile(t, 9)
				liar.self.Cert = bytes.Replace(liar.self.Cert, []byte(`"Attested":true`), []byte(`"Attested":false`), 1)
				on := teller.to(n)
				prev, end := feed.ID{}, uint64(99)
				for i := range 40 {
					at := uint64(tc.seq(i))
					end = min(end, at-1)
					one := liar.sign(feed.Header{Seq: at, Prev: feed.ID{byte(at)}, HLC: now(), Policy: fmt.Sprint("a", i)})
					other := liar.sign(feed.Header{Seq: at, Prev: feed.ID{byte(at)}, HLC: now(), Policy: fmt.Sprint("b", i)})
					proof := pairProof(t, liar.self.Cert, one, other)
					f, err := feed.VerifyProof(proof, keyFunc)
					if err != nil || f.LastGood != at-1 {
						t.Fatalf("%+v: %v", f, err)
					}
					key := feed.KeyOf(teller.id, feed.KindEvidence, feed.EvidenceName(f.Digest))
					rec := teller.sign(feed.Header{Seq: uint64(i + 1), Prev: prev, HLC: now() + feed.HLC(i)},
						op(key, string(proof)), feed.Op{Key: key, Action: feed.Del, Scope: feed.ScopeRegion})
					prev = rec.ID()
					on.send(frameRecord, rec.Bytes())
					settle(1)
				}
				if got := len(n.found()); got != tc.told {
					t.Errorf("%d findings were told, want %d", got, tc.told)
				}
				for range 2 {
					onDisk := 0
					if err := n.store.View(func(tx *store.Tx) error {
						tx.Range(bucketProofs, nil, func(_, _ []byte) bool { onDisk++; return true })
						return nil
					}); err != nil {
						t.Fatal(err)
					}
					if onDisk != tc.kept || len(n.Replica.findings) != tc.kept {
						t.Errorf("%d proofs are on disk, %d in memory, want %d", onDisk, len(n.Replica.findings), tc.kept)
					}
					if got := n.ends[liar.key.Feed()]; got != end {
						t.Errorf("the feed ends at %d, want %d", got, end)
					}
					n.restart()
					settle(1)
				}
			})
		})
	}
}

// A proof that convicts is kept whatever was known before, and stays the last one.
func TestConvictingFindingIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, liar := newNode(t, 1), newHostile(t, 8)
		id := liar.key.Feed()
		find := func(i int, class string, lastGood uint64) {
			if err := n.do(t.Context(), func() error {
				f := feed.Finding{Accused: liar.id, Epoch: 1, Class: class, LastGood: lastGood, Digest: [32]byte{byte(i)}}
				if n.matters(f) {
					n.learnFinding(f, []byte{1})
					n.spareFindings(f)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		find(1, feed.ClassForkUnattested, 60)
		find(2, feed.ClassClockBack, 80)
		find(3, feed.ClassClockBack, 90)
		for i := range 40 {
			find(4+i, feed.ClassForkUnattested, uint64(50-i))
		}
		kept := n.Replica.findings
		if len(kept) != maxFindings || kept[[32]byte{2}].Class != feed.ClassClockBack || n.ends[id] != 11 {
			t.Errorf("%d findings, convicting %+v, end %d", len(kept), kept[[32]byte{2}].Finding, n.ends[id])
		}
	})
}

// After a release a proof about an earlier epoch holds nobody again, also where nothing
// of the origin is known.
func TestReleaseAnswersEarlierEpochs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, liar := newNode(t, 1), newHostile(t, 8)
		a := liar.sign(feed.Header{Seq: 1, HLC: now()}, op(feed.KeyOf(liar.id, feed.KindService, "shop"), "1"))
		b := liar.sign(feed.Header{Seq: 1, HLC: now() + 1}, op(feed.KeyOf(liar.id, feed.KindService, "shop"), "2"))
		if err := n.Thaw(t.Context(), liar.id, 2); err != nil {
			t.Fatal(err)
		}
		if err := n.do(t.Context(), func() error { return n.prove(pairProof(t, liar.self.Cert, a, b), false) }); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		if len(n.found()) != 1 || n.holds[liar.id].Held {
			t.Errorf("%d findings, held %t", len(n.found()), n.holds[liar.id].Held)
		}
	})
}

// Who holds an origin takes nothing more of a feed that no finding ends: so nodes that began
// to hold it at different times have different heads. That costs nothing while it lasts, and
// when the last has let go all have the same.
func TestHeldFeedsConvergeAfterRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := ring(t, 5)
		origin, judges := nodes[0], nodes[1:]
		settle(2 * time.Second)
		for i, n := range judges {
			origin.put("shop", fmt.Sprint(i))
			settle(time.Second)
			if err := n.Freeze(t.Context(), origin.id); err != nil {
				t.Fatal(err)
			}
		}
		origin.put("shop", "last")
		settle(30 * time.Second)
		roots := map[[32]byte]bool{}
		for _, n := range judges {
			roots[n.root()] = true
			if d := n.debtNow(); d.Missing.Records > 0 {
				t.Errorf("%s misses %+v of who it holds", n.id, d.Missing)
			}
		}
		if len(roots) < 2 {
			t.Error("all hold the same: nothing is shown")
		}
		for _, n := range judges {
			if err := n.Thaw(t.Context(), origin.id, 0); err != nil {
				t.Fatal(err)
			}
			settle(time.Second)
		}
		settle(20 * time.Second)
		converged(t, nodes...)
		if e, ok := judges[1].Get(origin.key("shop")); !ok || string(e.Value) != "last" || e.Suspect {
			t.Errorf("after its release %+v, %v", e, ok)
		}
	})
}
