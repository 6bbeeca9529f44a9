package replica

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// snapshotAgain is how long a snapshot that could not be signed waits for the next try.
const snapshotAgain = time.Minute

// snapshotting is what the loop knows of the own snapshot that is due.
type snapshotting struct {
	parts int       // records it needs, while it waits for the node's bucket
	not   time.Time // before this
}

// writeSnapshot signs a snapshot of the own live state when one is due and something
// is to be written anyway, or nothing ever was in this epoch. All its records go into one commit,
// so that no restart finds half of it. turn is false when other writes may go.
func (r *Replica) writeSnapshot(now time.Time) (written []feed.Record, turn bool) {
	r.due.parts = 0
	self := r.chains[r.cfg.Self]
	begins := self.Head(r.writer.Feed().Epoch).Seq == 0
	if !r.writer.SnapshotDue() || now.Before(r.due.not) || len(r.backlog) == 0 && !begins {
		return nil, false
	}
	if r.rebuild[r.cfg.Self] || len(r.applied[r.cfg.Self]) > 0 {
		return nil, begins // readers do not see all of the own state yet
	}
	parts, err := r.writer.Snapshot(r.restate(self))
	if err != nil { // the epoch goes on without: what is older stays
		r.cfg.Log.Error("no snapshot of the own state can be written", "error", err)
		r.due.not = now.Add(snapshotAgain)
		return nil, false
	}
	if r.writer.Wait(now, len(parts)) > 0 {
		r.due.parts = len(parts)
		return nil, true
	}
	for i, ops := range parts {
		d := r.draft()
		d.Kind, d.Ops, d.Part, d.Parts = feed.Snapshot, ops, i, len(parts)
		rec, err := r.sign(now, d)
		if err != nil {
			r.cfg.Log.Error("own snapshot not written", "part", i+1, "of", len(parts), "error", err)
			r.due.not = now.Add(snapshotAgain)
			break
		}
		written = append(written, rec)
	}
	return written, true
}

// restate returns the ops of the own snapshot. What this version's kinds do not take
// any more is left out, and so deleted: otherwise no snapshot would ever pass again.
func (r *Replica) restate(self *feed.Chain) []feed.Op {
	return slices.DeleteFunc(r.view.restate(r.cfg.Self, self), func(op feed.Op) bool {
		err := feed.CheckOps(r.cfg.Self, r.cfg.Kinds, []feed.Op{op})
		if err != nil {
			r.cfg.Log.Warn("own key is not restated", "key", op.Key, "error", err)
		}
		return err != nil
	})
}

// compact follows a snapshot that has become complete: what it supersedes goes in
// the commit that makes it durable.
func (r *Replica) compact(c *feed.Chain) {
	r.rebuild[c.Origin()] = true
	for _, epoch := range c.Epochs() {
		f := feed.FeedID{Origin: c.Origin(), Epoch: epoch}
		if start := c.Start(epoch); start > 1 {
			r.cuts[f] = start
		}
		for seq := range r.fresh[f] {
			if seq < c.Start(epoch) {
				delete(r.fresh[f], seq)
			}
		}
	}
	r.moved(c)
	r.metrics.snapshots.Inc()
}

// cut removes a feed's records before start from the store, and keeps the headers of
// the newest of them.
func cut(tx Tx, f feed.FeedID, start uint64) error {
	var old, headers [][]byte // keys
	tx.Range(bucketRecords, feedKey(f), func(k, _ []byte) bool {
		if inFeed(k, f) && seqOf(k) < start {
			old = append(old, bytes.Clone(k))
		}
		return inFeed(k, f) && seqOf(k) < start
	})
	tx.Range(bucketHeaders, feedKey(f), func(k, _ []byte) bool {
		if inFeed(k, f) {
			headers = append(headers, bytes.Clone(k))
		}
		return inFeed(k, f)
	})
	for _, k := range headers[:max(0, min(len(headers), len(headers)+len(old)-feed.KeptHeaders))] {
		if err := tx.Delete(bucketHeaders, k); err != nil {
			return err
		}
	}
	for i, k := range old {
		if len(old)-i <= feed.KeptHeaders {
			rec, err := feed.Parse(tx.Get(bucketRecords, k))
			if err != nil {
				return err
			}
			if err := tx.Put(bucketHeaders, k, rec.Statement()); err != nil {
				return err
			}
		}
		if err := tx.Delete(bucketRecords, k); err != nil {
			return err
		}
		if err := tx.Delete(bucketRefused, k); err != nil {
			return err
		}
	}
	return nil
}

func inFeed(key []byte, f feed.FeedID) bool {
	prefix := feedKey(f)
	return len(key) == len(prefix)+8 && bytes.HasPrefix(key, prefix)
}

func seqOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

// restate returns the ops of a snapshot of what readers see of an owner: its
// live keys, and while older feeds of its are kept also what is deleted.
func (v *view) restate(owner spiffeid.ID, chain *feed.Chain) (ops []feed.Op) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.owners[owner]
	if h == nil {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(h.items)) {
		it := h.items[key]
		if chain.Rewound(it.at.Epoch, it.at.Seq) || it.deleted && !chain.Leftover() {
			continue
		}
		op := feed.Op{
			Key: key, Action: feed.Put, Value: it.Value, Scope: it.Scope,
			Written: &feed.Written{Epoch: it.Epoch, Seq: it.Seq, Record: it.Record, HLC: it.HLC},
		}
		if it.deleted {
			op.Action = feed.Del
		}
		ops = append(ops, op)
	}
	return ops
}

// shows reports whether readers see what a snapshot's op restates.
func (v *view) shows(owner spiffeid.ID, op feed.Op) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.owners[owner]
	if h == nil {
		return false
	}
	it, ok := h.items[op.Key]
	return ok && !it.deleted && op.Action == feed.Put && it.Record == op.Written.Record && bytes.Equal(it.Value, op.Value) && it.Scope == op.Scope
}
