package sim

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
)

// Liars that do not stop: whatever cuts and crashes keep from others, a later lie reaches them.

// lieEvery is how often they lie.
const lieEvery = 700 * time.Millisecond

// forger signs what an honest core would not, with a node's own feed key.
type forger struct {
	n  *node
	id replica.Identity
}

func newForger(n *node) (forger, error) {
	id, err := n.fleet.authority.identity(n.id, 1)
	return forger{n, id}, err
}

// sign makes a record of any origin, in the first epoch, by the forger's key.
func (g forger) sign(h feed.Header, ops ...feed.Op) ([]byte, error) {
	body, err := statement.Marshal(ops)
	if err != nil {
		return nil, err
	}
	h.Kind, h.Epoch = feed.Ops, 1
	h.Root, h.Count, h.Size = feed.OpsRoot(ops), uint16(len(ops)), uint32(len(body))
	if h.Origin == "" {
		h.Origin = g.n.id.String()
	}
	payload, err := statement.Marshal(h)
	if err != nil {
		return nil, err
	}
	st, err := statement.Sign(g.id.Signer, statement.Type{Name: "record", Version: 1}, g.n.id.TrustDomain().Name(), payload)
	if err != nil {
		return nil, err
	}
	return together(st, body)
}

func together(st, body []byte) ([]byte, error) {
	return statement.Marshal(struct {
		Statement []byte `cbor:"1,keyasint"`
		Body      []byte `cbor:"2,keyasint"`
	}{st, body})
}

// lies has a node tell something to each of its peers again and again. frames gives what the
// peer of that number is told.
func (n *node) lies(what string, frames func(g forger, peer int) ([][]byte, error)) {
	f := n.fleet
	g, err := newForger(n)
	if err != nil {
		f.fail(err)
		return
	}
	var fire func()
	fire = func() {
		f.tell(n, "%s", what)
		for i, e := range n.ends {
			all, err := frames(g, i)
			if err != nil {
				f.fail(err)
				return
			}
			f.transmit(e, frameOf(frameCert, g.id.Cert))
			for _, b := range all {
				f.transmit(e, b)
			}
		}
		f.after(lieEvery, fire)
	}
	f.after(time.Second+time.Duration(f.rand.Int64N(int64(lieEvery))), fire)
}

func (n *node) op(owner *node, value string) feed.Op {
	return feed.Op{Key: feed.KeyOf(owner.id, kindUpdate, "which"), Action: feed.Put, Value: []byte(value), Scope: feed.ScopeRegion}
}

// records are frames of records.
func records(recs ...[]byte) (out [][]byte) {
	for _, b := range recs {
		out = append(out, frameOf(frameRecord, b))
	}
	return out
}

// persistent signs two first records, and tells every other peer the other.
type persistent struct{ honestly }

func (persistent) guilty() bool { return true }

func (persistent) begin(n *node) {
	at := feed.NewHLC(epoch.Add(time.Second))
	n.lies("tells its peers one of two first records", func(g forger, peer int) ([][]byte, error) {
		b, err := g.sign(feed.Header{Seq: 1, HLC: at}, n.op(n, fmt.Sprintf("side %d", peer%2)))
		return records(b), err
	})
}

// thief writes keys of others.
type thief struct{ honestly }

func (thief) guilty() bool { return true }

func (thief) begin(n *node) {
	n.lies("writes a key of another", func(g forger, _ int) ([][]byte, error) {
		b, err := g.sign(feed.Header{Seq: 1, HLC: feed.NewHLC(epoch.Add(time.Second))}, n.op(n.fleet.writer(0), "stolen"))
		return records(b), err
	})
}

// backdater writes a second record that is older than the first.
type backdater struct{ honestly }

func (backdater) guilty() bool { return true }

func (backdater) begin(n *node) {
	n.lies("writes a record older than the one before it", func(g forger, _ int) ([][]byte, error) {
		at := epoch.Add(time.Second)
		first, err := g.sign(feed.Header{Seq: 1, HLC: feed.NewHLC(at)}, n.op(n, "1"))
		if err != nil {
			return nil, err
		}
		rec, err := feed.Parse(first)
		if err != nil {
			return nil, err
		}
		second, err := g.sign(feed.Header{Seq: 2, Prev: rec.ID(), HLC: feed.NewHLC(at.Add(-time.Second))}, n.op(n, "2"))
		return records(first, second), err
	})
}

// accuser signs as evidence against a writer two records that follow each other as they should. (The
// real accuser would use two that it holds; these are none of the feed, which changes nothing.)
type accuser struct{ honestly }

func (accuser) guilty() bool { return true }

func (accuser) begin(n *node) {
	n.lies("accuses another of nothing", func(g forger, _ int) ([][]byte, error) {
		victim := n.fleet.writer(0)
		id, err := n.fleet.authority.identity(victim.id, 1)
		if err != nil {
			return nil, err
		}
		as := forger{victim, id}
		first, err := as.sign(feed.Header{Seq: 1, HLC: feed.NewHLC(epoch)}, n.op(victim, "1"))
		if err != nil {
			return nil, err
		}
		rec, err := feed.Parse(first)
		if err != nil {
			return nil, err
		}
		second, err := as.sign(feed.Header{Seq: 2, Prev: rec.ID(), HLC: feed.NewHLC(epoch.Add(time.Second))}, n.op(victim, "2"))
		if err != nil {
			return nil, err
		}
		next, err := feed.Parse(second)
		if err != nil {
			return nil, err
		}
		evidence, err := statement.Marshal(map[int]any{1: uint8(1), 2: id.Cert, 3: rec.Statement(), 4: next.Statement()})
		if err != nil {
			return nil, err
		}
		b, err := g.sign(feed.Header{Seq: 1, HLC: feed.NewHLC(epoch.Add(time.Second))}, feed.Op{
			Key: feed.KeyOf(n.id, feed.KindEvidence, feed.EvidenceName([32]byte{1})), Action: feed.Put, Value: evidence, Scope: feed.ScopeRegion,
		})
		return records(b), err
	})
}

// framer tries to make a writer look guilty, each time in another way. A peer that checks drops
// the framer for most of them.
type framer struct{ honestly }

func (framer) begin(n *node) {
	f, turn := n.fleet, 0
	n.lies("tries to make another look guilty", func(g forger, _ int) ([][]byte, error) {
		turn++
		victim := f.writer(turn % f.Writers)
		held := n.core.Frontier()[feed.FeedID{Origin: victim.id, Epoch: victim.number}]
		named := feed.Header{Origin: victim.id.String(), Seq: held.Seq, Prev: held.ID, HLC: feed.NewHLC(f.now())}
		switch turn % 4 {
		case 0: // another record in its place, in its name
			b, err := g.sign(named, n.op(victim, "forged"))
			return records(b), err
		case 1: // one that goes on from its head, and writes a key of another
			named.Seq++
			b, err := g.sign(named, n.op(n, "forged"))
			return records(b), err
		case 2: // its own words over a body of mine
			st := n.disk.statement(victim, held.Seq)
			if st == nil {
				return nil, nil
			}
			body, err := statement.Marshal([]feed.Op{n.op(victim, "garbage")})
			if err != nil {
				return nil, err
			}
			b, err := together(st, body)
			return records(b), err
		}
		// a record of mine, with evidence that shows nothing
		name := feed.EvidenceName([32]byte{byte(turn)})
		b, err := g.sign(feed.Header{Seq: 1, HLC: feed.NewHLC(epoch.Add(time.Second))}, feed.Op{
			Key: feed.KeyOf(n.id, feed.KindEvidence, name), Action: feed.Put, Value: []byte("guilty"), Scope: feed.ScopeRegion,
		})
		return records(b), err
	})
}

// statement returns the signed header of a record on the disk; nil: it is not there.
func (d *disk) statement(origin *node, seq uint64) (st []byte) {
	prefix := binary.BigEndian.AppendUint64(append([]byte(origin.id.String()), 0), origin.number)
	d.Range("feed/records", binary.BigEndian.AppendUint64(prefix, seq), func(_, v []byte) bool {
		if rec, err := feed.Parse(v); err == nil && rec.Seq == seq && rec.Origin == origin.id.String() {
			st = rec.Statement()
		}
		return false
	})
	return st
}
