package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

const (
	groupOps   = 64 // ops of several writes that share a record
	maxWaiting = 4096
)

// Receipt says where a write ended up.
type Receipt struct {
	Epoch  uint64
	Seq    uint64
	Record feed.ID
}

// request is one write that waits for its record.
type request struct {
	ctx  context.Context
	kind feed.RecordKind
	ops  []feed.Op
	tell func(Receipt, error) // nil: nobody waits; must not block
}

func (q *request) reply(got Receipt, err error) {
	if q.tell != nil {
		q.tell(got, err)
	}
}

// Put writes ops (puts and dels of own keys) as part of one record and returns when
// it is durable here; peers hear of it next. Writes that come while a commit is
// under way share a record. Errors wrap feed.ErrKey, ErrForeign, ErrSchema,
// ErrTooLarge and ErrQuota (nothing was written; change the ops), ErrNoIdentity,
// ErrRewound, feed.ErrClockBehind, feed.ErrExpired, feed.ErrFrozen (not until that ends), ErrBusy,
// store.ErrFull (it may be written once there is room), or ErrStopped: then it may have been
// written or not, and a restart shows which.
func (r *Replica) Put(ctx context.Context, ops ...feed.Op) (Receipt, error) {
	if err := feed.CheckOps(r.cfg.Self, r.cfg.Kinds, ops); err != nil {
		return Receipt{}, err
	}
	return r.ask(&request{ctx: ctx, ops: ops})
}

// Delete removes own keys. Errors are Put's.
func (r *Replica) Delete(ctx context.Context, keys ...string) (Receipt, error) {
	ops := make([]feed.Op, len(keys))
	for i, k := range keys {
		ops[i] = feed.Op{Key: k, Action: feed.Del, Scope: feed.ScopeRegion}
	}
	return r.Put(ctx, ops...)
}

// Leave ends the node's lease with a last record; the node may write again
// later. Errors are Put's.
func (r *Replica) Leave(ctx context.Context) (Receipt, error) {
	return r.ask(&request{ctx: ctx, kind: feed.Leave})
}

// SetIdentity gives the node its feed key and epoch certificate, at the start, on
// renewal, and to begin a newer epoch. Errors wrap ErrRewound when the epoch is not
// newer than what peers have shown, feed.ErrOldEpoch, feed.ErrUnknown, feed.ErrChain
// or Keys' own; the identity before it stays then.
func (r *Replica) SetIdentity(ctx context.Context, id Identity) error {
	return r.do(ctx, func() error { return r.setIdentity(id) })
}

func (r *Replica) setIdentity(id Identity) error {
	key, err := r.cfg.Keys(id.Cert)
	if err != nil {
		return fmt.Errorf("own epoch certificate: %w", err)
	}
	if key.Origin != r.cfg.Self {
		return fmt.Errorf("%w: the certificate is for %s, this is %s", feed.ErrUnknown, key.Origin, r.cfg.Self)
	}
	if key.Epoch <= r.rewound {
		return fmt.Errorf("%w: epoch %d is not above %d", ErrRewound, key.Epoch, r.rewound)
	}
	news, err := r.learnKey(key)
	if errors.Is(err, feed.ErrChain) {
		r.rewind(key.Epoch, 0) // what was written in it is not known for sure
	}
	if err != nil {
		return err
	}
	w, err := feed.NewWriter(r.chains[r.cfg.Self], key.Epoch, id.Signer)
	if err != nil {
		return err
	}
	if news {
		r.put(bucketCerts, feedKey(key.Feed()), id.Cert)
	}
	r.writer = w
	return nil
}

// Seal signs the head of the node's own feed. Errors wrap ErrNoIdentity, ErrRewound or feed.ErrGap
// when nothing was written yet.
func (r *Replica) Seal(ctx context.Context) (seal []byte, err error) {
	err = r.do(ctx, func() error {
		if err := r.mayWrite(); err != nil {
			return err
		}
		seal, err = r.writer.Seal()
		return err
	})
	return seal, err
}

func (r *Replica) mayWrite() error {
	switch {
	case r.writer == nil && r.rewound > 0:
		return fmt.Errorf("%w: epoch %d", ErrRewound, r.rewound)
	case r.writer == nil:
		return ErrNoIdentity
	case r.chains[r.cfg.Self].Held():
		return fmt.Errorf("%w: this node is held", feed.ErrFrozen)
	}
	return nil
}

// writable returns how long the backlog has to wait for the node's bucket yet, and
// whether anything waits.
func (r *Replica) writable(now time.Time) (time.Duration, bool) {
	if len(r.backlog) == 0 || r.writer == nil {
		return 0, false
	}
	return r.writer.Wait(now, max(r.due.parts, 1)), true
}

// writeOwn signs one record of what waits, and puts it into the batch.
func (r *Replica) writeOwn(now time.Time) []feed.Record {
	for len(r.backlog) > maxWaiting {
		last := len(r.backlog) - 1
		r.backlog[last].reply(Receipt{}, ErrBusy)
		r.backlog = r.backlog[:last]
	}
	if err := cmp.Or(r.full, r.mayWrite()); err != nil {
		r.answerAll(err)
		return nil
	}
	r.publish()
	if written, turn := r.writeSnapshot(now); turn {
		return written
	}
	if len(r.backlog) == 0 {
		return nil
	}
	if r.cfg.Recordable != nil {
		if err := r.cfg.Recordable(); err != nil {
			r.answerAll(err)
			return nil
		}
	}
	//bailiwick:check TestEverybodyWritesAgain
	if r.writer.Wait(now, 1) > 0 {
		return nil
	}
	draft, group := r.gather()
	if len(group) == 0 {
		return nil
	}
	rec, err := r.sign(now, draft)
	if err != nil {
		r.cfg.Log.Warn("own record not written", "error", err)
		for _, q := range group {
			q.reply(Receipt{}, err)
		}
		return nil
	}
	got := Receipt{rec.Epoch, rec.Seq, rec.ID()}
	r.after = append(r.after, func(failed error) {
		if failed != nil && !passes(failed) {
			failed = fmt.Errorf("%w: %w", ErrStopped, failed)
		}
		for _, q := range group {
			q.reply(got, failed)
		}
	})
	return []feed.Record{rec}
}

// gather takes writes off the backlog that fit into one record together. What can
// never fit is answered.
func (r *Replica) gather() (feed.Draft, []*request) {
	draft := r.draft()
	var group []*request
	for len(r.backlog) > 0 {
		q := r.backlog[0]
		if err := context.Cause(q.ctx); err != nil {
			q.reply(Receipt{}, err)
			r.backlog = r.backlog[1:]
			continue
		}
		alone := len(group) == 0
		if !alone && (q.kind == feed.Leave || draft.Kind == feed.Leave || len(draft.Ops)+len(q.ops) > groupOps) {
			break
		}
		joined := append(draft.Ops[:len(draft.Ops):len(draft.Ops)], q.ops...)
		if err := r.writer.Fits(joined); err != nil {
			if !alone {
				break // alone it may fit
			}
			q.reply(Receipt{}, err)
			r.backlog = r.backlog[1:]
			continue
		}
		if alone && r.cfg.Traceparent != nil {
			draft.Traceparent = r.cfg.Traceparent(q.ctx)
		}
		if q.kind != 0 {
			draft.Kind = q.kind
		}
		draft.Ops = joined
		group = append(group, q)
		r.backlog = r.backlog[1:]
	}
	return draft, group
}

func (r *Replica) draft() feed.Draft {
	draft := feed.Draft{Kind: feed.Ops, TTL: uint32(r.cfg.TTL / time.Second)}
	if r.cfg.Policy != nil {
		draft.Policy = r.cfg.Policy()
	}
	return draft
}

// sign makes the next own record and has it judged like any other: what does not
// pass here is never sent.
func (r *Replica) sign(now time.Time, d feed.Draft) (feed.Record, error) {
	rec, err := r.writer.Next(now, d)
	if err != nil {
		return feed.Record{}, err
	}
	res := r.chains[r.cfg.Self].Admit(now, rec)
	if res.Verdict != feed.Admitted {
		return feed.Record{}, errors.Join(fmt.Errorf("own record %d of %s: %s", rec.Seq, rec.Feed(), res.Verdict), res.Err)
	}
	r.metrics.own.Inc()
	r.keep(rec)
	r.leaf(LeafOut, Out{rec.Epoch, rec.Seq, rec.ID(), rec.Count})
	r.apply(rec, items(rec, res.Ops, nil))
	r.evidence(nil, rec, res.Ops)
	if res.Complete {
		r.compact(r.chains[r.cfg.Self])
	}
	return rec, nil
}

func (r *Replica) answerAll(err error) {
	for _, q := range r.backlog {
		q.reply(Receipt{}, err)
	}
	r.backlog = nil
}

// heartbeat renews the node's lease when half of it has passed.
func (r *Replica) heartbeat(now time.Time) {
	if len(r.backlog) > 0 || r.mayWrite() != nil {
		return
	}
	hlc, kind, _ := r.chains[r.cfg.Self].Newest()
	if kind != feed.Leave && now.Sub(hlc.Time()) >= r.cfg.TTL/2 {
		r.backlog = append(r.backlog, &request{ctx: context.Background()})
	}
}
