package roster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

var t0 = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

const label = "east.dev.example"

// newTestFilter is n1's filter in a roster of n1 to n4, where every record but
// "bad" is good.
func newTestFilter(dropped *[]string) *filter {
	names := []string{"n1", "n2", "n3", "n4"}
	return newFilter("n1", label, []byte("good"), func(n string) bool { return slices.Contains(names, n) },
		func(name string, record []byte, own bool) error {
			if string(record) == "bad" || string(record) == "own" && !own {
				return errors.New("bad record")
			}
			return nil
		},
		func(reason string) {
			if dropped != nil {
				*dropped = append(*dropped, reason)
			}
		})
}

func packet(parts ...[]byte) []byte { return join(label, parts) }

func aliveMsg(node string, inc uint32) []byte {
	return encode(msgAlive, alive{Incarnation: inc, Node: node, Addr: []byte{10, 0, 0, 1}, Port: 1, Meta: encodeTags([]byte("good")), Vsn: []uint8{9, 9, 9, 9, 9, 9}})
}

func TestPacketFilter(t *testing.T) {
	tests := []struct {
		name   string
		from   string
		msg    []byte
		reason string // "" passes
	}{
		{"ping", "n2", encode(msgPing, ping{SeqNo: 1, Node: "n1"}), ""},
		{"ping for another", "n2", encode(msgPing, ping{SeqNo: 1, Node: "n3"}), "not-for-us"},
		{"indirect ping", "n2", encode(msgIndirectPing, indirectPing{SeqNo: 1, Node: "n3"}), ""},
		{"indirect ping of a stranger", "n2", encode(msgIndirectPing, indirectPing{SeqNo: 1, Node: "x"}), "unknown-name"},
		{"indirect ping of us", "n2", encode(msgIndirectPing, indirectPing{SeqNo: 1, Node: "n1"}), "unknown-name"},
		{"ack nobody asked for", "n2", encode(msgAck, ack{SeqNo: 1}), "not-asked"},
		{"nack nobody asked for", "n2", encode(msgNack, nack{SeqNo: 1}), "not-asked"},
		{"own alive", "n2", aliveMsg("n2", 900), ""},
		{"own alive near overflow", "n2", aliveMsg("n2", math.MaxUint32), "incarnation"},
		{"relayed alive", "n2", aliveMsg("n3", 128), ""},
		{"relayed alive, far ahead", "n2", aliveMsg("n3", 129), "incarnation"},
		{"alive of a stranger", "n2", aliveMsg("x", 1), "unknown-name"},
		{"alive with a bad record", "n2", encode(msgAlive, alive{Node: "n3", Meta: encodeTags([]byte("bad"))}), "record"},
		{"alive with no record", "n2", encode(msgAlive, alive{Node: "n3"}), "record"},
		{"alive with more tags", "n2", encode(msgAlive, alive{Node: "n3", Meta: encode(tagMagic, map[string]string{"r": "good", "role": "x"})}), "record"},
		{"record only its own node may bring", "n2", encode(msgAlive, alive{Node: "n3", Meta: encodeTags([]byte("own"))}), "record"},
		{"brought by its own node", "n3", encode(msgAlive, alive{Node: "n3", Meta: encodeTags([]byte("own"))}), ""},
		{"suspicion", "n2", encode(msgSuspect, suspect{1, "n3", "n2"}), ""},
		{"suspicion, far ahead", "n2", encode(msgSuspect, suspect{65, "n3", "n2"}), "incarnation"},
		{"suspicion about the sender", "n2", encode(msgSuspect, suspect{1, "n2", "n3"}), "about-sender"},
		{"own leave", "n2", encode(msgDead, dead{1, "n2", "n2"}), ""},
		{"sender's death by another", "n2", encode(msgDead, dead{1, "n2", "n3"}), "about-sender"},
		{"death certificate with the greatest incarnation", "n2", encode(msgDead, dead{math.MaxUint32, "n3", "n2"}), "incarnation"},
		{"forged leave with the greatest incarnation", "n2", encode(msgDead, dead{math.MaxUint32, "n3", "n3"}), "incarnation"},
		{"serf join", "n2", append([]byte{msgUser}, encode(serfJoin, intent{LTime: 3, Node: "n2"})...), ""},
		{"relayed serf leave", "n2", append([]byte{msgUser}, encode(serfLeave, intent{LTime: 3, Node: "n3"})...), "relayed-intent"},
		{"pruning leave", "n2", append([]byte{msgUser}, encode(serfLeave, intent{LTime: 3, Node: "n2", Prune: true})...), "prune"},
		{"clock far ahead", "n2", append([]byte{msgUser}, encode(serfJoin, intent{LTime: math.MaxUint64, Node: "n2"})...), "clock"},
		{"user event", "n2", []byte{msgUser, 3, 0x80}, "serf-type"},
		{"query", "n2", []byte{msgUser, 4, 0x80}, "serf-type"},
		{"key request", "n2", []byte{msgUser, 7, 0x80}, "serf-type"},
		{"relay", "n2", []byte{msgUser, 9, 0x80}, "serf-type"},
		{"empty user message", "n2", []byte{msgUser}, "malformed"},
		{"compressed", "n2", []byte{9, 0x80}, "type"},
		{"encrypted", "n2", []byte{10, 0x80}, "type"},
		{"compound in a compound", "n2", []byte{msgCompound, 0}, "type"},
		{"push/pull in a packet", "n2", []byte{msgPushPull, 0x80}, "type"},
		{"garbage", "n2", []byte{msgAlive, 0xc1, 0xff}, "malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var dropped []string
			f := newTestFilter(&dropped)
			got := f.packet(t0, tt.from, packet(tt.msg, encode(msgPing, ping{SeqNo: 7, Node: "n1"})))
			if got == nil {
				t.Fatal("the ping beside it was dropped too")
			}
			_, parts, err := split(got)
			if err != nil {
				t.Fatal(err)
			}
			if tt.reason == "" && (len(dropped) != 0 || len(parts) != 2) {
				t.Errorf("dropped for %v", dropped)
			}
			if tt.reason != "" && (!slices.Equal(dropped, []string{tt.reason}) || len(parts) != 1) {
				t.Errorf("dropped for %q, want %q", dropped, tt.reason)
			}
		})
	}
}

func TestFraming(t *testing.T) {
	var dropped []string
	f := newTestFilter(&dropped)
	good := encode(msgPing, ping{SeqNo: 1, Node: "n1"})
	sum := binary.BigEndian.AppendUint32([]byte{msgCRC}, crc32.ChecksumIEEE(good))
	checked, _ := memberlist.AddLabelHeaderToPacket(append(sum, good...), label)
	if f.packet(t0, "n2", checked) == nil {
		t.Errorf("a good checksum was refused: %v", dropped)
	}
	wrong := bytes.Clone(checked)
	wrong[len(wrong)-1] ^= 1
	short, _ := memberlist.AddLabelHeaderToPacket([]byte{msgCompound, 2, 0, 9}, label)
	for name, b := range map[string][]byte{
		"malformed": wrong, "label": join("west.dev.example", [][]byte{good}), "oversize": make([]byte, maxPacket+1),
	} {
		dropped = nil
		if f.packet(t0, "n2", b) != nil || !slices.Equal(dropped, []string{name}) {
			t.Errorf("%s: dropped for %v", name, dropped)
		}
	}
	for _, b := range [][]byte{nil, {244}, {244, 200, 1}, short} {
		if f.packet(t0, "n2", b) != nil {
			t.Errorf("%x passed", b)
		}
	}
}

// TestRewriting holds what memberlist reads to be ours: sources, addresses,
// versions and accusers.
func TestRewriting(t *testing.T) {
	f := newTestFilter(nil)
	read := func(from string, msg []byte) (byte, []byte) {
		t.Helper()
		_, parts, err := split(f.packet(t0, from, packet(msg)))
		if err != nil {
			t.Fatal(err)
		}
		return parts[0][0], parts[0][1:]
	}
	var p ping
	_, b := read("n2", encode(msgPing, ping{SeqNo: 5, Node: "n1", SourceAddr: []byte{10, 9, 9, 9}, SourcePort: 53, SourceNode: "n3"}))
	decode(b, &p)
	if p.SourceNode != "n2" || !bytes.Equal(p.SourceAddr, address("n2").Addr().AsSlice()) {
		t.Errorf("ping: %+v", p)
	}
	var a alive
	_, b = read("n2", aliveMsg("n3", 1))
	decode(b, &a)
	if !bytes.Equal(a.Addr, address("n3").Addr().AsSlice()) || a.Port != port || !bytes.Equal(a.Vsn, versions) {
		t.Errorf("alive: %+v", a)
	}
	for _, by := range []string{"n3", "n1", "stranger"} {
		kind, b := read("n2", encode(msgDead, dead{1, "n3", by}))
		var s suspect
		decode(b, &s)
		if kind != msgSuspect || s.From != "n2" {
			t.Errorf("death of n3 by %s became kind %d: %+v", by, kind, s)
		}
	}
}

func TestAcksOnlyFromWhoWasAsked(t *testing.T) {
	f := newTestFilter(nil)
	f.sent(t0, "n2", packet(encode(msgPing, ping{SeqNo: 9, Node: "n2"})))
	f.sent(t0, "n3", packet(encode(msgIndirectPing, indirectPing{SeqNo: 9, Node: "n2"})))
	answer := packet(encode(msgAck, ack{SeqNo: 9, Payload: []byte("coordinates")}))
	if f.packet(t0, "n4", answer) != nil {
		t.Error("n4 answered for n2")
	}
	for _, from := range []string{"n2", "n3"} {
		if f.packet(t0, from, answer) == nil {
			t.Errorf("%s was asked, and its answer dropped", from)
		}
		if f.packet(t0, from, answer) != nil {
			t.Errorf("%s answered twice", from)
		}
	}
	f.sent(t0, "n2", packet(encode(msgPing, ping{SeqNo: 10, Node: "n2"})))
	if f.packet(t0.Add(time.Minute), "n2", packet(encode(msgAck, ack{SeqNo: 10}))) != nil {
		t.Error("an answer after a minute passed")
	}
	for i := range uint32(2 * maxAsked) {
		f.sent(t0, "n2", packet(encode(msgPing, ping{SeqNo: i, Node: "n2"})))
	}
	if len(f.asked) > maxAsked {
		t.Errorf("%d questions kept", len(f.asked))
	}
}

func TestClaimsAboutUs(t *testing.T) {
	f := newTestFilter(nil)
	claim := func(at time.Duration, from string, inc uint32) uint32 {
		b := f.packet(t0.Add(at), from, packet(encode(msgDead, dead{inc, "n1", "n2"})))
		if b == nil {
			return 0
		}
		_, parts, _ := split(b)
		var s suspect
		decode(parts[0][1:], &s)
		return s.Incarnation
	}
	refute := func(inc uint32) { f.sent(t0, "n2", packet(aliveMsg("n1", inc))) } // as memberlist does
	for _, step := range []struct {
		name string
		at   time.Duration
		inc  uint32
		want uint32 // 0: dropped
	}{
		{"far ahead is lowered", 0, 500, 65},
		{"while the refutation settles", 100 * time.Millisecond, 70, 0},
		{"the highest that waited goes with the next", 1100 * time.Millisecond, 67, 70},
		{"old", 10 * time.Second, 69, 0},
		{"far ahead again", 20 * time.Second, math.MaxUint32, 71 + maxJump},
	} {
		got := claim(step.at, "n2", step.inc)
		if got != step.want {
			t.Errorf("%s: %d, want %d", step.name, got, step.want)
		}
		if got != 0 {
			refute(got + 1)
		}
	}
	passed := 0
	for i := range 100 {
		if claim(time.Minute+time.Duration(i)*10*time.Millisecond, "n3", math.MaxUint32) != 0 {
			passed++
		}
	}
	if passed != 1 {
		t.Errorf("%d claims within a second, want 1", passed)
	}
	for range 100 {
		if f.packet(t0, "n2", packet(aliveMsg("n1", 71+maxJump+1))) == nil {
			t.Fatal("an echo of our own word was dropped")
		}
	}
}

func TestAccusationsAreLimited(t *testing.T) {
	f := newTestFilter(nil)
	passed := 0
	for range 1000 {
		if f.packet(t0, "n2", packet(encode(msgSuspect, suspect{1, "n3", "n2"}))) != nil {
			passed++
		}
	}
	if passed != pairBurst {
		t.Errorf("%d suspicions of one node in one instant, want %d", passed, pairBurst)
	}
	f.known = func(string) bool { return true }
	for i := range 1000 {
		if f.packet(t0, "n2", packet(encode(msgSuspect, suspect{1, fmt.Sprint("x", i), "n2"}))) != nil {
			passed++
		}
	}
	if passed > accuseBurst {
		t.Errorf("%d suspicions in one instant, at most %d", passed, accuseBurst)
	}
	if f.packet(t0, "n4", packet(encode(msgSuspect, suspect{1, "n3", "n4"}))) == nil {
		t.Error("one sender's flood silenced another")
	}
}

func state(name string, inc uint32, s int) nodeState {
	return nodeState{Name: name, Addr: []byte{1, 2, 3, 4}, Port: 1, Meta: encodeTags([]byte("good")), Incarnation: inc, State: s, Vsn: []uint8{5, 5, 5, 5, 5, 5}}
}

func TestPushPullFilter(t *testing.T) {
	var dropped []string
	f := newTestFilter(&dropped)
	p := pushPull{join: true, states: []nodeState{
		state("n2", 700, stateAlive), state("n3", 5, stateAlive), state("n3", 5, stateLeft),
		state("n3", math.MaxUint32, stateDead), state("x", 1, stateAlive), state("n2", 1, stateDead),
	}}
	body := p.encode()
	full := encode(msgPushPull, pushPullHeader{Nodes: len(p.states), UserStateLen: 4, Join: true})
	full = append(append(full, body[len(encode(msgPushPull, pushPullHeader{Nodes: len(p.states), Join: true})):]...), "serf"...)
	head, _ := memberlist.AddLabelHeaderToPacket(full, label)
	out, err := f.request(t0, "n2", bytes.NewReader(head))
	if err != nil {
		t.Fatal(err)
	}
	rest, _, _ := memberlist.RemoveLabelHeaderFromPacket(out)
	got, err := readPushPull(bytes.NewReader(rest[1:]))
	if err != nil {
		t.Fatal(err)
	}
	if !got.join || len(got.states) != 3 || got.states[2].State != stateSuspect || got.states[0].Incarnation != 700 || got.states[0].Vsn[0] != 1 {
		t.Errorf("got %+v", got)
	}
	if want := []string{"incarnation", "unknown-name", "about-sender"}; !slices.Equal(dropped, want) {
		t.Errorf("dropped for %v, want %v", dropped, want)
	}
	if out, err := f.reply(t0, "n2", bytes.NewReader(full)); err != nil || out[0] != msgPushPull {
		t.Errorf("as a reply: %v", err)
	}
	for name, b := range map[string][]byte{
		"another label":   full,
		"user stream":     packet([]byte{msgUser, 0x80}),
		"encrypted":       packet([]byte{10, 0, 0, 0, 1}),
		"too many nodes":  packet(encode(msgPushPull, pushPullHeader{Nodes: maxStates + 1})),
		"negative":        packet(encode(msgPushPull, pushPullHeader{Nodes: -1})),
		"huge user state": packet(encode(msgPushPull, pushPullHeader{UserStateLen: 1 << 30})),
		"truncated":       packet(body[:20]),
		"odd state":       packet(pushPull{states: []nodeState{state("n3", 1, 9)}}.encode()),
	} {
		if out, err := f.request(t0, "n2", bytes.NewReader(b)); err == nil {
			t.Errorf("%s passed as %x", name, out)
		}
	}
	if _, err := f.reply(t0, "n2", bytes.NewReader(encode(msgError, struct{ Error string }{"lies"}))); err == nil || bytes.Contains([]byte(err.Error()), []byte("lies")) {
		t.Errorf("a peer's words came through: %v", err)
	}
}

func FuzzPacket(f *testing.F) {
	f.Add(packet(encode(msgPing, ping{SeqNo: 1, Node: "n1"}), aliveMsg("n2", 3)))
	f.Add(packet(encode(msgDead, dead{math.MaxUint32, "n3", "n2"})))
	f.Add(packet(append([]byte{msgUser}, encode(serfJoin, intent{LTime: 3, Node: "n2"})...)))
	f.Add(packet(encode(msgIndirectPing, indirectPing{SeqNo: 1, Node: "n3"}), encode(msgSuspect, suspect{1, "n1", "n2"})))
	f.Fuzz(func(t *testing.T, in []byte) {
		fl := newTestFilter(nil)
		out := fl.packet(t0, "n2", in)
		if out == nil {
			return
		}
		_, parts, err := split(out)
		if err != nil {
			t.Fatalf("%x became %x: %v", in, out, err)
		}
		for _, p := range parts {
			var d dead
			if p[0] == msgDead && (decode(p[1:], &d) != nil || d.Node != "n2" || d.From != "n2") {
				t.Errorf("a death of %q by %q came through", d.Node, d.From)
			}
			var s suspect
			if p[0] == msgSuspect && (decode(p[1:], &s) != nil || s.Incarnation > 1+maxJump || s.Node == "n2") {
				t.Errorf("a suspicion came through: %+v", s)
			}
		}
		// What passed is our own spelling: it passes again unchanged.
		if twice := newTestFilter(nil).packet(t0, "n2", out); !bytes.Equal(twice, out) {
			t.Errorf("%x then %x", out, twice)
		}
		fl.sent(t0, "n2", in)
	})
}

func FuzzStream(f *testing.F) {
	f.Add(packet(pushPull{states: []nodeState{state("n2", 1, stateAlive), state("n3", 1, stateDead)}}.encode()))
	f.Add(packet(encode(msgPing, ping{SeqNo: 1, Node: "n1"})))
	f.Add(encode(msgAck, ack{SeqNo: 1}))
	f.Fuzz(func(t *testing.T, in []byte) {
		fl := newTestFilter(nil)
		if out, err := fl.request(t0, "n2", bytes.NewReader(in)); err == nil {
			if _, err := newTestFilter(nil).request(t0, "n2", bytes.NewReader(out)); err != nil {
				t.Errorf("%x became %x: %v", in, out, err)
			}
		}
		fl.reply(t0, "n2", bytes.NewReader(in))
	})
}
