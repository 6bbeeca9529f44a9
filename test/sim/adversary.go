package sim

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// role is how a node behaves. All have an honest core; what the others add or hold back
// is on the line. Roles are comparable and have no state of their own.
type role interface {
	begin(n *node)                               // once, when the fleet is connected
	passes(n *node, e *end, frame []byte) []byte // what is sent in the place of a frame; nil: nothing
	guilty() bool                                // every honest node has to convict it
}

// roles are those that a scenario may name.
var roles = map[string]role{
	"dropper": dropper{}, "mute": mute{}, "liar": liar{}, "flooder": flooder{}, "equivocator": equivocator{},
	"persistent": persistent{}, "thief": thief{}, "backdater": backdater{}, "accuser": accuser{}, "framer": framer{},
}

type honestly struct{}

var honest role = honestly{}

func (honestly) begin(*node)                                 {}
func (honestly) passes(_ *node, _ *end, frame []byte) []byte { return frame }
func (honestly) guilty() bool                                { return false }

// dropper takes everything, keeps its sessions, and passes nothing on.
type dropper struct{ honestly }

func (dropper) passes(_ *node, _ *end, frame []byte) []byte {
	if frame[frameHead-1] == frameRoot {
		return frame
	}
	return nil
}

// mute announces every record, and serves none.
type mute struct{ honestly }

func (mute) passes(_ *node, _ *end, frame []byte) []byte {
	if frame[frameHead-1] != frameRecord {
		return frame
	}
	rec, err := feed.Parse(frame[frameHead:])
	if err != nil {
		return nil
	}
	return headsFrame(rec.Feed(), feed.Head{Seq: rec.Seq, ID: rec.ID(), Bytes: 1})
}

// liar behaves, and twice a second claims far heads of all feeds that it knows.
type liar struct{ honestly }

func (liar) begin(n *node) {
	n.often(500*time.Millisecond, func(e *end) {
		heads := n.core.Frontier()
		for _, f := range heads.Feeds() {
			h := heads[f]
			h.Seq += 1 << 20
			h.ID[0]++
			n.fleet.transmit(e, headsFrame(f, h))
		}
	})
}

// flooder behaves, and sends each peer 600 frames every tenth of a second.
type flooder struct{ honestly }

func (flooder) begin(n *node) {
	n.often(100*time.Millisecond, func(e *end) {
		root := n.core.Frontier().Root()
		for range 600 {
			n.fleet.transmit(e, frameOf(frameRoot, root[:]))
		}
	})
}

// often does something with every session of the node, from the first second on.
func (n *node) often(period time.Duration, do func(*end)) {
	var fire func()
	fire = func() {
		for _, e := range n.ends {
			if !n.fleet.apart(n, e.peer) {
				do(e)
			}
		}
		n.fleet.after(period, fire)
	}
	n.fleet.after(time.Second, fire)
}

// equivocator behaves, and after a second has two first records of its own feed for
// different peers.
type equivocator struct{ honestly }

func (equivocator) guilty() bool { return true }

func (equivocator) begin(n *node) {
	f := n.fleet
	id, err := f.authority.identity(n.id, 1)
	if err != nil {
		f.fail(err)
		return
	}
	key, err := f.authority.key(id.Cert)
	if err != nil {
		f.fail(err)
		return
	}
	f.after(time.Second, func() {
		var sides [2][]byte
		for i := range sides {
			chain := feed.NewChain(n.id, feed.DefaultKinds(), func(feed.FeedID, uint64) []byte { return nil })
			if err := chain.SetKey(key); err != nil {
				f.fail(err)
				return
			}
			w, err := feed.NewWriter(chain, 1, id.Signer)
			if err != nil {
				f.fail(err)
				return
			}
			op := feed.Op{Key: feed.KeyOf(n.id, kindUpdate, "which"), Action: feed.Put, Value: fmt.Appendf(nil, "side %d", i), Scope: feed.ScopeRegion}
			rec, err := w.Next(f.now(), feed.Draft{Ops: []feed.Op{op}, TTL: 300})
			if err != nil {
				f.fail(err)
				return
			}
			sides[i] = rec.Bytes()
		}
		f.tell(n, "signs two records in one place, and sends one to each half of its peers")
		f.lied[n.id.String()] = f.elapsed
		for i, e := range n.ends {
			f.transmit(e, frameOf(frameCert, id.Cert))
			f.transmit(e, frameOf(frameRecord, sides[i%2]))
		}
	})
}

func frameOf(t byte, body []byte) []byte {
	out := binary.BigEndian.AppendUint32(make([]byte, 0, frameHead+len(body)), uint32(1+len(body)))
	return append(append(out, t), body...)
}

// headsFrame announces one head; see the package doc of gossip/replica.
func headsFrame(f feed.FeedID, h feed.Head) []byte {
	type claim struct {
		Origin string  `cbor:"1,keyasint"`
		Epoch  uint64  `cbor:"2,keyasint"`
		Seq    uint64  `cbor:"3,keyasint"`
		ID     feed.ID `cbor:"4,keyasint"`
		Bytes  uint64  `cbor:"5,keyasint"`
	}
	b, err := statement.Marshal([]claim{{f.Origin.String(), f.Epoch, h.Seq, h.ID, h.Bytes}})
	if err != nil {
		panic(err) // a struct of strings, numbers and bytes always encodes
	}
	return frameOf(frameHeads, b)
}
