package summary

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Debt is what this gateway owes one peer gateway: summaries it published that
// the peer has not acknowledged.
type Debt struct {
	Peer      spiffeid.ID
	Owed      uint64    // count; 0: the peer has the newest
	Oldest    time.Time // when the first of them was published, or before; zero when none is owed
	Connected bool      // a session is up
	LastAck   time.Time // zero: never in this run
}

const (
	maxPeers   = 256
	maxHistory = 1024 // publications whose time is remembered
)

// ledger counts publications and acknowledgements of this run. Numbers of one
// run have no gaps: the i-th publication, from 1, has number base+i.
type ledger struct {
	mu        sync.Mutex // guards the fields below, for map work only
	base      uint64
	published uint64
	times     []time.Time // of the newest publications, oldest first
	peers     map[spiffeid.ID]*account
}

type account struct {
	settled  uint64 // publications acknowledged, with all before them
	sessions int
	lastAck  time.Time
}

// open returns a peer's account, or one that is not kept when there are too many.
func (l *ledger) open(id spiffeid.ID) *account {
	a, ok := l.peers[id]
	if !ok {
		a = &account{}
		if len(l.peers) < maxPeers {
			l.peers[id] = a
		}
	}
	return a
}

func (l *ledger) publish(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.published++
	l.times = append(l.times, now)
	l.times = l.times[max(0, len(l.times)-maxHistory):]
}

func (l *ledger) ack(now time.Time, id spiffeid.ID, number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.open(id)
	a.lastAck = now
	if number > l.base && number <= l.base+l.published { // else of an earlier run, or invented
		a.settled = max(a.settled, number-l.base)
	}
}

func (l *ledger) session(id spiffeid.ID, change int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open(id).sessions += change
}

func (l *ledger) debts() []Debt {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Debt
	for _, id := range slices.SortedFunc(maps.Keys(l.peers), func(a, b spiffeid.ID) int { return strings.Compare(a.String(), b.String()) }) {
		a := l.peers[id]
		d := Debt{Peer: id, Owed: l.published - a.settled, Connected: a.sessions > 0, LastAck: a.lastAck}
		if d.Owed > 0 {
			d.Oldest = l.times[max(0, len(l.times)-int(min(d.Owed, maxHistory)))]
		}
		out = append(out, d)
	}
	return out
}
