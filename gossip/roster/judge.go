package roster

import (
	"bytes"
	"time"

	"golang.org/x/time/rate"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// judgeAlive holds a claim that a node is alive to the rules, and may lower its
// incarnation. f.mu is held.
func (f *filter) judgeAlive(now time.Time, from, node string, inc *uint32, meta *[]byte) (reason string) {
	if node == f.self { // the record may be of an earlier run: memberlist refutes it with ours
		record, err := decodeTags(*meta)
		if err != nil {
			record = nil
		}
		*meta = encodeTags(record)
		return f.judgeSelf(now, from, inc, !bytes.Equal(record, f.record))
	}
	if !f.known(node) {
		return "unknown-name"
	}
	record, err := decodeTags(*meta)
	if err != nil {
		return "record"
	}
	*meta = encodeTags(record)
	if reason := f.verify(node, record, node == from); reason != "" {
		return reason
	}
	if node == from {
		//bailiwick:check TestSWIM/own_incarnation
		if *inc > maxOwn {
			return "incarnation"
		}
		f.base[node] = max(f.base[node], *inc)
		return ""
	}
	if !f.sender(from).alive.AllowN(now, 1) {
		return "rate"
	}
	// Twice the jump, so that the refutation of an accusation that was let
	// through is let through as well.
	if *inc > f.base[node]+2*maxJump {
		return "incarnation"
	}
	return ""
}

// verify checks a record once; good ones are remembered. f.mu is held.
func (f *filter) verify(node string, record []byte, own bool) (reason string) {
	key := statement.Digest(append([]byte(node+"\x00"), record...))
	if f.verified[key] {
		return ""
	}
	//bailiwick:check TestSWIM/another_address
	if err := f.check(node, record, own); err != nil {
		return "record"
	}
	if own {
		return "" // its certificate may still be unknown
	}
	if len(f.verified) >= maxVerified {
		clear(f.verified)
	}
	f.verified[key] = true
	return ""
}

// judgeAccusation does the same for a suspicion. f.mu is held.
func (f *filter) judgeAccusation(now time.Time, from, node string, inc *uint32) (reason string) {
	switch {
	//bailiwick:check TestSWIM/of_itself_by_another
	case node == from:
		return "about-sender"
	case node == f.self:
		return f.judgeSelf(now, from, inc, true)
	case !f.known(node):
		return "unknown-name"
	//bailiwick:check TestSWIM/incarnation
	case *inc > f.base[node]+maxJump:
		return "incarnation"
	//bailiwick:check TestSWIM/suspicions
	case !f.sender(from).accuse.AllowN(now, 1) || !f.pair(from, node).AllowN(now, 1):
		return "rate"
	}
	return ""
}

// pair returns the limit of one node's suspicions of another. f.mu is held.
func (f *filter) pair(by, about string) *rate.Limiter {
	key := pair{by, about}
	l, ok := f.pairs[key]
	if !ok {
		if len(f.pairs) >= maxPairs {
			clear(f.pairs)
		}
		l = rate.NewLimiter(pairRate, pairBurst)
		f.pairs[key] = l
	}
	return l
}

// judgeSelf bounds a claim about this node. One that must be refuted costs it
// some of its health score, so each sender has few of them, and one passes at a
// time: while a refutation is in memberlist's queue a second one can make it lose
// both (its queue then gives out an id twice). The highest claim held back
// meanwhile goes through with the next; it is lowered to what is in reach, so
// that a node that came back climbs above what is said of it, and no lie brings
// it near overflow. f.mu is held.
func (f *filter) judgeSelf(now time.Time, from string, inc *uint32, differs bool) (reason string) {
	base := f.base[f.self]
	switch {
	case *inc < base:
		return "old"
	case *inc == base && !differs:
		return ""
	case !f.sender(from).self.AllowN(now, 1):
		return "rate"
	}
	f.claim = max(f.claim, min(*inc, base+maxJump))
	if now.Sub(f.refuted) < settle {
		return "settling"
	}
	*inc = max(f.claim, base)
	f.claim, f.refuted = 0, now
	return ""
}
