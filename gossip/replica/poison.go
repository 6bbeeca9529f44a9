package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

const (
	crashesToPark = 2                // of the process, by one record
	parkedToShun  = 3                // records of one origin; nothing new of it is tried then
	stuckAfter    = 15 * time.Second // what uses a record hangs, unless Config.Patience says otherwise
	watchEvery    = time.Second
)

var (
	// ErrStuck means that what uses a record here (a schema, policy, the reader of
	// evidence) did not come to an end. Restart the node: the record is remembered,
	// and parked if that happens again.
	ErrStuck = errors.New("a record of a peer makes this node hang: it has to be started again")

	// ErrParked means that a record has twice ended this process, or another one of
	// as many of its origin has. It is kept and passed on, and not applied: until
	// another version runs, or it is released.
	ErrParked = errors.New("the record has crashed this node before: it is parked")
)

// Parked is a record that is kept and passed on, and not applied, because it crashed
// this node.
type Parked struct {
	Record feed.ID
	Feed   feed.FeedID
	Seq    uint64
	Detail string    // what it came to, at most 512 bytes
	At     time.Time // when last
}

// poison is what is remembered of a record that ended the process.
type poison struct {
	Origin  string `cbor:"1,keyasint"`
	Epoch   uint64 `cbor:"2,keyasint"`
	Seq     uint64 `cbor:"3,keyasint"`
	Crashes uint64 `cbor:"4,keyasint"`
	Version string `cbor:"5,keyasint"` // of the program
	Detail  string `cbor:"6,keyasint"`
	At      int64  `cbor:"7,keyasint"` // Unix seconds
}

// poisons are the records that ended this program before, in this version.
type poisons struct {
	mu  sync.Mutex // guards of, held for map work
	of  map[feed.ID]poison
	old [][]byte // keys of other versions', to be forgotten; the loop's

	flight atomic.Pointer[flight] // what uses which record now
}

type flight struct {
	feed  feed.FeedID
	seq   uint64
	id    feed.ID
	since time.Time
}

// known returns what is remembered of a record.
func (p *poisons) known(id feed.ID) (poison, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, ok := p.of[id]
	return v, ok
}

// crashed reports whether a record has ended the process often enough.
func (p *poisons) crashed(id feed.ID) bool {
	v, _ := p.known(id)
	return v.Crashes >= crashesToPark
}

// shuns reports whether so many records of an origin have that no other is tried.
func (p *poisons) shuns(origin spiffeid.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	count := 0
	for _, v := range p.of {
		if v.Origin == origin.String() && v.Crashes >= crashesToPark {
			count++
		}
	}
	return count >= parkedToShun
}

// parked says why an op of a record must not be tried here; nil: it may. Own records
// are never parked: what the node says of itself must stand in its snapshots.
func (r *Replica) parked(rec feed.Signed, op feed.Op) error {
	origin := rec.Feed().Origin
	switch {
	case origin == r.cfg.Self:
		return nil
	case r.poisons.crashed(rec.ID()), op.Written != nil && r.poisons.crashed(op.Written.Record):
		return fmt.Errorf("%w: %x", ErrParked, rec.ID())
	case r.poisons.shuns(origin):
		return fmt.Errorf("%w: %d records of %s were", ErrParked, parkedToShun, origin)
	}
	return nil
}

// try runs fn, which hands a record to code outside of the replica. If it panics, that
// is durable before the process ends: it ends all the same. Who kills the process
// meanwhile leaves nothing behind, so no innocent record is parked for it.
func (r *Replica) try(rec feed.Signed, fn func()) {
	r.poisons.flight.Store(&flight{rec.Feed(), rec.Seq, rec.ID(), r.cfg.Now()})
	defer func() {
		r.poisons.flight.Store(nil)
		if p := recover(); p != nil {
			r.remember(rec.Feed(), rec.Seq, rec.ID(), fmt.Sprint(p))
			panic(p)
		}
	}()
	fn()
	if v, noted := r.poisons.known(rec.ID()); noted && v.Crashes < crashesToPark {
		r.forgive(rec.ID()) // it was not to blame
	}
}

// Guard runs fn, which uses a change that Watch yielded, as the replica runs what uses
// records itself: if it panics, the record is remembered, and not shown any more when
// that has happened twice.
func (r *Replica) Guard(c Change, fn func()) {
	defer func() {
		if p := recover(); p != nil {
			r.remember(feed.FeedID{Origin: c.Owner, Epoch: c.Epoch}, c.Seq, c.Record, fmt.Sprint(p))
			panic(p)
		}
	}()
	fn()
	if _, noted := r.poisons.known(c.Record); noted {
		r.post(func() { r.forgive(c.Record) })
	}
}

// remember counts a crash by a record, durably and at once.
func (r *Replica) remember(f feed.FeedID, seq uint64, id feed.ID, what string) {
	v, _ := r.poisons.known(id)
	v = poison{f.Origin.String(), f.Epoch, seq, v.Crashes + 1, r.cfg.Version, what[:min(len(what), maxDetail)], r.cfg.Now().Unix()}
	err := r.disk.Update(func(tx Tx) error {
		if err := tx.Put(bucketPoison, id[:], encode(v)); err != nil {
			return err
		}
		return tx.Leaf(LeafRefuse, encode(Refuse{Origin: v.Origin, Epoch: f.Epoch, Seq: seq, Record: id, Why: "crash", Detail: v.Detail}))
	})
	r.cfg.Log.Error("a record ends this process; after two of its crashes it is parked", "feed", f.String(), "seq", seq, "record", id.String(), "crashes", v.Crashes, "what", v.Detail, "remembered", err)
}

// forgive drops what is remembered of a record, in this batch.
func (r *Replica) forgive(id feed.ID) {
	r.poisons.mu.Lock()
	defer r.poisons.mu.Unlock()
	delete(r.poisons.of, id)
	r.remove(bucketPoison, id[:])
}

// loadPoison reads back which records ended the process. Those of another version get
// another chance.
func (r *Replica) loadPoison(tx Tx) (err error) {
	tx.Range(bucketPoison, nil, func(k, b []byte) bool {
		var v poison
		if err = statement.Unmarshal(b, &v); err != nil || len(k) != len(feed.ID{}) {
			err = errors.Join(err, fmt.Errorf("poison list: %x", k))
			return false
		}
		if v.Version != r.cfg.Version {
			r.poisons.old = append(r.poisons.old, slices.Clone(k))
			return true
		}
		r.poisons.of[feed.ID(k)] = v
		return true
	})
	return err
}

// Parked returns the records that are parked, by feed and seq.
func (r *Replica) Parked() (out []Parked) {
	r.poisons.mu.Lock()
	defer r.poisons.mu.Unlock()
	for id, v := range r.poisons.of {
		origin, err := spiffeid.FromString(v.Origin)
		if err == nil && v.Crashes >= crashesToPark && origin != r.cfg.Self {
			out = append(out, Parked{id, feed.FeedID{Origin: origin, Epoch: v.Epoch}, v.Seq, v.Detail, time.Unix(v.At, 0)})
		}
	}
	slices.SortFunc(out, func(a, b Parked) int { return cmp.Or(a.Feed.Compare(b.Feed), cmp.Compare(a.Seq, b.Seq)) })
	return out
}

// Unpark applies a parked record after all, if schema and policy allow it. If it ends
// the process once more, it counts from the start. Errors wrap feed.ErrUnknown: it is
// not parked.
func (r *Replica) Unpark(ctx context.Context, id feed.ID) error {
	return r.do(ctx, func() error {
		v, _ := r.poisons.known(id)
		origin, err := spiffeid.FromString(v.Origin)
		if err != nil || v.Crashes < crashesToPark {
			return fmt.Errorf("%w: no record %s is parked", feed.ErrUnknown, id)
		}
		r.forgive(id)
		if c := r.chains[origin]; c != nil {
			r.rebuild[origin] = true
			for _, epoch := range c.Epochs() {
				if err := r.reconsider(feed.FeedID{Origin: origin, Epoch: epoch}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// hangs returns ErrStuck when what uses a record does not come to an end, and nil when
// ctx does.
func (r *Replica) hangs(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if f := r.poisons.flight.Load(); f != nil && r.cfg.Now().Sub(f.since) > r.cfg.Patience {
			r.remember(f.feed, f.seq, f.id, "hangs")
			return fmt.Errorf("%w: record %d of %s", ErrStuck, f.seq, f.feed)
		}
	}
}
