package attack

import (
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// Somebody honest is to look guilty. What else frames nobody: TestChangedBody (garbage under its
// header), TestFutureClock, TestReplayOfEpoch, TestFalseEvidence, and cmd/internal/audit/attack for
// its trail's old heads. Restored disks are in test/sim.
func TestFraming(t *testing.T) {
	// Its own record comes by another first, under a signature that is not its: the name of a record
	// is not the signature's, so whoever remembered the name only would refuse the true one.
	t.Run("a bad signature first", func(t *testing.T) {
		attackedInVirtualTime(t, 3, func(t *testing.T, f *fleet) {
			h, author := f.turncoat("h1"), f.turncoat("h2")
			good := author.say(op(author.key("a"), "good"))
			st, err := statement.Sign(h.self.Signer, statement.Type{Name: "record", Version: 1}, h.id.TrustDomain().Name(), payloadOf(t, good))
			if err != nil {
				t.Fatal(err)
			}
			bad, err := feed.Parse(encode(t, wireRecord{st, good.Body()}))
			if err != nil || bad.ID() != good.ID() {
				t.Fatalf("the attack is another: %v", err)
			}
			s := h.attach(f.nodes[0])
			s.send(frameCert, author.self.Cert)
			s.record(bad)
			s.blamed()
			author.attach(f.nodes[0]).record(good)
			f.all(2*time.Second, "the true record counts", func(n *node) bool { return n.shows(author.key("a"), "good") })
			author.innocent()
			f.unharmed()
		})
	})
	// A header in the place of one of its own, in its name, by another's key.
	t.Run("a header in its name", func(t *testing.T) {
		attackedInVirtualTime(t, 3, func(t *testing.T, f *fleet) {
			h, victim := f.turncoat("h1"), f.nodes[1]
			heads, _ := victim.frontier()
			seq := heads[feed.FeedID{Origin: victim.id, Epoch: 1}].Seq
			forged := signAs(t, h.self, victim.id, 1, feed.Header{Seq: seq, Prev: feed.ID{1}, HLC: now()}, op(victim.key("a"), "x"))
			s := h.attach(f.nodes[0])
			s.send(frameHeader, forged.Statement())
			s.blamed()
			f.unharmed()
		})
	})
	// What it said long ago comes again: records, and a seal of the head that it had then.
	t.Run("its old words", func(t *testing.T) {
		attackedInVirtualTime(t, 3, func(t *testing.T, f *fleet) {
			h, author := f.turncoat("h1"), f.turncoat("h2")
			first := author.say(op(author.key("a"), "1"))
			seal, err := feed.SignSeal(author.self.Signer, feed.FeedID{Origin: author.id, Epoch: 1}, 1, first.ID())
			if err != nil {
				t.Fatal(err)
			}
			author.attach(f.nodes[0]).record(first, author.say(op(author.key("a"), "2")))
			f.all(2*time.Second, "the newest counts", func(n *node) bool { return n.shows(author.key("a"), "2") })
			s := h.attach(f.nodes[1])
			s.send(frameCert, author.self.Cert)
			s.send(frameSeal, seal)
			s.send(frameHeader, first.Statement())
			s.record(first)
			f.never(3*time.Second, "the old counts again", func(n *node) bool { return n.shows(author.key("a"), "1") })
			author.innocent()
			h.innocent()
			f.unharmed()
		})
	})
	// Evidence by a rule that only a newer version knows, which names its certificate and its record.
	t.Run("a newer rule", func(t *testing.T) {
		attackedInVirtualTime(t, 3, func(t *testing.T, f *fleet) {
			h, author := f.turncoat("h1"), f.turncoat("h2")
			first := author.say(op(author.key("a"), "1"))
			author.attach(f.nodes[0]).record(first)
			proof := encode(t, struct {
				Form  uint8  `cbor:"1,keyasint"`
				Cert  []byte `cbor:"2,keyasint"`
				First []byte `cbor:"3,keyasint"`
			}{200, author.self.Cert, first.Statement()})
			h.attach(f.nodes[0]).record(h.say(op(feed.KeyOf(h.id, feed.KindEvidence, feed.EvidenceName(statement.Digest(proof))), string(proof))))
			f.never(3*time.Second, "somebody is convicted", func(n *node) bool {
				return n.stands(author.id).Contained() || n.stands(h.id).Contained()
			})
			f.all(time.Second, "it shows what it said", func(n *node) bool { return n.shows(author.key("a"), "1") })
			author.innocent()
			h.innocent()
			f.unharmed()
		})
	})
}

// payloadOf is what a record's signature is over.
func payloadOf(t *testing.T, rec feed.Record) []byte {
	t.Helper()
	s, err := statement.Parse(rec.Statement())
	if err != nil {
		t.Fatal(err)
	}
	return s.Payload()
}
