package replica

import (
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// receive handles one frame.
func (r *Replica) receive(s *session, t frameType, body []byte, now time.Time) {
	if !r.sessions[s] {
		return
	}
	s.peer.heard = now
	var err error
	switch t {
	case frameCert:
		err = r.receiveCert(s, body, now)
	case frameRoot:
		err = r.receiveRoot(s, body, now)
	case frameHeads:
		err = r.receiveHeads(s, body, now)
	case frameNodes:
		err = r.receiveNodes(s, body, now)
	case frameLeaves:
		err = r.receiveLeaves(s, body, now)
	case frameEnd:
		err = r.receiveEnd(s, body, now)
	case frameWant:
		err = r.receiveWant(s, body, false, now)
	case frameFetch:
		err = r.receiveFetch(s, body, now)
	case framePrune:
		r.receivePrune(s)
	case frameTerms:
		err = r.receiveTerms(s, body, now)
	case frameRecord:
		if r.full != nil && len(r.writes) >= maxHeldBack {
			break // it is asked for again when there is room
		}
		var rec feed.Record
		if rec, err = feed.Parse(body); err == nil {
			r.receiveRecord(s, rec, now)
		}
	case frameSeal:
		var seal feed.Seal
		if seal, err = feed.ParseSeal(body); err == nil {
			err = r.receiveSeal(s, seal, now)
		}
	case frameHeader:
		var h feed.Signed
		if h, err = feed.ParseSigned(body); err == nil {
			err = r.receiveHeader(s, h, now)
		}
	}
	//bailiwick:check TestTruncatedFrame TestNestedFrame
	if err != nil {
		s.blame(err)
	}
}

// receiveCert learns a certificate. One that does not verify here is dropped, and
// what it signed with it; nobody is blamed, for roots differ in age.
func (r *Replica) receiveCert(s *session, der []byte, now time.Time) error {
	if len(der) > feed.MaxCert {
		return fmt.Errorf("%w: certificate of %d bytes", errFrame, len(der))
	}
	//bailiwick:check TestFloodOfCertificates
	if s.certificates.TokensAt(now) < 1 {
		r.metrics.certs.WithLabelValues("unread").Inc()
		return nil
	}
	key, err := r.cfg.Keys(der)
	if err != nil {
		s.certificates.AllowN(now, 1)
		r.metrics.certs.WithLabelValues("refused").Inc()
		r.cfg.Log.Debug("epoch certificate refused", "peer", s.peer.id.String(), "error", err)
		return nil
	}
	//bailiwick:check TestOtherRegion
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
		if p := r.pulls[key.Feed()]; p != nil && p.from == s {
			p.moved, s.moved = now, now // an answer begins
		}
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
		if r.cfg.Resides != nil && key.Origin != r.cfg.Self {
			c.Restrict(func(rec feed.Record) bool { return r.cfg.Resides(r.cfg.Self, rec) })
		}
	}
	old, known := c.Key(key.Epoch)
	if err := c.SetKey(key); err != nil {
		return false, err
	}
	c.Cover(r.covers[key.Feed()])
	if known {
		return key.NotAfter.After(old.NotAfter), nil
	}
	if end, ok := r.ends[key.Feed()]; ok {
		c.FreezeAt(key.Epoch, end)
	}
	if err := r.restore(c, key.Feed()); err != nil {
		return false, err
	}
	if r.chains[key.Origin] == nil {
		r.met(key.Origin)
	}
	r.chains[key.Origin] = c
	r.forget(c)
	r.moved(c)                     // a newer epoch that became known may leave nothing of older ones
	if c.Head(key.Epoch).Seq > 0 { // it was not checkable when the replica opened
		r.rebuild[key.Origin] = true
	}
	return true, nil
}
