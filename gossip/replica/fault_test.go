package replica

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

func newPipe() (net.Conn, net.Conn) { return net.Pipe() }

func TestEquivocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := ring(t, 5)
		liar := newHostile(t, 9)
		shop := feed.KeyOf(liar.id, feed.KindService, "shop")
		good := liar.sign(feed.Header{Seq: 1, HLC: now()}, op(shop, "good"))
		left, right := liar.to(nodes[0]), liar.to(nodes[2])
		left.send(frameRecord, good.Bytes())
		settle(time.Millisecond)
		a := liar.sign(feed.Header{Seq: 2, Prev: good.ID(), HLC: now() + 1}, op(shop, "a"))
		b := liar.sign(feed.Header{Seq: 2, Prev: good.ID(), HLC: now() + 1}, op(shop, "b"))
		left.send(frameRecord, a.Bytes())
		right.send(frameRecord, b.Bytes())
		settle(time.Millisecond) // no tick is needed
		var first feed.Finding
		for i, n := range nodes {
			got := n.found()
			if len(got) != 1 {
				t.Fatalf("%s: %d findings", n.id, len(got))
			}
			if i == 0 {
				first = got[0]
			}
			if got[0] != first || got[0].Accused != liar.id || got[0].Class != feed.ClassEquivocation || got[0].LastGood != 1 {
				t.Errorf("%s: %+v, first was %+v", n.id, got[0], first)
			}
			if e, ok := n.Get(shop); !ok || string(e.Value) != "good" || !e.Suspect {
				t.Errorf("%s shows %q, suspect %v: want the last common record", n.id, e.Value, e.Suspect)
			}
		}
		next := liar.sign(feed.Header{Seq: 3, Prev: a.ID(), HLC: now() + 2}, op(shop, "more"))
		left.send(frameRecord, next.Bytes())
		settle(3 * time.Second)
		converged(t, nodes...)
		if e, _ := nodes[1].Get(shop); string(e.Value) != "good" {
			t.Errorf("a frozen feed moved to %q", e.Value)
		}
		evidence := 0
		all, _ := nodes[4].List("/")
		for _, e := range all {
			if e.Kind == feed.KindEvidence {
				evidence++
				if f, err := feed.VerifyProof(e.Value, keyFunc); err != nil || f != first || e.Name != feed.EvidenceName(f.Digest) {
					t.Errorf("evidence %s: %+v, %v", e.Key, f, err)
				}
			}
		}
		if evidence == 0 {
			t.Error("no finder published its proof")
		}

		nodes[1].restart() // and the finding survives
		settle(time.Millisecond)
		if got := nodes[1].found(); len(got) != 2 || got[1] != first {
			t.Errorf("after a restart: %+v", got)
		}
		if e, _ := nodes[1].Get(shop); string(e.Value) != "good" || !e.Suspect {
			t.Errorf("after a restart it shows %q, suspect %v", e.Value, e.Suspect)
		}

		// Released with a new epoch: late findings about the old one hold nobody.
		for _, n := range nodes {
			if err := n.Thaw(t.Context(), liar.id, 2); err != nil {
				t.Fatal(err)
			}
		}
		late := liar.sign(feed.Header{Seq: 1, HLC: good.HLC + 1}, op(shop, "c"))
		liar.self = newIdentity(t, liar.id, 2)
		again := liar.to(nodes[0])
		left.send(frameRecord, late.Bytes())
		again.send(frameRecord, liar.sign(feed.Header{Seq: 1, Prev: good.ID(), HLC: now()}, op(shop, "reformed")).Bytes())
		settle(3 * time.Second)
		for _, n := range nodes {
			if n == nodes[1] {
				continue // not attached since its restart
			}
			if e, _ := n.Get(shop); string(e.Value) != "reformed" || e.Suspect {
				t.Errorf("%s shows %q, suspect %v after the release", n.id, e.Value, e.Suspect)
			}
			if got := n.found(); len(got) != 2 || got[1].LastGood != 0 || n.holds[liar.id].Held {
				t.Errorf("%s: findings %+v, held %v, after a late proof", n.id, got, n.holds[liar.id].Held)
			}
		}
	})
}

func TestForkWithoutTPMFreezesAndHoldsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, liar := newNode(t, 1), newHostile(t, 9)
		liar.self.Cert = bytes.Replace(liar.self.Cert, []byte(`"Attested":true`), []byte(`"Attested":false`), 1)
		on := liar.to(n)
		on.send(frameRecord, liar.sign(feed.Header{Seq: 1, HLC: now()}).Bytes())
		on.send(frameRecord, liar.sign(feed.Header{Seq: 1, HLC: now() + 1}).Bytes())
		settle(time.Millisecond)
		if got := n.found(); len(got) != 1 || got[0].Class != feed.ClassForkUnattested || got[0].Convicts() {
			t.Fatalf("findings %+v", got)
		}
		if n.holds[liar.id].Held {
			t.Error("held without a conviction")
		}
	})
}

func TestForeignKeyAndClockBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := ring(t, 3)
		for i, breach := range []func(h *hostile, good feed.Record) feed.Record{
			func(h *hostile, good feed.Record) feed.Record {
				return h.sign(feed.Header{Seq: 2, Prev: good.ID(), HLC: now() + 1}, op(nodes[0].key("shop"), "mine"))
			},
			func(h *hostile, good feed.Record) feed.Record {
				return h.sign(feed.Header{Seq: 2, Prev: good.ID(), HLC: good.HLC})
			},
		} {
			liar := newHostile(t, 8+i)
			good := liar.sign(feed.Header{Seq: 1, HLC: now()})
			on := liar.to(nodes[1])
			on.send(frameRecord, good.Bytes())
			on.send(frameRecord, breach(liar, good).Bytes())
			settle(time.Millisecond)
			for _, n := range nodes {
				got := n.found()
				want := []string{feed.ClassForeignKey, feed.ClassClockBack}[i]
				if len(got) != i+1 || got[i].Class != want || got[i].Accused != liar.id {
					t.Errorf("%s: findings %+v, want %s", n.id, got, want)
				}
			}
		}
		if _, ok := nodes[2].Get(nodes[0].key("shop")); ok {
			t.Error("a foreign key was written")
		}
	})
}

func TestRelayFaultsEndTheSessionAndBlameNoOrigin(t *testing.T) {
	for name, attack := range map[string]func(t *testing.T, h *hostile, honest *hostile){
		"bad signature": func(t *testing.T, h, honest *hostile) {
			thief := newHostile(t, 7)
			h.send(frameCert, honest.self.Cert)
			h.send(frameRecord, signAs(t, thief.self, honest.id, feed.Header{Seq: 1, HLC: now()}).Bytes())
		},
		"garbage body": func(t *testing.T, h, honest *hostile) {
			rec := honest.sign(feed.Header{Seq: 1, HLC: now()}, op(feed.KeyOf(honest.id, feed.KindService, "a"), "1"))
			raw := bytes.Clone(rec.Bytes())
			raw[len(raw)-3] ^= 1
			h.send(frameCert, honest.self.Cert)
			h.send(frameRecord, raw)
		},
		"no record at all": func(t *testing.T, h, _ *hostile) { h.send(frameRecord, []byte("x")) },
		"unknown frame":    func(t *testing.T, h, _ *hostile) { h.send(99, nil) },
		"frame too long":   func(t *testing.T, h, _ *hostile) { h.send(frameRecord, make([]byte, maxFrame)) },
		"short root":       func(t *testing.T, h, _ *hostile) { h.send(frameRoot, []byte{1}) },
		"forged seal": func(t *testing.T, h, honest *hostile) {
			seal, err := feed.SignSeal(h.self.Signer, honest.key.Feed(), 9, feed.ID{9})
			if err != nil {
				t.Fatal(err)
			}
			h.send(frameCert, honest.self.Cert)
			h.send(frameSeal, seal)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, liar, honest := newNode(t, 1), newHostile(t, 8), newHostile(t, 9)
				on := liar.to(n)
				attack(t, on, honest)
				wantErr(t, <-on.err, ErrRelay)
				if len(n.found()) > 0 {
					t.Error("a relay's fault became a finding")
				}
				ok := honest.to(n) // the honest node itself is not hurt
				ok.send(frameRecord, honest.sign(feed.Header{Seq: 1, HLC: now()}, op(feed.KeyOf(honest.id, feed.KindService, "a"), "1")).Bytes())
				settle(time.Millisecond)
				if _, found := n.Get(feed.KeyOf(honest.id, feed.KindService, "a")); !found {
					t.Error("the honest origin's record was not taken")
				}
			})
		})
	}
}

// False evidence convicts who signed it, at whoever is handed it and by their proof everywhere; the
// record that has it is not passed on.
func TestFalseEvidenceConvictsItsSigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, further, liar := newNode(t, 1), newNode(t, 2), newHostile(t, 9)
		n.put("shop", "1")
		connect(n, further)
		// A well-formed pair of headers in n's name, under n's certificate, by another key.
		a := signAs(t, liar.self, n.id, feed.Header{Seq: 1, HLC: now()}, op(n.key("a"), "1"))
		b := signAs(t, liar.self, n.id, feed.Header{Seq: 1, HLC: now()}, op(n.key("a"), "2"))
		x, y := a, b
		if xid, yid := x.ID(), y.ID(); bytes.Compare(xid[:], yid[:]) > 0 {
			x, y = y, x
		}
		proof, err := statement.Marshal(struct {
			Form  uint8  `cbor:"1,keyasint"`
			Cert  []byte `cbor:"2,keyasint"`
			First []byte `cbor:"3,keyasint"`
			Other []byte `cbor:"4,keyasint"`
		}{1, n.self.Cert, x.Statement(), y.Statement()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := feed.VerifyProof(proof, keyFunc); !errors.Is(err, feed.ErrProof) {
			t.Fatalf("error %v", err)
		}
		xid, yid := x.ID(), y.ID()
		digest := statement.Digest(append(append([]byte("bailiwick finding 1\x00equivocation\x00"), xid[:]...), yid[:]...))
		on := liar.to(n)
		on.send(frameRecord, liar.sign(feed.Header{Seq: 1, HLC: now()}, op(feed.KeyOf(liar.id, feed.KindEvidence, feed.EvidenceName(digest)), string(proof))).Bytes())
		settle(time.Second)
		for _, node := range []*node{n, further} {
			if got := node.found(); len(got) != 1 || got[0].Accused != liar.id || got[0].Class != feed.ClassFalseAccusation || got[0].LastGood != 0 {
				t.Errorf("%s: %+v", node.id, got)
			}
			heads, _, err := node.Frontier(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if h := heads[feed.FeedID{Origin: liar.id, Epoch: 1}]; h.Seq != 0 {
				t.Errorf("%s has record %d of the liar", node.id, h.Seq)
			}
		}
		if leaves := leavesOf(t, further, LeafRefuse); len(leaves) != 0 {
			t.Errorf("the record went on: %d refusals", len(leaves))
		}
		if leaves := leavesOf(t, n, LeafRefuse); len(leaves) != 1 {
			t.Errorf("%d refusals in the trail, want 1", len(leaves))
		}
		n.put("shop", "2")
	})
}

// Two sides that were told different things find out when they meet, also about
// a feed whose records never met in flight.
func TestForkIsFoundOnMeeting(t *testing.T) {
	for name, longer := range map[string]int{"same length": 0, "one is longer": 3} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, c, liar := newNode(t, 1), newNode(t, 2), newNode(t, 3), newHostile(t, 9)
				left, right := liar.to(a), liar.to(b)
				shop := feed.KeyOf(liar.id, feed.KindService, "shop")
				left.send(frameRecord, liar.sign(feed.Header{Seq: 1, HLC: now()}, op(shop, "a")).Bytes())
				prev := liar.sign(feed.Header{Seq: 1, HLC: now()}, op(shop, "b"))
				right.send(frameRecord, prev.Bytes())
				for i := range longer {
					prev = liar.sign(feed.Header{Seq: uint64(i + 2), Prev: prev.ID(), HLC: now() + feed.HLC(i) + 1}, op(shop, "b"))
					right.send(frameRecord, prev.Bytes())
				}
				settle(time.Millisecond)
				left.conn.Close()
				right.conn.Close()
				connect(a, c)
				connect(a, b)
				settle(2 * time.Second)
				for _, n := range []*node{a, b, c} {
					if got := n.found(); len(got) == 0 || got[0].Accused != liar.id || got[0].LastGood != 0 {
						t.Errorf("%s: findings %+v", n.id, got)
					}
					if e, ok := n.Get(shop); ok {
						t.Errorf("%s shows %q, and no record is common", n.id, e.Value)
					}
				}
				converged(t, a, b, c)
			})
		})
	}
}

// A proof in a record that has to wait, for others or for the clock, acts at once.
func TestProofsWaitForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, finder, liar := newNode(t, 1), newHostile(t, 8), newHostile(t, 9)
		x, y := liar.sign(feed.Header{Seq: 1, HLC: now()}), liar.sign(feed.Header{Seq: 1, HLC: now() + 1})
		chain := feed.NewChain(liar.id, feed.DefaultKinds(), func(feed.FeedID, uint64) []byte { return x.Statement() })
		if err := chain.SetKey(liar.key); err != nil {
			t.Fatal(err)
		}
		chain.Admit(time.Now(), x)
		proof := chain.Admit(time.Now(), y).Proof
		f, err := feed.VerifyProof(proof, keyFunc)
		if err != nil {
			t.Fatal(err)
		}
		ahead := finder.sign(feed.Header{Seq: 5, HLC: feed.NewHLC(time.Now().Add(time.Hour))},
			op(feed.KeyOf(finder.id, feed.KindEvidence, feed.EvidenceName(f.Digest)), string(proof)))
		finder.to(n).send(frameRecord, ahead.Bytes())
		settle(time.Millisecond)
		if got := n.found(); len(got) != 1 || got[0] != f {
			t.Errorf("findings %+v", got)
		}
	})
}

// An authority that certified two keys for one epoch makes no relay guilty.
func TestDisputedCertificateBlamesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, relay, origin := newNode(t, 1), newHostile(t, 8), newHostile(t, 9)
		origin.to(n).send(frameRecord, origin.sign(feed.Header{Seq: 1, HLC: now()}).Bytes())
		second := newIdentity(t, origin.id, 1)
		on := relay.to(n)
		on.send(frameCert, second.Cert)
		on.send(frameRecord, signAs(t, second, origin.id, feed.Header{Seq: 1, HLC: now() + 1}).Bytes())
		settle(2 * time.Second)
		select {
		case err := <-on.err:
			t.Errorf("session ended: %v", err)
		default:
		}
		if len(n.found()) > 0 {
			t.Error("the origin was convicted by another's key")
		}
	})
}
