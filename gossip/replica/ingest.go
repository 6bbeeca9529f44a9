package replica

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// maxNoted is of how many refusals it is remembered that the trail has them.
const maxNoted = 4096

// receiveRecord has a record judged, and acts on the verdict.
func (r *Replica) receiveRecord(s *session, rec feed.Record, now time.Time) {
	f := rec.Feed()
	c := r.chains[f.Origin]
	if c == nil || s.disputed[f] || !r.cfg.Carry(s.peer.id, f.Origin) {
		r.metrics.verdict(feed.UnknownOrigin)
		return
	}
	res := c.Admit(now, rec)
	if res.Verdict.Checked() {
		r.checked++
	}
	if res.Verdict == feed.Restricted { // nobody's fault: peers may have another policy for a while
		r.metrics.verdict(res.Verdict)
		r.metrics.denied.WithLabelValues("residency").Inc()
		return
	}
	s.quiet = r.came(s, rec, now)
	if res.Verdict == feed.Admitted || res.Verdict == feed.ParkedPart {
		r.crossed(s, f, len(rec.Bytes()), now)
	}
	r.act(s, c, res, now)
	s.quiet = false
	r.ready(c, now, s)
	r.forget(c)
	r.goOn(f, now)
}

// ready acts on what was parked in a chain and waits no more.
func (r *Replica) ready(c *feed.Chain, now time.Time, s *session) {
	for _, res := range c.Ready(now) {
		r.act(s, c, res, now)
	}
}

// act carries a verdict out. s is who handed the record over, nil when it was parked.
func (r *Replica) act(s *session, c *feed.Chain, res feed.Result, now time.Time) {
	rec, f := res.Record, res.Record.Feed()
	r.metrics.verdict(res.Verdict)
	if s != nil {
		s.peer.tells(f, feed.Head{Seq: rec.Seq, ID: rec.ID()})
	}
	switch {
	case res.Verdict == feed.Admitted:
		delete(r.awaited, f)
		r.accept(s, c, res)
	case res.Verdict == feed.Duplicate:
		if s != nil {
			r.duplicate(s, f)
		}
	case res.Verdict == feed.ParkedPart:
		if s != nil {
			s.peer.signs(f, feed.Head{Seq: rec.Seq, ID: rec.ID(), HLC: rec.HLC})
		}
		r.evidence(s, rec, res.Ops)
	case res.Verdict == feed.ParkedGap || res.Verdict == feed.ParkedFuture:
		if s != nil {
			s.peer.signs(f, feed.Head{Seq: rec.Seq, ID: rec.ID(), HLC: rec.HLC})
		}
		if f.Origin == r.cfg.Self {
			r.rewind(rec.Epoch, rec.Seq)
		}
		r.evidence(s, rec, res.Ops) // a proof waits for no clock
		if s != nil && s.terms.Mode == Headers && urgency(res.Ops) == classControl {
			r.claim(s.peer, f, feed.Head{Seq: rec.Seq, ID: rec.ID()}, now)
			r.fetch(f.Origin, now) // what an authority signed counts once all before it has come
		}
		r.pull(f, now)
	case res.Verdict.Proves():
		r.convict(s, rec.Signed, res)
	case res.Verdict.RelayFault():
		r.refuse(s, rec.Signed, res.Verdict.String(), "", res.Err)
		if s != nil {
			s.blame(res.Err)
		}
	case res.Verdict == feed.Uncovered || res.Verdict == feed.BadSnapshot:
		r.refuse(s, rec.Signed, res.Verdict.String(), "", res.Err)
		if s != nil {
			delete(s.peer.claims, f)
		}
	case res.Verdict == feed.Unjudged:
		r.cfg.Log.Error("record could not be judged", "feed", f.String(), "seq", rec.Seq, "error", res.Err)
	}
}

// convict acts on a verdict that comes with a proof.
func (r *Replica) convict(s *session, h feed.Signed, res feed.Result) {
	if h.Feed().Origin == r.cfg.Self {
		r.refuse(s, h, "own", "", res.Err)
		r.rewind(h.Epoch, h.Seq)
		return
	}
	r.refuse(s, h, res.Verdict.String(), "", res.Err)
	r.prove(res.Proof, true)
}

// accept takes an admitted record into the batch, with those that come with it, and
// passes it on. (Also an own one that a peer had and this disk did not.)
func (r *Replica) accept(s *session, c *feed.Chain, res feed.Result) {
	rec := res.Record
	for _, part := range res.Parts {
		if ops, err := part.Ops(); err == nil { // parts were judged
			r.take(s, part, ops)
		}
	}
	r.take(s, rec, res.Ops)
	if end, frozen := c.FrozenAt(rec.Epoch); frozen && end < rec.Seq {
		return // false evidence in it has just ended the feed before it: its proof goes on, not the record
	}
	if res.Complete {
		r.compact(c)
	}
	switch {
	case s != nil && s.quiet && urgency(res.Ops) >= classState:
	case len(res.Parts) > 0:
		r.announce(rec, s) // who lacks the other parts could do nothing with this one
	default:
		r.flood(rec, s)
	}
}

func (r *Replica) take(s *session, rec feed.Record, ops []feed.Op) {
	f := rec.Feed()
	r.keep(rec)
	r.sawAlive(rec)
	in := r.counted[f]
	if in == nil {
		in = &In{Origin: f.Origin.String(), Epoch: f.Epoch}
		r.counted[f] = in
	}
	in.Last, in.Record = rec.Seq, rec.ID()
	in.Records++
	in.Ops += uint64(len(ops))
	if f.Origin == r.cfg.Self {
		r.rewind(rec.Epoch, rec.Seq)
	}
	var refused []int
	var why refusals
	r.try(rec.Signed, func() {
		for i, op := range ops {
			if f.Origin == r.cfg.Self {
				break // our own word, from before this disk was restored
			}
			//bailiwick:check TestSchemaBackfillStorm
			if rec.Kind == feed.Snapshot && r.view.shows(f.Origin, op) {
				continue // what was allowed stays
			}
			if word, err := r.applies(rec, op); err != nil {
				refused = append(refused, i)
				r.metrics.denied.WithLabelValues(word).Inc()
				why.add(word, op.Key, err)
			}
		}
	})
	r.refuseAll(s, rec.Signed, why)
	if len(refused) > 0 {
		r.put(bucketRefused, recordKey(f, rec.Seq), encode(refused))
	}
	r.apply(rec, items(rec, ops, refused))
	r.evidence(s, rec, ops)
}

// applies says why an op may not apply here: its record is parked, its kind's schema,
// or policy.
func (r *Replica) applies(rec feed.Record, op feed.Op) (why string, err error) {
	//bailiwick:check TestPoisonRecord TestContagiousDeadlock
	if err := r.parked(rec.Signed, op); err != nil {
		return "poison", err
	}
	if err := r.cfg.Kinds.Check(op); err != nil {
		return "schema", err
	}
	err = r.cfg.Apply(rec, op)
	if named := (interface{ Why() string })(nil); errors.As(err, &named) {
		return named.Why(), err
	}
	return "policy", err
}

// keep adds an admitted record to the batch.
func (r *Replica) keep(rec feed.Record) {
	f := rec.Feed()
	if r.fresh[f] == nil {
		r.fresh[f] = map[uint64]feed.Record{}
	}
	r.fresh[f][rec.Seq] = rec
	r.put(bucketRecords, recordKey(f, rec.Seq), rec.Bytes())
	r.changed[f] = true
	r.moved(r.chains[f.Origin])
}

// apply shows items once the batch is durable; none still renew the lease. Those of
// a snapshot have to wait until it is complete.
func (r *Replica) apply(rec feed.Record, written []item) {
	origin := rec.Feed().Origin
	if rec.Kind == feed.Snapshot {
		written = nil
	}
	r.applied[origin] = append(r.applied[origin], written...)
}

// refuse writes a refusal to the trail, once per record and key.
func (r *Replica) refuse(s *session, rec feed.Signed, why, key string, err error) {
	note := statement.Digest(append(bytes.Clone(rec.Statement()), why+"\x00"+key...))
	if r.noted[note] {
		return
	}
	if len(r.noted) >= maxNoted {
		clear(r.noted)
	}
	r.noted[note] = true
	l := Refuse{
		Origin: rec.Origin, Epoch: rec.Epoch, Seq: rec.Seq, Record: rec.ID(), Why: why, Key: key, Detail: detail(err),
	}
	if s != nil {
		l.Relay = s.peer.id.String()
	}
	r.leaf(LeafRefuse, l)
	r.cfg.Log.Warn("state refused", "feed", rec.Feed().String(), "seq", rec.Seq, "relay", l.Relay, "why", why, "key", key, "error", err)
}

// evidence acts on the proofs and covers among a record's ops: they speak for
// themselves, whoever carries them and whether the record counts yet.
func (r *Replica) evidence(s *session, rec feed.Record, ops []feed.Op) {
	var why refusals
	for i, op := range ops {
		key, err := feed.ParseKey(op.Key)
		if err != nil || op.Action != feed.Put || key.Kind != feed.KindEvidence && key.Kind != feed.KindCover || r.parked(rec.Signed, op) != nil {
			continue
		}
		r.try(rec.Signed, func() {
			if key.Kind == feed.KindEvidence {
				if err = r.prove(slices.Clone(op.Value), false); errors.Is(err, feed.ErrProof) {
					err = errors.Join(err, r.accuse(rec, i))
				}
			} else {
				err = r.cover(slices.Clone(op.Value))
			}
		})
		switch {
		case errors.Is(err, feed.ErrUncheckable):
			r.cfg.Log.Debug("evidence cannot be checked here", "key", op.Key, "error", err)
		case err != nil:
			why.add("evidence", op.Key, err)
		}
	}
	r.refuseAll(s, rec.Signed, why)
}

// accuse acts on a record whose origin signed false evidence in op i of it, where that can be shown.
func (r *Replica) accuse(rec feed.Record, i int) error {
	c := r.chains[rec.Feed().Origin]
	if c == nil {
		return nil
	}
	key, ok := c.Key(rec.Epoch)
	if !ok {
		return nil
	}
	proof, ok := feed.Accusation(rec, i, key, r.cfg.Keys)
	if !ok {
		return nil
	}
	return r.prove(proof, true)
}
