package replica

import (
	"context"
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

const (
	maxCovers  = 4096 // of expired feeds that are known, and made
	coverAhead = 3    // checkpoints before a certificate's end from which on its feed is covered
)

// cover verifies a cover and keeps it if it is further than the one before.
func (r *Replica) cover(b []byte) error {
	v, err := feed.VerifyCover(b, r.cfg.Checkpoints)
	if err != nil {
		return err
	}
	old, known := r.covers[v.Feed]
	if v.Seq <= old.Seq || !known && len(r.covers) >= maxCovers {
		return nil
	}
	r.covers[v.Feed] = v
	r.put(bucketCovers, feedKey(v.Feed), b)
	if c := r.chains[v.Feed.Origin]; c != nil {
		c.Cover(v)
	}
	return nil
}

// moot reports whether a newer snapshot stands for all that a cover speaks of. A cover of
// records that are held stays: they may have to be taken anew.
func (r *Replica) moot(v feed.Cover) bool {
	c := r.chains[v.Feed.Origin]
	return c != nil && c.Start(v.Feed.Epoch) > v.Seq
}

// dropCovers forgets those that are moot.
func (r *Replica) dropCovers() {
	for f, v := range r.covers {
		if r.moot(v) {
			delete(r.covers, f)
			r.put(bucketCovers, feedKey(f), nil)
		}
	}
}

// Covers returns the ops that keep this node's covers in step with a checkpoint: it
// says of a feed whose certificate is about to end, or has just ended, how far it
// had come; and covers are dropped whose feed has gone or was renewed. checkpoint
// is what the authority signed at of the frontier heads, as it does every so often.
// Write them with Put, in pieces.
func (r *Replica) Covers(ctx context.Context, checkpoint []byte, at time.Time, every time.Duration, heads feed.Frontier) (ops []feed.Op, err error) {
	ends := map[feed.FeedID]time.Time{}
	if err := r.do(ctx, func() error {
		for f := range heads {
			if c := r.chains[f.Origin]; c != nil {
				if key, ok := c.Key(f.Epoch); ok {
					ends[f] = key.NotAfter
				}
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	keep := map[string]bool{}
	covers, err := feed.MakeCovers(checkpoint, heads, func(f feed.FeedID) bool {
		end, known := ends[f]
		if !known || at.Before(end.Add(-coverAhead*every)) || len(keep) >= maxCovers {
			return false
		}
		keep[feed.CoverName(f)] = true
		return !at.After(end.Add(feed.CoverGrace))
	})
	if err != nil {
		return nil, fmt.Errorf("cover feeds: %w", err)
	}
	for f, b := range covers {
		key := feed.KeyOf(r.cfg.Self, feed.KindCover, feed.CoverName(f))
		if e, ok := r.Get(key); ok {
			if old, err := feed.VerifyCover(e.Value, r.cfg.Checkpoints); err == nil && old.Seq == heads[f].Seq {
				continue
			}
		}
		ops = append(ops, feed.Op{Key: key, Action: feed.Put, Value: b, Scope: feed.ScopeRegion})
	}
	mine, _ := r.List(feed.KeyOf(r.cfg.Self, feed.KindCover, ""))
	for _, e := range mine {
		if !keep[e.Name] {
			ops = append(ops, feed.Op{Key: e.Key, Action: feed.Del, Scope: feed.ScopeRegion})
		}
	}
	return ops, nil
}
