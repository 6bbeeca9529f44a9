package replica

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// tick is the time between roots, and for what waits.
const tick = time.Second

// Replica is a node's copy of the signed state. Get, List and Watch work from Open
// on; everything else while Run runs. All methods may be called from any goroutine.
type Replica struct {
	cfg     Config
	disk    Disk
	view    *view
	metrics *metrics
	notices notices
	poisons poisons
	events  chan func()   // for the loop: frames and calls
	puts    chan *request // for the loop: own writes
	done    chan struct{} // closed when Run has ended
	ended   error         // why; readable after done

	// All below is owned by the loop (Run), and by Open before it; or by who calls a
	// Core. What decides about it knows no clock, goroutine or chance but what Config
	// gives it.
	chains    map[spiffeid.ID]*feed.Chain
	holds     map[spiffeid.ID]hold
	findings  map[[32]byte]finding
	ends      map[feed.FeedID]uint64     // last good record, by finding
	covers    map[feed.FeedID]feed.Cover // the furthest in time, of what is not superseded
	peers     map[spiffeid.ID]*peer
	sessions  map[*session]bool
	attached  []*session // the same in their order, by which they are sent to
	pulls     map[feed.FeedID]*pull
	carried   []*carried                // by what Config.Carry picks
	awaited   map[feed.FeedID]time.Time // announced in a tree; from then on they are fetched
	asked     map[spiffeid.ID]time.Time // origins to fetch in any mode, until then
	noted     map[feed.ID]bool          // records whose refusal is in the trail
	drawn     time.Time                 // when the mesh was chosen
	checked   uint64                    // records whose signature was verified
	looked    int                       // claims that were looked at to fill a session
	changed   map[feed.FeedID]bool      // heads that moved since some outside of the mesh were told
	name      uint64                    // its place among others, before it is mixed
	crossings crossings

	writer  *feed.Writer
	due     snapshotting
	rewound uint64 // epochs up to this one may not be written
	backlog []*request
	unsaid  []finding // made here, to be published

	// The batch that the next commit makes durable.
	writes  []write
	leaves  []write // kind in bucket
	counted map[feed.FeedID]*In
	fresh   map[feed.FeedID]map[uint64]feed.Record
	applied map[spiffeid.ID][]item
	rebuild map[spiffeid.ID]bool   // read again from the store instead
	cuts    map[feed.FeedID]uint64 // records before this one go
	after   []func(error)          // told the outcome
	signed  []feed.Record          // own ones among them
	full    error                  // why it waits for room on the disk; nil: it does not
}

// Open reads the replica back from its store. Another node's records that do not
// chain there are dropped, and asked for again. Errors wrap ErrConfig,
// feed.ErrChain (the node's own records do not chain) or the store's.
func Open(cfg Config) (*Replica, error) {
	if cfg.Store == nil {
		return nil, fmt.Errorf("%w: Store is not set", ErrConfig)
	}
	r, err := open(cfg, onStore{cfg.Store})
	if err != nil {
		return nil, err
	}
	r.events, r.puts, r.done = make(chan func(), inboxSize), make(chan *request, inboxSize), make(chan struct{})
	return r, nil
}

func open(cfg Config, disk Disk) (*Replica, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	r := &Replica{
		cfg: cfg, disk: disk, view: newView(cfg.Self.TrustDomain(), cfg.Now), metrics: newMetrics(cfg.Metrics),
		notices: newNotices(), poisons: poisons{of: map[feed.ID]poison{}},
		chains: map[spiffeid.ID]*feed.Chain{}, holds: map[spiffeid.ID]hold{}, findings: map[[32]byte]finding{},
		ends: map[feed.FeedID]uint64{}, covers: map[feed.FeedID]feed.Cover{}, peers: map[spiffeid.ID]*peer{}, sessions: map[*session]bool{},
		pulls: map[feed.FeedID]*pull{}, noted: map[feed.ID]bool{}, awaited: map[feed.FeedID]time.Time{}, asked: map[spiffeid.ID]time.Time{}, changed: map[feed.FeedID]bool{},
		name: name(cfg.Self), crossings: newCrossings(),
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
	clear(r.rebuild)
	return r, nil
}

// begin does what waited for somebody to drive the replica: it shows what this version
// takes of the stored state, and tells of the stored findings.
func (r *Replica) begin() error {
	for _, f := range r.known() {
		r.tellFinding(f)
	}
	for _, key := range r.poisons.old {
		r.remove(bucketPoison, key)
	}
	return errors.Join(r.reconsiderAll(), r.commit(nil))
}

func (r *Replica) newBatch() {
	r.writes, r.leaves, r.after, r.signed, r.full = nil, nil, nil, nil, nil
	r.counted = map[feed.FeedID]*In{}
	r.fresh = map[feed.FeedID]map[uint64]feed.Record{}
	r.applied = map[spiffeid.ID][]item{}
	r.rebuild = map[spiffeid.ID]bool{}
	r.cuts = map[feed.FeedID]uint64{}
}

// flush signs what the node may write and commits it with the batch.
func (r *Replica) flush(now time.Time) error {
	r.takeTurns(now)
	return r.commit(r.writeOwn(now))
}

// commit makes the batch durable, shows it to readers, sends own records, and
// answers. An error is final. Where the disk is full there is none, and the batch waits.
func (r *Replica) commit(own []feed.Record) error {
	for _, f := range inOrder(r.counted) {
		r.leaf(LeafIn, r.counted[f])
	}
	clear(r.counted)
	r.signed = append(r.signed, own...)
	var err error
	if len(r.writes)+len(r.leaves) > 0 {
		start := r.cfg.Now()
		err = r.disk.Update(func(tx Tx) error {
			for _, w := range r.writes {
				if w.value == nil {
					if err := tx.Delete(w.bucket, w.key); err != nil {
						return err
					}
					continue
				}
				if err := tx.Put(w.bucket, w.key, w.value); err != nil {
					return err
				}
			}
			for f, start := range r.cuts {
				if err := cut(tx, f, start); err != nil {
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
		r.metrics.commits.Observe(r.cfg.Now().Sub(start).Seconds())
		if err != nil {
			err = fmt.Errorf("commit signed state: %w", err)
		}
	}
	if passes(err) {
		r.holdBack(err)
		return nil
	}
	if err == nil {
		err = r.show()
	}
	after := r.after
	own = r.signed
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

// passes reports whether a commit that failed can be tried again as it is.
func passes(err error) bool { return errors.Is(err, store.ErrFull) && !errors.Is(err, store.ErrBroken) }

// maxHeldBack is how many changes wait for room before no more records of others are taken.
const maxHeldBack = 4096

// holdBack keeps the batch until there is room on the disk. Meanwhile no record is signed, and those of
// others are judged and not shown. Who waits for the batch is told that it is not durable.
func (r *Replica) holdBack(full error) {
	if r.full == nil {
		r.cfg.Log.Error("signed state waits for room on the disk", "err", full)
	}
	r.full = full
	after := r.after
	r.after = nil
	for _, fn := range after {
		fn(full)
	}
}

// show gives readers the batch.
func (r *Replica) show() error {
	for _, origin := range byName(r.rebuild) {
		delete(r.applied, origin)
		all, err := r.stored(r.chains[origin], origin)
		if err != nil {
			return err
		}
		r.view.update(r.chains[origin], origin, all, true)
	}
	for _, origin := range byName(r.applied) {
		r.view.update(r.chains[origin], origin, r.applied[origin], false)
	}
	return nil
}

// onTick does what time brings: roots, pulls that stalled, parked records, the
// own lease.
func (r *Replica) onTick(now time.Time) {
	for _, origin := range byName(r.chains) {
		r.ready(r.chains[origin], now, nil)
	}
	for _, f := range inOrder(r.pulls) {
		if p, ok := r.pulls[f]; ok && p.stalled(f, now) {
			r.unanswered(f, p, now)
		}
	}
	for _, s := range r.attached {
		if s.out.empty() {
			s.lagging = false
			clear(s.answered)
		}
		s.peer.claimed = 0
		for f := range s.peer.waiting() {
			s.peer.claimed += claimSize(f)
			r.pull(f, now)
		}
	}
	r.endCrossings(now)
	r.dropCovers()
	if now.Sub(r.drawn) >= redrawEvery {
		r.redraw(now)
		r.recarry()
	}
	r.tellRoots(now)
	r.forgetAsked(now)
	r.heartbeat(now)
	r.measure(now)
}

// inOrder returns the feeds that a map has, in order: what is sent must not hang on
// the chance of a map's own.
func inOrder[V any](m map[feed.FeedID]V) []feed.FeedID {
	return slices.SortedFunc(maps.Keys(m), feed.FeedID.Compare)
}

// byName returns the nodes that a map has, in order.
func byName[V any](m map[spiffeid.ID]V) []spiffeid.ID {
	return slices.SortedFunc(maps.Keys(m), func(a, b spiffeid.ID) int { return cmp.Compare(a.String(), b.String()) })
}
