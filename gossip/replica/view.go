package replica

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// keptChanges is how many changes Watch can go back.
const keptChanges = 4096

// Entry is one key's state, with what a reader must know to judge it.
type Entry struct {
	Key      string // /<owner path>/<kind>/<name>
	Owner    spiffeid.ID
	Kind     string
	Name     string
	Value    []byte // shared: do not change
	Scope    feed.Scope
	Epoch    uint64 // of the record that wrote it, as its owner says once a snapshot restates it
	Seq      uint64
	Record   feed.ID
	HLC      feed.HLC // when it was written, by the owner's clock
	Revision uint64   // of the change that brought it here

	Lease   feed.Lease    // how fresh the owner's word is
	Age     time.Duration // since the owner's newest record here
	Suspect bool          // the owner is held or its feed frozen: its last good state
	Rewind  bool          // the owner's newer epoch went on from before this write
}

// Change is a key that got another value, flag or none.
type Change struct {
	Entry
	Deleted bool // the entry is what was deleted
}

// item is an entry with the place of the record that holds it, which is not
// the one that wrote it when that was restated; deleted items stay, so that an older
// epoch's late record cannot bring them back.
type item struct {
	Entry
	at      feed.Place
	index   int
	deleted bool
}

func (a item) older(b item) bool {
	return cmp.Or(cmp.Compare(a.at.Epoch, b.at.Epoch), cmp.Compare(a.at.Seq, b.at.Seq), cmp.Compare(a.index, b.index)) < 0
}

// same reports whether both are one write of one value.
func (a item) same(b item) bool {
	return a.Record == b.Record && a.Scope == b.Scope && bytes.Equal(a.Value, b.Value)
}

// holder is an owner as readers see it.
type holder struct {
	items   map[string]item // by key
	hlc     feed.HLC        // of the newest record
	kind    feed.RecordKind
	ttl     uint32
	suspect bool
}

// view is the state readers see. The loop alone writes it.
type view struct {
	td  spiffeid.TrustDomain
	now func() time.Time

	mu       sync.RWMutex // guards the rest; held for map work, never across I/O
	owners   map[spiffeid.ID]*holder
	rolled   map[spiffeid.ID][]Span // by owner: what is not shown
	revision uint64
	changes  []Change      // the newest, ascending by revision
	moved    chan struct{} // closed and replaced when changes grew
}

func newView(td spiffeid.TrustDomain, now func() time.Time) *view {
	return &view{
		td: td, now: now, owners: map[spiffeid.ID]*holder{}, rolled: map[spiffeid.ID][]Span{}, moved: make(chan struct{}),
		revision: uint64(now().UnixMicro()), // above every revision of an earlier run
	}
}

// Get returns the entry of a key, which is a path of the node's own trust domain or
// begins with spiffe://. What its Lease, Suspect and Rewind mean for use is the
// caller's to decide.
func (r *Replica) Get(key string) (Entry, bool) {
	v := r.view
	v.mu.RLock()
	defer v.mu.RUnlock()
	owner, path, ok := v.ownerOf(key)
	h := v.owners[owner]
	if !ok || h == nil {
		return Entry{}, false
	}
	it, ok := h.items[path]
	if !ok || it.deleted {
		return Entry{}, false
	}
	return h.show(it, v.now()), true
}

// ownerOf splits a key as Get takes it.
func (v *view) ownerOf(key string) (owner spiffeid.ID, path string, ok bool) {
	td, path := v.split(key)
	k, err := feed.ParseKey(path)
	if err != nil {
		return owner, path, false
	}
	owner, err = spiffeid.FromPath(td, k.Owner)
	return owner, path, err == nil
}

// List returns the entries whose keys begin with prefix, by owner and key, and the
// revision to watch from. The prefix "/" is all of the node's own trust domain,
// "spiffe://" everything.
func (r *Replica) List(prefix string) ([]Entry, uint64) {
	v := r.view
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.list(prefix), v.revision
}

// Watch yields the changes after revision from to keys that begin with prefix; from
// zero it yields every present entry first. It ends with ctx, or with an error
// that wraps ErrCompacted when the caller is too slow or from too old.
func (r *Replica) Watch(ctx context.Context, prefix string, from uint64) iter.Seq2[Change, error] {
	v := r.view
	return func(yield func(Change, error) bool) {
		if from == 0 {
			v.mu.RLock()
			entries, revision := v.list(prefix), v.revision
			v.mu.RUnlock()
			for _, e := range entries {
				if !yield(Change{Entry: e}, nil) {
					return
				}
			}
			from = revision
		}
		for {
			changes, revision, moved, err := v.after(from, prefix)
			if err != nil {
				yield(Change{}, err)
				return
			}
			for _, c := range changes {
				if !yield(c, nil) {
					return
				}
			}
			from = revision
			select {
			case <-ctx.Done():
				return
			case <-moved:
			}
		}
	}
}

func (v *view) after(from uint64, prefix string) ([]Change, uint64, <-chan struct{}, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	oldest := v.revision - uint64(len(v.changes)) // changes have consecutive revisions
	if from < oldest || from > v.revision {
		return nil, 0, nil, fmt.Errorf("%w: %d, kept from %d to %d", ErrCompacted, from, oldest, v.revision)
	}
	var out []Change
	for _, c := range v.changes[from-oldest:] {
		if v.matches(c.Entry, prefix) {
			out = append(out, c)
		}
	}
	return out, v.revision, v.moved, nil
}

func (v *view) list(prefix string) []Entry {
	var out []Entry
	now := v.now()
	for _, h := range v.owners {
		for _, it := range h.items {
			if !it.deleted && v.matches(it.Entry, prefix) {
				out = append(out, h.show(it, now))
			}
		}
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return strings.Compare(a.Owner.TrustDomain().Name()+a.Key, b.Owner.TrustDomain().Name()+b.Key)
	})
	return out
}

func (v *view) matches(e Entry, prefix string) bool {
	if strings.HasPrefix(prefix, "/") || prefix == "" {
		return e.Owner.MemberOf(v.td) && strings.HasPrefix(e.Key, prefix)
	}
	return strings.HasPrefix(e.Owner.TrustDomain().IDString()+e.Key, prefix)
}

func (v *view) split(key string) (spiffeid.TrustDomain, string) {
	if id, err := spiffeid.FromString(key); err == nil {
		return id.TrustDomain(), id.Path()
	}
	return v.td, key
}

// urgent returns the records of a feed after one that hold evidence or what authorities
// signed, as far as that still stands.
func (v *view) urgent(f feed.FeedID, after uint64) (out []uint64) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.owners[f.Origin]
	if h == nil {
		return nil
	}
	for _, it := range h.items {
		if (it.Kind == feed.KindEvidence || feed.IsAuthority(it.Kind)) && !it.deleted && it.at.Epoch == f.Epoch && it.at.Seq > after {
			out = append(out, it.at.Seq)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// show completes an entry for a reader at now.
func (h *holder) show(it item, now time.Time) Entry {
	e := it.Entry
	e.Lease = feed.LeaseAt(h.hlc, h.kind, h.ttl, now)
	e.Age = max(now.Sub(h.hlc.Time()), 0)
	e.Suspect = h.suspect
	return e
}

// items returns what an admitted record writes, without the refused ops.
func items(rec feed.Record, ops []feed.Op, refused []int) []item {
	var out []item
	for i, op := range ops {
		if slices.Contains(refused, i) {
			continue
		}
		op.Key, op.Value = strings.Clone(op.Key), bytes.Clone(op.Value) // entries outlive the record
		key, err := feed.ParseKey(op.Key)
		if err != nil {
			continue // admitted ops have keys
		}
		w := op.Written
		if rec.Kind != feed.Snapshot {
			w = &feed.Written{Epoch: rec.Epoch, Seq: rec.Seq, Record: rec.ID(), HLC: rec.HLC}
		}
		out = append(out, item{at: feed.Place{Epoch: rec.Epoch, Seq: rec.Seq}, index: i, deleted: op.Action == feed.Del, Entry: Entry{
			Key: op.Key, Owner: rec.Feed().Origin, Kind: key.Kind, Name: key.Name, Value: op.Value, Scope: op.Scope,
			Epoch: w.Epoch, Seq: w.Seq, Record: w.Record, HLC: w.HLC,
		}})
	}
	return out
}

// update shows readers what was written by an owner. With whole set, the items
// are all it has: others go.
func (v *view) update(chain *feed.Chain, owner spiffeid.ID, written []item, whole bool) uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	h := v.owners[owner]
	if h == nil {
		h = &holder{items: map[string]item{}}
		v.owners[owner] = h
	}
	all := whole || h.suspect != chain.Suspect() || len(chain.Epochs()) > 1 // a newer epoch changes Rewind of others
	h.hlc, h.kind, h.ttl = chain.Newest()
	h.suspect = chain.Suspect()

	before, touched := map[string]item{}, map[string]bool{}
	if all {
		before = maps.Clone(h.items)
		for key := range before {
			touched[key] = true
		}
	}
	if whole {
		h.items = map[string]item{}
	}
	for _, it := range written {
		if rolledBack(v.rolled[owner], it) {
			continue
		}
		old, had := h.items[it.Key]
		if had && !old.older(it) {
			continue
		}
		if _, kept := before[it.Key]; had && !kept {
			before[it.Key] = old
		}
		touched[it.Key] = true
		h.items[it.Key] = it
	}
	now := v.now()
	for _, key := range slices.Sorted(maps.Keys(touched)) {
		old, had := before[key]
		v.change(h, chain, key, old, had && !old.deleted, now)
	}
	return v.revision
}

// change records what became of one key of a holder.
func (v *view) change(h *holder, chain *feed.Chain, key string, old item, had bool, now time.Time) {
	it, stays := h.items[key]
	if !stays || it.deleted {
		if had {
			v.record(Change{h.show(old, now), true})
		}
		return
	}
	it.Rewind = chain.Rewound(it.at.Epoch, it.at.Seq)
	same := had && old.same(it) && old.Rewind == it.Rewind && old.Suspect == h.suspect
	it.Revision, it.Suspect = old.Revision, h.suspect
	if !same {
		it.Revision = v.revision + 1
		v.record(Change{h.show(it, now), false})
	}
	h.items[key] = it
}

func (v *view) record(c Change) {
	v.revision++
	c.Revision = v.revision
	if v.changes = append(v.changes, c); len(v.changes) > keptChanges {
		v.changes = slices.Clone(v.changes[len(v.changes)-keptChanges/2:])
	}
	close(v.moved)
	v.moved = make(chan struct{})
}
