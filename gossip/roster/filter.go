package roster

import (
	"bytes"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

const (
	maxPacket   = 2048
	maxJump     = 64      // incarnations an accusation may be above what the accused told us
	maxOwn      = 1 << 31 // largest incarnation a node may give itself: far from overflow
	maxLTime    = 1 << 40
	askedFor    = 30 * time.Second
	maxAsked    = 2048
	maxSenders  = 8192
	maxVerified = 4096
	port        = 7946 // of every synthetic address

	accuseRate, accuseBurst = 10, 64    // suspicions a second, of one sender
	aliveRate, aliveBurst   = 200, 4096 // relayed alives a second, of one sender
	probeRate, probeBurst   = 20, 64    // indirect pings a second, of one sender
	selfRate, selfBurst     = 0.5, 12   // claims about us that we must refute, of one sender
	pairRate, pairBurst     = 0.1, 4    // suspicions of one node a second, of one sender
	maxPairs                = 8192

	settle = time.Second // a refutation has left memberlist's queue
)

// filter judges what peers send by who they are. Its methods take the time and
// may be called from any goroutine; it does no I/O. known and check run under its
// lock and must not call back.
type filter struct {
	self  string
	label string
	known func(name string) bool                           // in the app's roster
	check func(name string, record []byte, own bool) error // own: its node itself sent it
	count func(reason string)
	doubt func() bool // this node misses answers itself; set before use

	mu       sync.Mutex        // guards the fields below while one message is judged
	base     map[string]uint32 // highest incarnation each node told us itself
	senders  map[string]*sender
	pairs    map[pair]*rate.Limiter
	record   []byte // this node's, as it last sent it
	asked    map[question]time.Time
	claim    uint32    // highest about this node that waits for the next
	refuted  time.Time // when one was let through
	verified map[[32]byte]bool
}

// sender is what one peer may still send.
type sender struct{ accuse, alive, probe, self *rate.Limiter }

// pair is one node accusing another. Its limit keeps the accused able to refute:
// what passes everywhere else must stay below what passes to the accused.
type pair struct{ by, about string }

// question is a ping under way: who was asked, with which number.
type question struct {
	name string
	seq  uint32
}

func newFilter(self, label string, record []byte, known func(string) bool, check func(string, []byte, bool) error, count func(string)) *filter {
	return &filter{
		self: self, label: label, record: record, known: known, check: check, count: count, doubt: func() bool { return false },
		base: map[string]uint32{self: 1}, senders: map[string]*sender{}, pairs: map[pair]*rate.Limiter{}, asked: map[question]time.Time{}, verified: map[[32]byte]bool{},
	}
}

// address returns the synthetic address of a name: fd00::/8 with 120 bits of the
// name's hash, so that no two names share one.
func address(name string) netip.AddrPort {
	sum := statement.Digest([]byte("bailiwick roster " + name))
	var ip [16]byte
	copy(ip[1:], sum[:15])
	ip[0] = 0xfd
	return netip.AddrPortFrom(netip.AddrFrom16(ip), port)
}

// packet returns what memberlist may read of a packet from a peer; nil: nothing.
func (f *filter) packet(now time.Time, from string, b []byte) []byte {
	if len(b) > maxPacket {
		f.count("oversize")
		return nil
	}
	label, parts, err := split(b)
	if err != nil {
		f.count("malformed")
		return nil
	}
	//bailiwick:check TestSWIM/label
	if label != f.label {
		f.count("label")
		return nil
	}
	var out [][]byte
	for _, part := range parts {
		clean, reason := f.message(now, from, part)
		if reason != "" {
			f.count(reason)
			continue
		}
		out = append(out, clean)
	}
	if len(out) == 0 {
		return nil
	}
	return join(f.label, out)
}

// message judges one message. It returns it in our own spelling, or the reason
// to drop it.
func (f *filter) message(now time.Time, from string, b []byte) (out []byte, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	kind, body := b[0], b[1:]
	switch kind {
	case msgPing:
		var m ping
		if decode(body, &m) != nil {
			return nil, "malformed"
		}
		//bailiwick:check TestSWIM/ping_of_another
		if m.Node != f.self {
			return nil, "not-for-us"
		}
		src := address(from)
		//bailiwick:check TestSWIM/reflection instead _ = src; return b, ""
		return encode(kind, ping{m.SeqNo, f.self, src.Addr().AsSlice(), src.Port(), from}), ""
	case msgIndirectPing:
		var m indirectPing
		if decode(body, &m) != nil {
			return nil, "malformed"
		}
		if m.Node == f.self || !f.known(m.Node) {
			return nil, "unknown-name"
		}
		//bailiwick:check TestSWIM/amplification
		if !f.sender(from).probe.AllowN(now, 1) {
			return nil, "rate"
		}
		src, dst := address(from), address(m.Node)
		return encode(kind, indirectPing{m.SeqNo, dst.Addr().AsSlice(), dst.Port(), m.Node, m.Nack, src.Addr().AsSlice(), src.Port(), from}), ""
	case msgAck:
		var m ack
		if decode(body, &m) != nil {
			return nil, "malformed"
		}
		//bailiwick:check TestSWIM/answers_unasked
		if !f.answered(now, from, m.SeqNo) {
			return nil, "not-asked"
		}
		return encode(kind, ack{SeqNo: m.SeqNo}), ""
	case msgNack:
		var m nack
		if decode(body, &m) != nil {
			return nil, "malformed"
		}
		//bailiwick:check TestSWIM/nacks_unasked
		if at, ok := f.asked[question{from, m.SeqNo}]; !ok || now.Sub(at) > askedFor {
			return nil, "not-asked"
		}
		return encode(kind, m), ""
	case msgAlive:
		var m alive
		if decode(body, &m) != nil {
			return nil, "malformed"
		}
		if reason := f.judgeAlive(now, from, m.Node, &m.Incarnation, &m.Meta); reason != "" {
			return nil, reason
		}
		addr := address(m.Node)
		m.Addr, m.Port, m.Vsn = addr.Addr().AsSlice(), addr.Port(), versions
		return encode(kind, m), ""
	case msgSuspect:
		var m suspect
		if decode(body, &m) != nil {
			return nil, "malformed"
		}
		if reason := f.judgeAccusation(now, from, m.Node, &m.Incarnation); reason != "" {
			return nil, reason
		}
		return encode(kind, suspect{m.Incarnation, m.Node, f.accuser(m.From, m.Node, from)}), ""
	case msgDead:
		var m dead
		if decode(body, &m) != nil {
			return nil, "malformed"
		}
		if m.Node == from && m.From == from { // its own leave
			if m.Incarnation > maxOwn {
				return nil, "incarnation"
			}
			return encode(kind, m), ""
		}
		if reason := f.judgeAccusation(now, from, m.Node, &m.Incarnation); reason != "" {
			return nil, reason
		}
		//bailiwick:check TestSWIM/dead instead return b, ""
		return encode(msgSuspect, suspect{m.Incarnation, m.Node, f.accuser(m.From, m.Node, from)}), ""
	case msgUser:
		return f.user(from, body)
	}
	//bailiwick:check TestSWIM/compressed instead return b, ""
	return nil, "type"
}

// accuser keeps whom an accusation is by, if that can be; else it is the sender's.
func (f *filter) accuser(by, accused, from string) string {
	if by == accused || by == f.self || !f.known(by) {
		return from
	}
	return by
}

// user judges a serf message.
func (f *filter) user(from string, b []byte) (out []byte, reason string) {
	if len(b) == 0 {
		return nil, "malformed"
	}
	//bailiwick:check TestSWIM/events_and_keys
	if b[0] != serfJoin && b[0] != serfLeave {
		return nil, "serf-type"
	}
	var m intent
	if decode(b[1:], &m) != nil {
		return nil, "malformed"
	}
	switch {
	//bailiwick:check TestSWIM/leave_with_prune
	case m.Prune:
		return nil, "prune"
	//bailiwick:check TestSWIM/leave_of_another
	case m.Node != from:
		return nil, "relayed-intent"
	//bailiwick:check TestSWIM/clock
	case m.LTime > maxLTime:
		return nil, "clock"
	}
	return append([]byte{msgUser}, encode(b[0], m)...), ""
}

// sender returns the account of a peer. f.mu is held.
func (f *filter) sender(name string) *sender {
	s, ok := f.senders[name]
	if !ok {
		if len(f.senders) >= maxSenders {
			clear(f.senders)
		}
		s = &sender{
			rate.NewLimiter(accuseRate, accuseBurst), rate.NewLimiter(aliveRate, aliveBurst), rate.NewLimiter(probeRate, probeBurst),
			rate.NewLimiter(selfRate, selfBurst),
		}
		f.senders[name] = s
	}
	return s
}

// answered settles a question. f.mu is held.
func (f *filter) answered(now time.Time, from string, seq uint32) bool {
	q := question{from, seq}
	at, ok := f.asked[q]
	delete(f.asked, q)
	return ok && now.Sub(at) <= askedFor
}

// sent notes what this node itself sends, whom it asks and its incarnation, and returns
// what of it may go: a node that doubts itself accuses nobody. It reports whether that
// holds a probe.
func (f *filter) sent(now time.Time, to string, b []byte) (may []byte, probe bool) {
	label, parts, err := split(b)
	if err != nil {
		return b, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	doubt := f.doubt()
	var out [][]byte
	for _, part := range parts {
		var seq struct{ SeqNo uint32 }
		switch part[0] {
		case msgPing, msgIndirectPing:
			probe = true
			if decode(part[1:], &seq) == nil {
				f.ask(now, question{to, seq.SeqNo})
			}
		case msgAlive:
			var m alive
			if decode(part[1:], &m) == nil && m.Node == f.self {
				f.base[f.self] = max(f.base[f.self], m.Incarnation)
				if record, err := decodeTags(m.Meta); err == nil {
					f.record = record
				}
			}
		case msgSuspect, msgDead:
			var m suspect // as dead, in fields
			if doubt && decode(part[1:], &m) == nil && m.From == f.self && m.Node != f.self {
				f.count("muted")
				continue
			}
		}
		out = append(out, part)
	}
	switch len(out) {
	case len(parts):
		return b, probe
	case 0:
		return nil, false
	}
	return join(label, out), probe
}

// told returns what of a push/pull this node may send: while it doubts itself, what it
// thinks of others than alive is its own.
func (f *filter) told(b []byte) []byte {
	if len(b) == 0 || b[0] != msgPushPull || !f.doubt() {
		return b
	}
	p, err := readPushPull(bytes.NewReader(b[1:]))
	if err != nil {
		return b
	}
	clean := pushPull{join: p.join}
	for _, s := range p.states {
		if s.State == stateAlive || s.Name == f.self {
			clean.states = append(clean.states, s)
		} else {
			f.count("muted")
		}
	}
	return clean.encode()
}

func (f *filter) ask(now time.Time, q question) {
	if len(f.asked) >= maxAsked {
		for old, at := range f.asked {
			if now.Sub(at) > askedFor {
				delete(f.asked, old)
			}
		}
		if len(f.asked) >= maxAsked {
			return // its answer will look unasked: one lost probe
		}
	}
	f.asked[q] = now
}
