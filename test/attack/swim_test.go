package attack

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"github.com/bailiwick-mesh/bailiwick/gossip/roster"
)

// Message types of memberlist, and of serf in its user messages.
const (
	swimPing, swimIndirect, swimAck, swimSuspect, swimAlive, swimDead    = 0, 1, 2, 3, 4, 5
	swimPushPull, swimCompound, swimUser, swimCompressed, swimEncrypt    = 6, 7, 8, 9, 10
	swimNack, swimCRC                                                    = 11, 12
	serfLeave, serfJoin, serfEvent, serfQuery, serfKeyRequest, serfRelay = 0, 1, 3, 4, 7, 9
)

type fields = map[string]any

// swim encodes one message by the names of its fields.
func swim(t *testing.T, kind byte, m any) []byte {
	t.Helper()
	out := []byte{kind}
	var body []byte
	if err := codec.NewEncoderBytes(&body, &codec.MsgpackHandle{}).Encode(m); err != nil {
		t.Fatal(err)
	}
	return append(out, body...)
}

func labelled(t *testing.T, f *fleet, b []byte) []byte {
	t.Helper()
	out, err := memberlist.AddLabelHeaderToPacket(b, f.home.td.Name())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tags are serf's, with the node record that the hostile signs for some node.
func (h *hostile) tags(id string, addr string) []byte {
	h.t.Helper()
	rec, err := roster.SignRecord(h.self.Signer, roster.Record{
		ID: h.f.home.node(id), Addr: netip.MustParseAddrPort(addr), Epoch: 1, Cert: sha256.Sum256(h.f.certOf(id)),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return swim(h.t, 255, map[string]string{"r": string(rec)})
}

// swimmer is a turncoat that is linked to every node and is thought alive.
type swimmer struct {
	*hostile
	wires []*wire
}

func (f *fleet) swimmer() *swimmer {
	f.t.Helper()
	h := &swimmer{hostile: f.turncoat("h1")}
	for _, n := range f.nodes {
		h.wires = append(h.wires, h.link(n))
	}
	h.all(swim(f.t, swimAlive, fields{"Incarnation": 1, "Node": "h1", "Addr": []byte{127, 0, 0, 1}, "Port": 1, "Meta": h.tags("h1", "192.0.2.99:7000"), "Vsn": vsn}))
	f.all(5*time.Second, "the hostile is thought alive", func(n *node) bool { return len(n.heard("h1")) > 0 })
	return h
}

var vsn = []uint8{memberlist.ProtocolVersionMin, memberlist.ProtocolVersionMax, 5, serf.ProtocolVersionMin, serf.ProtocolVersionMax, 4}

// all sends a packet to every node.
func (h *swimmer) all(b []byte) {
	for _, w := range h.wires {
		w.swim(labelled(h.t, h.f, b))
	}
}

// ofOthers tells each node of every other that it is suspect or dead; the accused does not hear of it.
func (h *swimmer) ofOthers(kind byte, incarnation uint32) {
	h.t.Helper()
	for _, n := range h.f.nodes {
		for _, w := range h.wires {
			if w.to != n {
				name, _ := n.NameOf(n.id)
				w.swim(labelled(h.t, h.f, swim(h.t, kind, fields{"Incarnation": incarnation, "Node": name, "From": "h1"})))
			}
		}
	}
}

// pushPull sends node states on a stream to every node.
func (h *swimmer) pushPull(states ...fields) {
	h.t.Helper()
	b := swim(h.t, swimPushPull, fields{"Nodes": len(states), "UserStateLen": 0, "Join": false})
	for _, s := range states {
		b = append(b, swim(h.t, 0, s)[1:]...)
	}
	h.stream(b)
}

func (h *swimmer) stream(b []byte) {
	h.t.Helper()
	for _, w := range h.wires {
		s := w.stream(protoSerf)
		_, _ = s.Write(labelled(h.t, h.f, b))
	}
}

func leave(t *testing.T, node string, prune bool, clock uint64) []byte {
	return append([]byte{swimUser}, swim(t, serfLeave, fields{"LTime": clock, "Node": node, "Prune": prune})...)
}

// elsewhere says that n2 lives at another address.
func elsewhere(t *testing.T, h *swimmer) []byte {
	return swim(t, swimAlive, fields{"Incarnation": 3, "Node": "n2", "Addr": []byte{10, 0, 0, 1}, "Port": 1, "Meta": h.tags("n2", "192.0.2.66:6666"), "Vsn": vsn})
}

// oversized is a user event of 20 MiB, of which one comes.
func oversized(t *testing.T) []byte {
	return append(swim(t, swimUser, fields{"UserMsgLen": 20 << 20}), make([]byte, 1<<20)...)
}

// asks is an event, a query or what asks for keys, with what an honest intent has.
func asks(t *testing.T, kind byte) []byte {
	return append([]byte{swimUser}, swim(t, kind, fields{"LTime": 9, "Node": "h1", "Name": "_serf_install-key", "Payload": make([]byte, 800), "Filters": [][]byte{}, "ID": 7, "RelayFactor": 5})...)
}

// Everything that memberlist and serf believe of whoever may speak to them.
func TestSWIM(t *testing.T) {
	state := func(name string, state int, incarnation uint32) fields {
		return fields{"Name": name, "Addr": []byte{10, 0, 0, 1}, "Port": 9, "Meta": []byte{}, "Incarnation": incarnation, "State": state, "Vsn": vsn}
	}
	for name, c := range map[string]struct {
		send    func(t *testing.T, h *swimmer)
		dropped string // for this reason, at each node
	}{
		"dead": {send: func(t *testing.T, h *swimmer) {
			for _, from := range []string{"n2", "h1", "n1"} { // as its own leave, too
				h.all(swim(t, swimDead, fields{"Incarnation": 5, "Node": "n2", "From": from}))
			}
		}},
		"incarnation": {send: func(t *testing.T, h *swimmer) {
			for _, kind := range []byte{swimDead, swimSuspect} {
				h.ofOthers(kind, math.MaxUint32)
			}
		}, dropped: "incarnation"},
		"own incarnation": {send: func(t *testing.T, h *swimmer) {
			h.wires[0].swim(labelled(t, h.f, swim(t, swimAlive, fields{"Incarnation": uint32(math.MaxUint32), "Node": "h1", "Addr": []byte{1, 2, 3, 4}, "Port": 1, "Meta": h.tags("h1", "192.0.2.99:7000"), "Vsn": vsn})))
			eventually(t, 3*time.Second, "whom it is told does not pass it on", func() bool {
				return h.f.nodes[0].counter("bailiwick_roster_dropped_total", "incarnation") > 0
			})
		}},
		"suspicions": {send: func(t *testing.T, h *swimmer) {
			for i := range 300 {
				h.all(swim(t, swimSuspect, fields{"Incarnation": 1 + i%50, "Node": "n2", "From": "n3"}))
				time.Sleep(10 * time.Millisecond)
			}
		}, dropped: "rate"},
		"of itself by another": {send: func(t *testing.T, h *swimmer) {
			h.all(swim(t, swimSuspect, fields{"Incarnation": 1, "Node": "h1", "From": "n2"}))
		}, dropped: "about-sender"},
		"leave of another": {send: func(t *testing.T, h *swimmer) {
			h.all(leave(t, "n2", false, 100))
		}, dropped: "relayed-intent"},
		"leave with prune": {send: func(t *testing.T, h *swimmer) {
			h.all(leave(t, "h1", true, 100))
			h.all(leave(t, "n2", true, 100))
		}, dropped: "prune"},
		"clock": {send: func(t *testing.T, h *swimmer) {
			h.all(append([]byte{swimUser}, swim(t, serfJoin, fields{"LTime": uint64(math.MaxUint64 - 1), "Node": "h1"})...))
		}, dropped: "clock"},
		"another address": {send: func(t *testing.T, h *swimmer) {
			h.all(elsewhere(t, h))
			h.f.never(3*time.Second, "it thinks that a node is where another says", func(n *node) bool {
				return slices.ContainsFunc(n.roster.Hints(), func(hint roster.Hint) bool { return hint.Addr.Port() == 6666 })
			})
		}},
		"a name of nobody": {send: func(t *testing.T, h *swimmer) {
			h.all(swim(t, swimAlive, fields{"Incarnation": 1, "Node": "n77", "Addr": []byte{10, 0, 0, 1}, "Port": 1, "Meta": h.tags("h1", "192.0.2.66:6666"), "Vsn": vsn}))
			h.all(swim(t, swimSuspect, fields{"Incarnation": 1, "Node": "n77", "From": "h1"}))
			h.all(swim(t, swimIndirect, fields{"SeqNo": 1, "Target": []byte{10, 0, 0, 1}, "Port": 53, "Node": "n77", "Nack": true}))
		}, dropped: "unknown-name"},
		"events and keys": {send: func(t *testing.T, h *swimmer) {
			for _, kind := range []byte{serfEvent, serfQuery, serfKeyRequest, serfRelay} {
				h.all(asks(t, kind))
			}
		}, dropped: "serf-type"},
		"oversized event": {send: func(t *testing.T, h *swimmer) {
			h.stream(oversized(t))
		}, dropped: "stream-type"},
		"compressed": {send: func(t *testing.T, h *swimmer) {
			h.all(swim(t, swimCompressed, fields{"Algo": 0, "Buf": make([]byte, 900)}))
			h.all(append([]byte{swimEncrypt}, make([]byte, 200)...))
			nested := []byte{swimCompound, 1, 0, 4, swimCompound, 1, 0, 0}
			h.all(nested)
		}, dropped: "type"},
		"checksum": {send: func(t *testing.T, h *swimmer) {
			dead := swim(t, swimSuspect, fields{"Incarnation": 1, "Node": "n2", "From": "h1"})
			h.all(append(binary.BigEndian.AppendUint32([]byte{swimCRC}, crc32.ChecksumIEEE(dead)+1), dead...))
		}, dropped: "malformed"},
		"label": {send: func(t *testing.T, h *swimmer) {
			dead := swim(t, swimPing, fields{"SeqNo": 1, "Node": "n1"})
			other, err := memberlist.AddLabelHeaderToPacket(dead, "west.dev.example")
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range h.wires {
				w.swim(other)
				w.swim(dead)
			}
		}, dropped: "label"},
		"answers unasked": {send: func(t *testing.T, h *swimmer) {
			for seq := range uint32(200) {
				h.all(swim(t, swimAck, fields{"SeqNo": seq, "Payload": []byte{}}))
			}
		}, dropped: "not-asked"},
		"nacks unasked": {send: func(t *testing.T, h *swimmer) {
			for seq := range uint32(200) {
				h.all(swim(t, swimNack, fields{"SeqNo": seq + 1e6}))
			}
		}, dropped: "not-asked"},
		"reflection": {send: func(t *testing.T, h *swimmer) {
			for _, w := range h.wires { // answers would go to n2, which did not ask
				name, _ := w.to.NameOf(w.to.id)
				w.swim(labelled(t, h.f, swim(t, swimPing, fields{"SeqNo": 77, "Node": name, "SourceAddr": []byte{10, 0, 0, 1}, "SourcePort": 53, "SourceNode": "n2"})))
			}
			time.Sleep(time.Second)
			if got := h.f.nodes[1].counter("bailiwick_roster_dropped_total", "not-asked"); got > 0 {
				t.Errorf("%v answers went to who did not ask", got)
			}
		}},
		"ping of another": {send: func(t *testing.T, h *swimmer) {
			h.all(swim(t, swimPing, fields{"SeqNo": 1, "Node": "n9"}))
		}, dropped: "not-for-us"},
		"amplification": {send: func(t *testing.T, h *swimmer) {
			for range 200 {
				for _, w := range h.wires[1:] {
					w.swim(labelled(t, h.f, swim(t, swimIndirect, fields{"SeqNo": 7, "Target": []byte{10, 0, 0, 1}, "Port": 53, "Node": "n1", "Nack": true})))
				}
				time.Sleep(time.Millisecond)
			}
			h.wires[0].swim(labelled(t, h.f, swim(t, swimIndirect, fields{"SeqNo": 7, "Target": []byte{10, 0, 0, 1}, "Port": 53, "Node": "n9", "Nack": true})))
			if got := h.f.nodes[1].counter("bailiwick_roster_dropped_total", "rate"); got < 50 {
				t.Errorf("%v of 200 probes were refused", got)
			}
		}},
		"states of others": {send: func(t *testing.T, h *swimmer) {
			h.pushPull(state("n2", int(memberlist.StateLeft), 1), state("n3", int(memberlist.StateLeft), 1), state("n1", int(memberlist.StateLeft), 1))
			time.Sleep(time.Second)
			h.pushPull(state("n2", int(memberlist.StateDead), 30), state("n3", int(memberlist.StateDead), math.MaxUint32))
		}},
		"endless state": {send: func(t *testing.T, h *swimmer) {
			h.stream(swim(t, swimPushPull, fields{"Nodes": 1 << 40, "UserStateLen": 1 << 40, "Join": true}))
		}, dropped: "malformed"},
		"streams": {send: func(t *testing.T, h *swimmer) {
			for range 40 {
				for _, w := range h.wires {
					w.stream(protoSerf)
				}
			}
			time.Sleep(time.Second)
		}, dropped: "streams"},
	} {
		t.Run(name, func(t *testing.T) {
			attackedInVirtualTime(t, 3, func(t *testing.T, f *fleet) {
				h := f.withSerf().swimmer()
				c.send(t, h)
				if c.dropped != "" {
					f.all(3*time.Second, "it is dropped as "+c.dropped, func(n *node) bool {
						return n.counter("bailiwick_roster_dropped_total", c.dropped) > 0
					})
				}
				time.Sleep(40 * time.Second) // a suspicion would have become a death
				f.unharmed()
			})
		})
	}
	t.Run("on both networks", func(t *testing.T) {
		attacked(t, 3, func(t *testing.T, f *fleet) {
			h := f.withSerf().swimmer()
			for i := range 5 {
				h.all(swim(t, swimDead, fields{"Incarnation": i, "Node": "n2", "From": "n2"}))
				h.pushPull(state("n2", int(memberlist.StateLeft), uint32(i)))
				time.Sleep(100 * time.Millisecond)
			}
			for reason, send := range map[string]func(){
				"prune":       func() { h.all(leave(t, "n2", true, 100)) },
				"serf-type":   func() { h.all(asks(t, serfQuery)) },
				"stream-type": func() { h.stream(oversized(t)) },
				"type":        func() { h.all(swim(t, swimCompressed, fields{"Algo": 0, "Buf": make([]byte, 900)})) },
				"incarnation": func() { h.ofOthers(swimSuspect, math.MaxUint32) },
			} {
				for _, n := range f.nodes { // datagrams may get lost, and streams be too many
					eventually(t, 5*time.Second, "it is dropped as "+reason, func() bool {
						send()
						time.Sleep(100 * time.Millisecond)
						return n.counter("bailiwick_roster_dropped_total", reason) > 0
					})
				}
			}
			h.all(elsewhere(t, h))
			f.never(2*time.Second, "it thinks that a node is where another says", func(n *node) bool {
				return slices.ContainsFunc(n.roster.Hints(), func(hint roster.Hint) bool { return hint.Addr.Port() == 6666 })
			})
			f.unharmed()
		})
	})
	// Whom serf thinks failed is trusted as before.
	t.Run("a hint only", func(t *testing.T) {
		attackedInVirtualTime(t, 4, func(t *testing.T, f *fleet) {
			f.withSerf()
			mute := f.nodes[2]
			if err := mute.roster.Close(); err != nil {
				t.Fatal(err)
			}
			mute.roster = nil
			time.Sleep(40 * time.Second)
			name, _ := mute.NameOf(mute.id)
			for _, n := range f.nodes {
				if n != mute && !slices.Contains(n.heard(name), roster.Failed) {
					t.Errorf("%s heard %v", n.id, n.heard(name))
				}
				n.mu.Lock()
				n.hints[name] = []roster.State{roster.Alive} // that much is known
				n.mu.Unlock()
			}
			f.unharmed()
		})
	})
}
