package attack

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// Somebody signs in another's name with a key of its own.
func TestForgedSignature(t *testing.T) {
	attacked(t, 3, func(t *testing.T, f *fleet) {
		h, victim := f.turncoat("h1"), f.nodes[1]
		heads, _ := victim.frontier()
		head := heads[feed.FeedID{Origin: victim.id, Epoch: 1}]
		forged := signAs(t, h.self, victim.id, 1, feed.Header{Seq: head.Seq + 1, Prev: head.ID, HLC: now()}, op(victim.key("forged"), "x"))
		s := h.attach(f.nodes[0])
		s.record(forged)
		s.blamed()
		f.unharmed()
		for _, n := range f.nodes {
			if _, ok := n.Get(victim.key("forged")); ok {
				t.Errorf("%s believes it", n.id)
			}
		}
	})
}

// A member writes a key of another, properly signed.
func TestForeignKey(t *testing.T) {
	attacked(t, 3, func(t *testing.T, f *fleet) {
		h, victim := f.turncoat("h1"), f.nodes[1]
		s := h.attach(f.nodes[0])
		s.record(h.say(op(h.key("own"), "1")), h.say(op(victim.key("stolen"), "x")))
		h.convicted(feed.ClassForeignKey)
		f.unharmed()
		for _, n := range f.nodes {
			if _, ok := n.Get(victim.key("stolen")); ok {
				t.Errorf("%s believes it", n.id)
			}
		}
	})
}

// Different peers are told different things under one number.
func TestEquivocation(t *testing.T) {
	attacked(t, 4, func(t *testing.T, f *fleet) {
		h := f.turncoat("h1")
		left, right := h.attach(f.nodes[0]), h.attach(f.nodes[2])
		good := h.say(op(h.key("a"), "good"))
		left.record(good)
		f.all(time.Second, "the common record is known", func(n *node) bool { return n.shows(h.key("a"), "good") })
		left.record(h.sign(feed.Header{Seq: 2, Prev: good.ID(), HLC: now() + 1}, op(h.key("a"), "left")))
		right.record(h.sign(feed.Header{Seq: 2, Prev: good.ID(), HLC: now() + 1}, op(h.key("a"), "right")))
		h.convicted(feed.ClassEquivocation)
		f.all(time.Second, "the last common record is shown", func(n *node) bool { return n.shows(h.key("a"), "good") })
		f.unharmed()
	})
}

// Copies of a record go on coming.
func TestReplayOfRecords(t *testing.T) {
	attacked(t, 3, func(t *testing.T, f *fleet) {
		h := f.turncoat("h1")
		s := h.attach(f.nodes[0])
		first := h.say(op(h.key("a"), "1"))
		s.record(first, h.say(op(h.key("a"), "2")))
		f.all(2*time.Second, "the newest is known", func(n *node) bool { return n.shows(h.key("a"), "2") })
		for range 300 {
			s.record(first)
		}
		const judged = "bailiwick_gossip_records_total"
		eventually(t, 2*time.Second, "each copy is seen for what it is", func() bool { return f.nodes[0].counter(judged, "duplicate") >= 300 })
		if got := f.nodes[0].counter(judged, "parked_gap"); got > 0 {
			t.Errorf("%v copies were parked", got)
		}
		h.innocent()
		f.unharmed()
		f.all(0, "the newest stays", func(n *node) bool { return n.shows(h.key("a"), "2") })
	})
}

// A whole epoch comes again, after a newer one has replaced it.
func TestReplayOfEpoch(t *testing.T) {
	attacked(t, 3, func(t *testing.T, f *fleet) {
		h := f.turncoat("h1")
		s := h.attach(f.nodes[0])
		var old []feed.Record
		for i := range 20 {
			old = append(old, h.say(op(h.key("a"), fmt.Sprint("old ", i))))
		}
		s.record(old...)
		f.all(2*time.Second, "the first epoch is known", func(n *node) bool { return n.shows(h.key("a"), "old 19") })
		h.self = f.home.identity(t, h.id, newKey(t), 2, 24*time.Hour)
		s.send(frameCert, h.self.Cert)
		before := h.last
		restated := op(h.key("a"), "new")
		restated.Written = &feed.Written{Epoch: 1, Seq: 20, Record: before.ID(), HLC: before.HLC}
		s.record(h.sign(feed.Header{
			Kind: feed.Snapshot, Seq: 1, Prev: before.ID(), HLC: now() + 1<<16, Base: 1, Parts: 1, Since: []feed.Place{{Epoch: 1, Seq: 20}},
		}, restated))
		f.all(2*time.Second, "the second epoch is known", func(n *node) bool { return n.shows(h.key("a"), "new") })
		s.record(old...)
		const judged = "bailiwick_gossip_records_total"
		eventually(t, 2*time.Second, "the first epoch is over", func() bool { return f.nodes[0].counter(judged, "pruned") >= 20 })
		h.innocent()
		f.unharmed()
		f.all(0, "the second epoch stays", func(n *node) bool { return n.shows(h.key("a"), "new") })
	})
}

// Records without what comes before them, as large as may be.
func TestGapBomb(t *testing.T) {
	attacked(t, 3, func(t *testing.T, f *fleet) {
		h := f.turncoat("h1")
		s := h.attach(f.nodes[0])
		big := strings.Repeat("x", 15<<10)
		for seq := range uint64(rounds(t, 4000, 2400)) {
			s.record(h.sign(feed.Header{Seq: 2*seq + 3, HLC: now()}, op(h.key("a"), "")))
			if seq < 3000 {
				s.record(h.sign(feed.Header{Seq: 2*seq + 10001, HLC: now()}, op(feed.KeyOf(h.id, "x-a", "a"), big)))
			}
		}
		f.unharmed()
		h.innocent()
	})
}

// Many different records with one number, and one proof after the other about them.
func TestForkBomb(t *testing.T) {
	t.Run("records", func(t *testing.T) {
		attacked(t, 3, func(t *testing.T, f *fleet) {
			h := f.turncoat("h1")
			s := h.attach(f.nodes[0])
			for i := range 200 {
				s.record(h.sign(feed.Header{Seq: 1, HLC: now()}, op(h.key("a"), fmt.Sprint(i))))
			}
			h.convicted(feed.ClassEquivocation)
			f.unharmed()
			for _, n := range f.nodes {
				if got := n.counter("bailiwick_gossip_records_total", "fork"); got > 2 {
					t.Errorf("%s judged %v forks to the end", n.id, got)
				}
			}
		})
	})
	t.Run("proofs", func(t *testing.T) {
		attacked(t, 3, func(t *testing.T, f *fleet) {
			h, accomplice := f.turncoat("h1"), f.turncoat("h2")
			s := h.attach(f.nodes[0])
			first := accomplice.sign(feed.Header{Seq: 1, HLC: now()})
			for i := range 60 {
				proof, name := fork(t, f, accomplice, first, accomplice.sign(feed.Header{Seq: 1, HLC: now() + 1 + feed.HLC(i)}))
				s.record(h.say(op(feed.KeyOf(h.id, feed.KindEvidence, name), string(proof))))
			}
			accomplice.convicted(feed.ClassEquivocation)
			f.unharmed()
			for _, n := range f.nodes {
				if got := n.stored(t, "feed/proofs"); got > 16 {
					t.Errorf("%s keeps %d proofs about one feed", n.id, got)
				}
			}
		})
	})
}

// fork is a proof that two records of one number exist, and the name it goes by.
func fork(t *testing.T, f *fleet, h *hostile, a, b feed.Record) (proof []byte, name string) {
	t.Helper()
	chain := feed.NewChain(h.id, feed.DefaultKinds(), func(feed.FeedID, uint64) []byte { return a.Statement() })
	key, err := f.keys(h.self.Cert)
	if err == nil {
		err = chain.SetKey(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	chain.Admit(time.Now(), a)
	proof = chain.Admit(time.Now(), b).Proof
	finding, err := feed.VerifyProof(proof, f.keys)
	if err != nil {
		t.Fatal(err)
	}
	return proof, feed.EvidenceName(finding.Digest)
}

// A proof that proves nothing: it convicts whoever signed it as one.
func TestFalseEvidence(t *testing.T) {
	attacked(t, 3, func(t *testing.T, f *fleet) {
		h, victim := f.turncoat("h1"), f.nodes[1]
		// Two stories under the victim's certificate, by another key.
		a := signAs(t, h.self, victim.id, 1, feed.Header{Seq: 1, HLC: now()}, op(victim.key("a"), "1"))
		b := signAs(t, h.self, victim.id, 1, feed.Header{Seq: 1, HLC: now()}, op(victim.key("a"), "2"))
		x, y := a.ID(), b.ID()
		if string(x[:]) > string(y[:]) {
			a, b, x, y = b, a, y, x
		}
		proof := encode(t, struct {
			Form  uint8  `cbor:"1,keyasint"`
			Cert  []byte `cbor:"2,keyasint"`
			First []byte `cbor:"3,keyasint"`
			Other []byte `cbor:"4,keyasint"`
		}{1, victim.self.Cert, a.Statement(), b.Statement()})
		digest := statement.Digest(append(append([]byte("bailiwick finding 1\x00equivocation\x00"), x[:]...), y[:]...))
		s := h.attach(f.nodes[0])
		s.record(h.say(op(feed.KeyOf(h.id, feed.KindEvidence, feed.EvidenceName(digest)), string(proof))))
		h.convicted(feed.ClassFalseAccusation)
		f.unharmed()
	})
}

// Numbers as large as they get.
func TestSequenceJump(t *testing.T) {
	t.Run("malformed", func(t *testing.T) {
		attacked(t, 2, func(t *testing.T, f *fleet) {
			h := f.turncoat("h1")
			s := h.attach(f.nodes[0])
			s.send(frameRecord, encodeRecord(t, h.self, h.id, 1, feed.Header{Seq: 1 << 63, HLC: now()}, op(h.key("a"), "1")))
			s.blamed()
			f.unharmed()
		})
	})
	t.Run("largest", func(t *testing.T) {
		attacked(t, 2, func(t *testing.T, f *fleet) {
			h := f.turncoat("h1")
			s := h.attach(f.nodes[0])
			s.record(h.say(op(h.key("a"), "1")), h.sign(feed.Header{Seq: 1<<63 - 1, HLC: now()}, op(h.key("a"), "end")))
			f.all(2*time.Second, "the first is known", func(n *node) bool { return n.shows(h.key("a"), "1") })
			seal, err := feed.SignSeal(h.self.Signer, feed.FeedID{Origin: h.id, Epoch: 1}, 1<<63-1, feed.ID{1})
			if err != nil {
				t.Fatal(err)
			}
			s.send(frameSeal, seal)
			s.record(h.say(op(h.key("a"), "2")))
			f.all(2*time.Second, "the feed goes on where it was", func(n *node) bool { return n.shows(h.key("a"), "2") })
			h.innocent()
			f.unharmed()
		})
	})
}

// Records dated in the future wait; nobody's clock follows them.
func TestFutureClock(t *testing.T) {
	attacked(t, 3, func(t *testing.T, f *fleet) {
		h := f.turncoat("h1")
		s := h.attach(f.nodes[0])
		first := h.say(op(h.key("a"), "now"))
		s.record(first, h.sign(feed.Header{Seq: 2, Prev: first.ID(), HLC: feed.NewHLC(time.Now().Add(time.Hour))}, op(h.key("a"), "later")))
		f.all(2*time.Second, "the first is known", func(n *node) bool { return n.shows(h.key("a"), "now") })
		f.never(1500*time.Millisecond, "it shows what was written in an hour", func(n *node) bool { return n.shows(h.key("a"), "later") })
		h.innocent()
		f.unharmed()
		for _, n := range f.nodes {
			if e, _ := n.Get(n.key("state")); time.Until(e.HLC.Time()) > time.Second {
				t.Errorf("%s follows a clock of another: %s", n.id, e.HLC.Time())
			}
		}
	})
}

// A clock that goes back.
func TestPastClock(t *testing.T) {
	attacked(t, 3, func(t *testing.T, f *fleet) {
		h := f.turncoat("h1")
		s := h.attach(f.nodes[0])
		first := h.say(op(h.key("a"), "1"))
		s.record(first, h.sign(feed.Header{Seq: 2, Prev: first.ID(), HLC: first.HLC - 1}, op(h.key("a"), "2")))
		h.convicted(feed.ClassClockBack)
		f.unharmed()
		f.all(0, "what came after does not count", func(n *node) bool { return n.shows(h.key("a"), "1") })
	})
}

// Who stole a key whose certificate has ended dates records back into its time. That one ends
// which the fleet knows shows in virtual time; on loopback it has ended before.
func TestBackdatedRecord(t *testing.T) {
	t.Run("loopback", func(t *testing.T) {
		f := newFleet(t, loopback, 3)
		h, other := f.turncoat("h1"), f.turncoat("h2")
		issued := time.Now().Add(-30 * time.Minute)
		h.self = f.home.identityAt(t, issued, "node", h.id, newKey(t), 1, 10*time.Minute)
		s := h.attach(f.nodes[0])
		s.record(h.sign(feed.Header{Seq: 1, HLC: feed.NewHLC(issued.Add(time.Minute))}, op(h.key("a"), "stolen")))
		s.send(frameCert, other.self.Cert)
		s.record(other.say(op(other.key("a"), "after")))
		f.all(2*time.Second, "what came after it is known", func(n *node) bool { return n.shows(other.key("a"), "after") })
		if got := f.nodes[0].counter("bailiwick_gossip_records_total", "uncovered"); got != 1 {
			t.Errorf("%v records were found to be covered by nothing", got)
		}
		f.never(time.Second, "it believes a date", func(n *node) bool { return n.shows(h.key("a"), "stolen") })
		h.innocent()
		f.unharmed()
	})
	attackedInVirtualTime(t, 3, func(t *testing.T, f *fleet) {
		h := f.turncoat("h1")
		h.self = f.home.identity(t, h.id, newKey(t), 1, 10*time.Minute)
		s := h.attach(f.nodes[0])
		first := h.say(op(h.key("a"), "1"))
		s.record(first)
		f.all(2*time.Second, "the first is known", func(n *node) bool { return n.shows(h.key("a"), "1") })
		time.Sleep(15 * time.Minute)
		s.record(h.sign(feed.Header{Seq: 2, Prev: first.ID(), HLC: first.HLC + 1<<30}, op(h.key("a"), "stolen")))
		f.never(3*time.Second, "it believes a date", func(n *node) bool { return n.shows(h.key("a"), "stolen") })
		h.innocent()
		f.unharmed()
	})
}

// A body that is another than the header was signed over: the relay's doing.
func TestChangedBody(t *testing.T) {
	attacked(t, 3, func(t *testing.T, f *fleet) {
		h, author := f.turncoat("h1"), f.turncoat("h2")
		s := h.attach(f.nodes[0])
		s.send(frameCert, author.self.Cert)
		good := author.say(op(author.key("a"), "good"))
		bad := []byte(strings.Replace(string(good.Bytes()), "good", "evil", 1))
		s.send(frameRecord, bad)
		s.blamed()
		author.innocent()
		author.attach(f.nodes[0]).record(good)
		f.all(2*time.Second, "the true record counts", func(n *node) bool { return n.shows(author.key("a"), "good") })
		f.unharmed()
	})
}
