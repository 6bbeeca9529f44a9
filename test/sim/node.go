package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
)

// batchSize is how many events the product's loop takes between commits.
const batchSize = 128

// kindUpdate is the kind of the keys that are written.
const kindUpdate = "x-sim"

// node is one node: a core with its disk, and the loop that drives it. Its one
// processor takes time for what it does; nothing else of it happens meanwhile.
type node struct {
	fleet    *fleet
	index    int
	id       spiffeid.ID
	disk     *disk
	self     *replica.Identity // nil: it writes nothing
	role     role
	number   uint64                   // of its epoch
	skew     time.Duration            // of its clock
	strict   bool                     // runs a version whose schemas refuse every other update
	restored bool                     // its disk was set back once
	found    map[string]time.Duration // whom it convicted, and when
	core     *replica.Core
	up       bool
	life     int           // grows with each start
	since    time.Duration // it is up
	ends     []*end
	inbox    []job
	busy     bool
	batch    int           // of events since the last commit
	puts     int           // that wait for the next commit
	due      bool          // a wake-up for the node's bucket is planned
	busyLine time.Duration // until when its line to the network is in use
	fresh    []arrival     // admitted, and not durable yet
	handling *end          // whose frame is being handled
	sent     traffic
	certs    int           // verified
	far      []int         // peers by chance, the oldest first
	farUntil time.Duration // when that goes
}

// job is one event for a node's loop: a frame, or a timer.
type job struct {
	end   *end
	frame []byte
	call  func()
}

// arrival is an update that came, and from whom.
type arrival struct {
	update int
	from   int
}

func (n *node) name() string { return fmt.Sprintf("n%d", n.index) }

func (n *node) honest() bool { return n.role == honest }

// start opens the node from its disk.
func (n *node) start() error {
	f := n.fleet
	core, err := replica.NewCore(replica.Config{
		Self: n.id, Now: n.now, Kinds: n.kinds(), Rand: f.fork(n.index, n.life), Roster: func() []replica.Member { return f.members },
		Keys: func(der []byte) (feed.EpochKey, error) {
			n.certs++
			return f.authority.key(der)
		},
		Apply: n.admitted,
		OnFinding: func(_ []byte, found feed.Finding) {
			f.found(n, found)
		},
		OnRewound: func(number, seq uint64) {
			f.tell(n, "learns that its own feed goes on to record %d of epoch %d", seq, number)
			if n.honest() && !n.restored {
				f.harm("%s lost what it had written", n.name())
			}
		},
	}, n.disk)
	if err != nil {
		return fmt.Errorf("open %s: %w", n.name(), err)
	}
	n.core, n.up, n.since = core, true, f.elapsed
	n.life++
	n.inbox, n.busy, n.batch, n.puts, n.due, n.fresh = nil, false, 0, 0, false, nil
	if n.self != nil {
		if err := core.SetIdentity(*n.self); err != nil {
			return fmt.Errorf("%s: %w", n.name(), err)
		}
	}
	n.every(replica.TickEvery, n.core.Tick)
	n.every(replica.LazyEvery, n.core.Lazy)
	n.work()
	return nil
}

// now is the time by the node's own clock.
func (n *node) now() time.Time { return n.fleet.now().Add(n.skew) }

// kinds is the registry of the version that the node runs.
func (n *node) kinds() feed.Kinds {
	if !n.strict {
		return feed.DefaultKinds()
	}
	return feed.DefaultKinds().With(kindUpdate, func(_ string, value []byte) error {
		if number, ok := updateOf(value); !ok || number%2 == 1 {
			return errNotMine
		}
		return nil
	})
}

var errNotMine = errors.New("this version does not take it")

// stop kills the node: what was not durable is gone.
func (n *node) stop() {
	n.up = false
	n.life++
}

// every makes a timer of the node's loop, which begins at some time within its period.
func (n *node) every(period time.Duration, call func()) {
	life := n.life
	var fire func()
	fire = func() {
		if n.life != life {
			return
		}
		n.inbox = append(n.inbox, job{call: call})
		n.work()
		n.fleet.after(period, fire)
	}
	n.fleet.after(time.Duration(n.fleet.rand.Int64N(int64(period))), fire)
}

// admitted hears of each op that the core admits.
func (n *node) admitted(_ feed.Record, op feed.Op) error {
	if number, ok := updateOf(op.Value); ok && number < len(n.fleet.updates) {
		from := -1
		if n.handling != nil {
			from = n.handling.peer.index
		}
		n.fresh = append(n.fresh, arrival{number, from})
	}
	return nil
}

// work does the next thing that waits, if the processor is free.
func (n *node) work() {
	if n.busy || !n.up {
		return
	}
	dirty := n.core.Dirty()
	switch {
	case len(n.inbox) > 0 && (n.batch < batchSize || !dirty):
		j := n.inbox[0]
		n.inbox = n.inbox[1:]
		n.batch++
		n.spend(n.handle(j), n.pump)
	case dirty:
		n.batch = 0
		cost := n.fleet.Costs.Commit
		if n.puts > 0 {
			cost += n.fleet.Costs.Sign
		}
		n.puts = 0
		n.spend(cost, n.flush)
	default:
		n.batch = 0
		n.wakeWhenDue()
	}
}

// spend keeps the processor busy, then does what follows.
func (n *node) spend(cost time.Duration, then func()) {
	n.busy = true
	life := n.life
	n.fleet.after(cost, func() {
		if n.life != life {
			return
		}
		n.busy = false
		then()
		n.work()
	})
}

// handle gives a job to the core, and says what it cost.
func (n *node) handle(j job) time.Duration {
	costs := n.fleet.Costs
	if j.call != nil {
		j.call()
		return costs.Frame
	}
	if j.end.closed {
		return 0
	}
	checked, certs := n.core.Checked(), n.certs
	n.handling = j.end
	if err := j.end.link.Receive(j.frame); err != nil {
		n.fleet.after(0, func() { n.fleet.hangUp(j.end, err) })
	}
	n.handling = nil
	cost := costs.Frame + time.Duration(n.core.Checked()-checked)*costs.Admit + time.Duration(n.certs-certs)*costs.Cert
	if t := j.frame[frameHead-1]; t == frameSeal || t == frameHeader {
		cost += costs.Admit
	}
	return cost
}

// flush makes durable what came, shows it, and sends what is the node's own.
func (n *node) flush() {
	f := n.fleet
	fresh := n.fresh
	n.fresh = nil
	if err := n.core.Flush(); err != nil {
		f.fail(fmt.Errorf("%s: commit: %w", n.name(), err))
		return
	}
	for _, a := range fresh {
		f.updates[a.update].reach(n.index, a.from, f.elapsed)
	}
	f.mark('c', n.index, len(fresh), nil)
	n.pump()
}

// wakeWhenDue plans the commit of what waits for the node's bucket.
func (n *node) wakeWhenDue() {
	wait, waits := n.core.Due()
	if !waits || wait <= 0 || n.due {
		return
	}
	n.due = true
	life := n.life
	n.fleet.after(wait, func() {
		if n.life == life {
			n.due = false
			n.work()
		}
	})
}

// write has the node put one update.
func (n *node) write(u *update) {
	u.put = n.fleet.elapsed
	value := make([]byte, max(n.fleet.Size, 8))
	binary.BigEndian.PutUint64(value, uint64(u.number)+1)
	key := feed.KeyOf(n.id, kindUpdate, fmt.Sprintf("k%d", u.number%keysEach))
	n.puts++
	n.core.Put(func(_ replica.Receipt, err error) {
		if err != nil {
			if !slices.ContainsFunc(mayFail, func(may error) bool { return errors.Is(err, may) }) {
				n.fleet.fail(fmt.Errorf("%s writes update %d: %w", n.name(), u.number, err))
			}
			return
		}
		u.written = true
		u.reach(n.index, n.index, n.fleet.elapsed)
	}, feed.Op{Key: key, Action: feed.Put, Value: value, Scope: feed.ScopeRegion})
	n.work()
}

// mayFail are why an honest node's write is refused on its own machine: its disk or its clock was set
// back, its version does not write such a thing, or it found itself shut out.
var mayFail = []error{replica.ErrRewound, feed.ErrClockBehind, feed.ErrSchema, feed.ErrFrozen}

// keysEach bounds the keys of one writer.
const keysEach = 128

// updateOf reads the number of an update back.
func updateOf(value []byte) (int, bool) {
	if len(value) < 8 {
		return 0, false
	}
	number := binary.BigEndian.Uint64(value)
	return int(number) - 1, number > 0 && number < 1<<31
}
