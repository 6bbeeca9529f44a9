package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// What was proved while a link was down comes over it when it is back, also where it
// carries nothing else but headers: once. It does not matter which side compares.
func TestHeadersCatchUpWithProofs(t *testing.T) {
	for _, writer := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			nodes, c := under(t, 2, Terms{Mode: Headers}), &traffic{}
			a, b, liar := nodes[writer], nodes[1-writer], newHostile(t, 8)
			cut := c.pair(a, b)
			settle(2 * time.Second)
			a.put("k", "before")
			settle(time.Second)
			cut()
			a.put("k", "while apart")
			one := liar.sign(feed.Header{Seq: 1, HLC: now(), Policy: "a"})
			other := liar.sign(feed.Header{Seq: 1, HLC: now(), Policy: "b"})
			proof := pairProof(t, liar.self.Cert, one, other)
			f, err := feed.VerifyProof(proof, keyFunc)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.Put(t.Context(), op(feed.KeyOf(a.id, feed.KindEvidence, feed.EvidenceName(f.Digest)), string(proof))); err != nil {
				t.Fatal(err)
			}
			a.put("k", "after")
			sent := c.records.Load()
			c.pair(a, b)
			settle(3 * time.Minute)
			if len(b.found()) != 1 {
				t.Errorf("%d findings", len(b.found()))
			}
			if got := c.records.Load() - sent; got != 1 {
				t.Errorf("%d bodies were sent, want the one with the proof", got)
			}
		})
	}
}

// What an authority signed is in force behind a link that carries headers, though it
// follows records that were not sent: they are fetched.
func TestHeadersBringWhatAnAuthoritySigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, c := under(t, 2, Terms{Mode: Headers}), &traffic{}
		a, b := nodes[0], nodes[1]
		write := func(name string) string {
			t.Helper()
			a.put("k", "before "+name)
			key := feed.KeyOf(a.id, feed.KindAuthority, name)
			if _, err := a.Put(t.Context(), op(key, "signed")); err != nil {
				t.Fatal(err)
			}
			return key
		}
		cut := c.pair(a, b)
		settle(2 * time.Second)
		key := write("linked")
		settle(10 * time.Second)
		if _, ok := b.Get(key); !ok {
			t.Error("what came over the link is not in force")
		}
		cut()
		settle(2 * askedFor)
		key = write("apart")
		settle(time.Second)
		c.pair(a, b)
		settle(2 * time.Minute)
		if _, ok := b.Get(key); !ok {
			t.Error("what was signed while apart is not in force")
		}
	})
}
