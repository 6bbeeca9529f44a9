package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

const (
	tick      = time.Second // between roots, and for what waits
	inboxSize = 256
	batchSize = 128 // events between commits
)

// Replica is a node's copy of the signed state. Get, List and Watch work from Open
// on; everything else while Run runs. All methods may be called from any goroutine.
type Replica struct {
	cfg     Config
	view    *view
	metrics *metrics
	notices notices
	events  chan func()   // for the loop: frames and calls
	puts    chan *request // for the loop: own writes
	done    chan struct{} // closed when Run has ended
	ended   error         // why; readable after done

	// All below is owned by the loop (Run), and by Open before it.
	chains   map[spiffeid.ID]*feed.Chain
	holds    map[spiffeid.ID]hold
	findings map[[32]byte]finding
	ends     map[feed.FeedID]uint64 // last good record, by finding
	peers    map[spiffeid.ID]*peer
	sessions map[*session]bool
	pulls    map[feed.FeedID]pull
	fronts   map[spiffeid.ID]front // by peer; emptied when heads move
	noted    map[feed.ID]bool      // records whose refusal is in the trail

	writer  *feed.Writer
	rewound uint64 // epochs up to this one may not be written
	backlog []*request
	unsaid  []finding // made here, to be published

	// The batch that the next commit makes durable.
	writes  []write
	leaves  []write // kind in bucket
	counted map[feed.FeedID]*In
	fresh   map[feed.FeedID]map[uint64]feed.Record
	applied map[spiffeid.ID][]item
	rebuild map[spiffeid.ID]bool // read again from the store instead
	after   []func(error)        // told the outcome
}

// Open reads the replica back from its store. Errors wrap ErrConfig, feed.ErrChain
// or the store's.
func Open(cfg Config) (*Replica, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	r := &Replica{
		cfg: cfg, view: newView(cfg.Self.TrustDomain(), time.Now()), metrics: newMetrics(cfg.Metrics),
		notices: newNotices(), events: make(chan func(), inboxSize), puts: make(chan *request, inboxSize), done: make(chan struct{}),
		chains: map[spiffeid.ID]*feed.Chain{}, holds: map[spiffeid.ID]hold{}, findings: map[[32]byte]finding{},
		ends: map[feed.FeedID]uint64{}, peers: map[spiffeid.ID]*peer{}, sessions: map[*session]bool{},
		pulls: map[feed.FeedID]pull{}, fronts: map[spiffeid.ID]front{}, noted: map[feed.ID]bool{},
	}
	r.newBatch()
	if err := r.load(); err != nil {
		return nil, err
	}
	for origin, c := range r.chains {
		all, err := r.stored(c, origin)
		if err != nil {
			return nil, err
		}
		r.view.update(c, origin, all, true)
	}
	r.newBatch()
	return r, nil
}

// Run is the loop; it owns the state until ctx ends or a commit fails, which it
// returns: the store has to be opened anew then. Sessions end with it.
func (r *Replica) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	told := make(chan struct{})
	go func() {
		defer close(told)
		r.notices.run(ctx)
	}()
	for _, f := range r.findings {
		r.tellFinding(f)
	}
	err := r.loop(ctx)
	r.ended = err
	close(r.done)
	for s := range r.sessions {
		s.fail(r.stopped())
	}
	for _, q := range r.backlog {
		q.reply(Receipt{}, r.stopped())
	}
	cancel()
	<-told
	return err
}

func (r *Replica) loop(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case ev := <-r.events:
			ev()
		case q := <-r.puts:
			r.backlog = append(r.backlog, q)
		case <-ticker.C:
			r.onTick(time.Now())
		case <-r.writable(time.Now()):
		}
		r.drain()
		written := r.writeOwn(time.Now())
		if err := r.commit(written); err != nil {
			return err
		}
	}
}

// drain takes what else has come, so that one commit serves it all.
func (r *Replica) drain() {
	for range batchSize {
		select {
		case ev := <-r.events:
			ev()
		default:
			for {
				select {
				case q := <-r.puts:
					r.backlog = append(r.backlog, q)
				default:
					return
				}
			}
		}
	}
}

// do runs fn in the loop and returns when what it changed is durable.
func (r *Replica) do(ctx context.Context, fn func() error) error {
	out := make(chan error, 1)
	ev := func() {
		err := fn()
		r.after = append(r.after, func(failed error) { out <- errors.Join(err, failed) })
	}
	select {
	case r.events <- ev:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.done:
		return r.stopped()
	}
	select {
	case err := <-out:
		return err
	case <-r.done:
		select {
		case err := <-out:
			return err
		default:
			return r.stopped()
		}
	}
}

// post runs fn in the loop, if it still runs.
func (r *Replica) post(fn func()) {
	select {
	case r.events <- fn:
	case <-r.done:
	}
}

func (r *Replica) stopped() error {
	return fmt.Errorf("%w: %w", ErrStopped, r.ended)
}

func (r *Replica) newBatch() {
	r.writes, r.leaves, r.after = nil, nil, nil
	r.counted = map[feed.FeedID]*In{}
	r.fresh = map[feed.FeedID]map[uint64]feed.Record{}
	r.applied = map[spiffeid.ID][]item{}
	r.rebuild = map[spiffeid.ID]bool{}
}

// commit makes the batch durable, shows it to readers, sends own records, and
// answers. An error is final.
func (r *Replica) commit(own []feed.Record) error {
	for _, in := range r.counted {
		r.leaf(LeafIn, in)
	}
	var err error
	if len(r.writes)+len(r.leaves) > 0 {
		start := time.Now()
		err = r.cfg.Store.Update(func(tx *store.Tx) error {
			for _, w := range r.writes {
				if err := tx.Put(w.bucket, w.key, w.value); err != nil {
					return err
				}
			}
			for _, l := range r.leaves {
				if err := tx.Leaf(l.bucket, l.value); err != nil {
					return err
				}
			}
			return nil
		})
		r.metrics.commits.Observe(time.Since(start).Seconds())
		if err != nil {
			err = fmt.Errorf("commit signed state: %w", err)
		}
	}
	if err == nil {
		err = r.show()
	}
	after := r.after
	r.newBatch()
	if err == nil {
		for _, rec := range own {
			r.flood(rec, nil)
		}
	}
	for _, fn := range after {
		fn(err)
	}
	return err
}

// show gives readers the batch.
func (r *Replica) show() error {
	for origin := range r.rebuild {
		delete(r.applied, origin)
		all, err := r.stored(r.chains[origin], origin)
		if err != nil {
			return err
		}
		r.view.update(r.chains[origin], origin, all, true)
	}
	for origin, written := range r.applied {
		r.view.update(r.chains[origin], origin, written, false)
	}
	return nil
}

// onTick does what time brings: roots, pulls that stalled, parked records, the
// own lease.
func (r *Replica) onTick(now time.Time) {
	for _, c := range r.chains {
		r.ready(c, now, nil)
	}
	for f, p := range r.pulls {
		if now.After(p.until) {
			delete(p.from.peer.claims, f) // it did not answer: until it tells again, do not ask again
			r.endPull(f, now)
		}
	}
	for s := range r.sessions {
		s.lagging = s.lagging && !s.out.empty()
		_, root := r.frontier(s.peer.id)
		s.send(classControl, frame(frameRoot, root[:]))
		for f := range s.peer.claims {
			r.pull(f, now)
		}
	}
	r.heartbeat(now)
	r.measure(now)
}
