package replica

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// Reconsider looks again at every op that was refused, and shows what the kinds and
// Config.Apply allow now. Call it when policy has changed while Run runs; Run begins
// with it, because this version or its policy may be newer. What was allowed before stays.
func (r *Replica) Reconsider(ctx context.Context) error { return r.do(ctx, r.reconsiderAll) }

func (r *Replica) reconsiderAll() error {
	for origin, c := range r.chains {
		for _, epoch := range c.Epochs() {
			if err := r.reconsider(feed.FeedID{Origin: origin, Epoch: epoch}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Replica) reconsider(f feed.FeedID) error {
	refused, err := r.refusedOps(f)
	if err != nil || len(refused) == 0 {
		return err
	}
	first := slices.Min(slices.Collect(maps.Keys(refused)))
	var recs []feed.Record
	if err := r.scan(f, first, func(rec feed.Record) (bool, error) {
		if len(refused[rec.Seq]) > 0 {
			recs = append(recs, rec)
		}
		return true, nil
	}); err != nil {
		return err
	}
	for _, rec := range recs {
		ops, err := rec.Ops()
		if err != nil {
			return fmt.Errorf("%w: %d of %s: %w", feed.ErrChain, rec.Seq, f, err)
		}
		var still []int
		r.try(rec.Signed, func() {
			still = slices.DeleteFunc(slices.Clone(refused[rec.Seq]), func(i int) bool { _, err := r.applies(rec, ops[i]); return err == nil })
		})
		if len(still) < len(refused[rec.Seq]) {
			r.put(bucketRefused, recordKey(f, rec.Seq), encode(still))
			r.rebuild[f.Origin] = true
		}
	}
	return nil
}

// Refused returns the newest record with a change of a key, if that came and does not apply
// here. The trail says why (Refuse).
func (r *Replica) Refused(ctx context.Context, key string) (newest Receipt, found bool, err error) {
	owner, path, ok := r.view.ownerOf(key)
	if !ok {
		return Receipt{}, false, nil
	}
	err = r.do(ctx, func() error {
		c := r.chains[owner]
		if c == nil {
			return nil
		}
		for _, epoch := range c.Epochs() {
			f := feed.FeedID{Origin: owner, Epoch: epoch}
			refused, err := r.refusedOps(f)
			if err != nil || len(refused) == 0 {
				return err
			}
			if err := r.scan(f, slices.Min(slices.Collect(maps.Keys(refused))), func(rec feed.Record) (bool, error) {
				ops, err := rec.Ops()
				for i, op := range ops {
					if op.Key == path {
						newest, found = Receipt{epoch, rec.Seq, rec.ID()}, slices.Contains(refused[rec.Seq], i)
					}
				}
				return true, err
			}); err != nil {
				return err
			}
		}
		return nil
	})
	return newest, found, err
}
