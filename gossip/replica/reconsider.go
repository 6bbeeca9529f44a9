package replica

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// Reconsider asks Config.Apply again about every op it has refused, and shows what
// it allows now. Call it when policy has changed. What was allowed before stays.
func (r *Replica) Reconsider(ctx context.Context) error {
	return r.do(ctx, func() error {
		for origin, c := range r.chains {
			for _, epoch := range c.Epochs() {
				if err := r.reconsider(feed.FeedID{Origin: origin, Epoch: epoch}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (r *Replica) reconsider(f feed.FeedID) error {
	refused, err := r.refusedOps(f)
	if err != nil || len(refused) == 0 {
		return err
	}
	first := slices.Min(slices.Collect(maps.Keys(refused)))
	return r.scan(f, first, func(rec feed.Record) (bool, error) {
		places := refused[rec.Seq]
		if len(places) == 0 {
			return true, nil
		}
		ops, err := rec.Ops()
		if err != nil {
			return false, fmt.Errorf("%w: %d of %s: %w", feed.ErrChain, rec.Seq, f, err)
		}
		still := slices.DeleteFunc(slices.Clone(places), func(i int) bool { return r.cfg.Apply(rec, ops[i]) == nil })
		if len(still) < len(places) {
			r.put(bucketRefused, recordKey(f, rec.Seq), encode(still))
			r.rebuild[f.Origin] = true
		}
		return true, nil
	})
}
