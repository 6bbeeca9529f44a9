package replica

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

const (
	floodSize = 1 << 10 // larger bodies are announced
	maxNoted  = 4096
)

// receive handles one frame.
func (r *Replica) receive(s *session, t frameType, body []byte) {
	if !r.sessions[s] {
		return
	}
	now := time.Now()
	s.peer.heard = now
	var err error
	switch t {
	case frameCert:
		err = r.receiveCert(s, body)
	case frameRoot:
		err = r.receiveRoot(s, body, now)
	case frameHeads:
		err = r.receiveHeads(s, body, now)
	case frameWant:
		err = r.receiveWant(s, body)
	case frameRecord:
		var rec feed.Record
		if rec, err = feed.Parse(body); err == nil {
			r.receiveRecord(s, rec, now)
		}
	case frameSeal:
		var seal feed.Seal
		if seal, err = feed.ParseSeal(body); err == nil {
			err = r.receiveHead(s, seal.Feed, feed.Head{Seq: seal.Seq, ID: seal.ID, HLC: feed.NewHLC(now)}, seal.Verify)
		}
	case frameHeader:
		var h feed.Signed
		if h, err = feed.ParseSigned(body); err == nil {
			err = r.receiveHead(s, h.Feed(), feed.Head{Seq: h.Seq, ID: h.ID(), HLC: h.HLC}, h.Verify)
		}
	}
	if err != nil {
		s.blame(err)
	}
}

// receiveCert learns a certificate. One that does not verify here is dropped, and
// what it signed with it; nobody is blamed, for roots differ in age.
func (r *Replica) receiveCert(s *session, der []byte) error {
	if len(der) > feed.MaxCert {
		return fmt.Errorf("%w: certificate of %d bytes", errFrame, len(der))
	}
	key, err := r.cfg.Keys(der)
	if err != nil {
		r.metrics.certs.WithLabelValues("refused").Inc()
		r.cfg.Log.Debug("epoch certificate refused", "peer", s.peer.id.String(), "error", err)
		return nil
	}
	if !r.cfg.Carry(s.peer.id, key.Origin) {
		return nil
	}
	news, err := r.learnKey(key)
	if err != nil {
		s.disputed[key.Feed()] = true
		r.metrics.certs.WithLabelValues("disputed").Inc()
		r.cfg.Log.Warn("epoch certificate not taken", "peer", s.peer.id.String(), "feed", key.Feed().String(), "error", err)
		return nil
	}
	delete(s.disputed, key.Feed())
	if news {
		r.put(bucketCerts, feedKey(key.Feed()), der)
	}
	return nil
}

// learnKey makes a verified epoch key known, with what the store has of its feed.
// It reports whether the certificate is worth keeping.
func (r *Replica) learnKey(key feed.EpochKey) (news bool, err error) {
	c := r.chains[key.Origin]
	if c == nil {
		c = feed.NewChain(key.Origin, r.cfg.Kinds, r.statementAt)
		c.Hold(r.holds[key.Origin].Held)
	}
	old, known := c.Key(key.Epoch)
	if err := c.SetKey(key); err != nil {
		return false, err
	}
	if known {
		return key.NotAfter.After(old.NotAfter), nil
	}
	if end, ok := r.ends[key.Feed()]; ok {
		c.FreezeAt(key.Epoch, end)
	}
	if err := r.restore(c, key.Feed()); err != nil {
		return false, err
	}
	r.chains[key.Origin] = c
	if c.Head(key.Epoch).Seq > 0 { // it was not checkable when the replica opened
		r.moved()
		r.rebuild[key.Origin] = true
	}
	return true, nil
}

// receiveRecord has a record judged, and acts on the verdict.
func (r *Replica) receiveRecord(s *session, rec feed.Record, now time.Time) {
	f := rec.Feed()
	c := r.chains[f.Origin]
	if c == nil || s.disputed[f] || !r.cfg.Carry(s.peer.id, f.Origin) {
		r.metrics.verdict(feed.UnknownOrigin)
		return
	}
	r.act(s, c, c.Admit(now, rec), now)
	r.ready(c, now, s)
	if p, ok := r.pulls[f]; ok && c.Head(f.Epoch).Seq >= p.to {
		r.endPull(f, now)
	}
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
		r.accept(s, rec, res.Ops, now)
	case res.Verdict == feed.ParkedGap || res.Verdict == feed.ParkedFuture:
		if s != nil {
			s.peer.signs(f, feed.Head{Seq: rec.Seq, ID: rec.ID(), HLC: rec.HLC})
		}
		if f.Origin == r.cfg.Self {
			r.rewind(rec.Epoch, rec.Seq)
		}
		r.evidence(s, rec, res.Ops) // a proof waits for no clock
		r.pull(f, now)
	case res.Verdict.Proves() && f.Origin == r.cfg.Self:
		r.refuse(s, rec, "own", "", res.Err)
		r.rewind(rec.Epoch, rec.Seq)
	case res.Verdict.Proves():
		r.refuse(s, rec, res.Verdict.String(), "", res.Err)
		r.prove(res.Proof, true)
	case res.Verdict.RelayFault():
		r.refuse(s, rec, res.Verdict.String(), "", res.Err)
		if s != nil {
			s.blame(res.Err)
		}
	case res.Verdict == feed.BadSchema:
		r.refuse(s, rec, res.Verdict.String(), "", res.Err)
		if s != nil {
			delete(s.peer.claims, f)
		}
	case res.Verdict == feed.Unjudged:
		r.cfg.Log.Error("record could not be judged", "feed", f.String(), "seq", rec.Seq, "error", res.Err)
	}
}

// accept takes a foreign record into the batch, and passes it on. (Also an own
// one that a peer had and this disk did not.)
func (r *Replica) accept(s *session, rec feed.Record, ops []feed.Op, now time.Time) {
	f := rec.Feed()
	r.keep(rec)
	r.flood(rec, s)
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
	for i, op := range ops {
		if f.Origin == r.cfg.Self {
			break // our own word, from before this disk was restored
		}
		if err := r.cfg.Apply(rec, op); err != nil {
			refused = append(refused, i)
			r.metrics.denied.Inc()
			r.refuse(s, rec, "policy", op.Key, err)
		}
	}
	if len(refused) > 0 {
		r.put(bucketRefused, recordKey(f, rec.Seq), encode(refused))
	}
	r.apply(rec, items(rec, ops, refused))
	r.evidence(s, rec, ops)
}

// keep adds an admitted record to the batch.
func (r *Replica) keep(rec feed.Record) {
	f := rec.Feed()
	if r.fresh[f] == nil {
		r.fresh[f] = map[uint64]feed.Record{}
	}
	r.fresh[f][rec.Seq] = rec
	r.put(bucketRecords, recordKey(f, rec.Seq), rec.Bytes())
	r.moved()
}

// apply shows items once the batch is durable; none still renew the lease.
func (r *Replica) apply(rec feed.Record, written []item) {
	origin := rec.Feed().Origin
	r.applied[origin] = append(r.applied[origin], written...)
}

// refuse writes a refusal to the trail, once per record and key.
func (r *Replica) refuse(s *session, rec feed.Record, why, key string, err error) {
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

// flood passes a record to every peer but from that may not have it.
func (r *Replica) flood(rec feed.Record, from *session) {
	f := rec.Feed()
	ops, err := rec.Ops()
	if err != nil {
		return // admitted records have ops
	}
	c := urgency(ops)
	whole := c == classEvidence || len(rec.Body()) <= floodSize
	sent := map[*peer]bool{}
	if from != nil {
		sent[from.peer] = true
	}
	for s := range r.sessions {
		if sent[s.peer] || s.peer.has(f) >= rec.Seq || !r.cfg.Carry(s.peer.id, f.Origin) || s.lagging && c >= classState {
			continue
		}
		sent[s.peer] = true
		r.sendCert(s, f)
		if whole {
			s.send(c, frame(frameRecord, rec.Bytes()))
			continue
		}
		for _, b := range headsFrames(true, feed.Frontier{f: {Seq: rec.Seq, ID: rec.ID(), Bytes: r.chains[f.Origin].Head(f.Epoch).Bytes}}) {
			s.send(c, b)
		}
	}
}

// urgency is the class of a record with these ops.
func urgency(ops []feed.Op) class {
	c := classState
	for _, op := range ops {
		switch key, _ := feed.ParseKey(op.Key); key.Kind {
		case feed.KindEvidence:
			return classEvidence
		case feed.KindAuthority:
			c = classControl
		}
	}
	return c
}

// sendCert sends a feed's certificate once a session, and again when it was renewed.
func (r *Replica) sendCert(s *session, f feed.FeedID) {
	c := r.chains[f.Origin]
	if c == nil {
		return
	}
	key, ok := c.Key(f.Epoch)
	if ok && key.NotAfter.After(s.certs[f]) {
		s.certs[f] = key.NotAfter
		s.send(classEvidence, frame(frameCert, key.Cert))
	}
}

// evidence acts on the proofs among a record's ops.
func (r *Replica) evidence(s *session, rec feed.Record, ops []feed.Op) {
	for _, op := range ops {
		key, err := feed.ParseKey(op.Key)
		if err != nil || key.Kind != feed.KindEvidence || op.Action != feed.Put {
			continue
		}
		err = r.prove(slices.Clone(op.Value), false)
		switch {
		case errors.Is(err, feed.ErrUncheckable):
			r.cfg.Log.Debug("evidence cannot be checked here", "key", op.Key, "error", err)
		case err != nil:
			r.refuse(s, rec, "evidence", op.Key, err)
		}
	}
}
