package replica

import "github.com/bailiwick-mesh/bailiwick/gossip/feed"

const (
	floodSize = 1 << 10 // larger bodies are announced
	leadBytes = 8 << 10 // of records go ahead of an urgent one that is of no use without them
)

// flood passes a record on in the mesh: whole, or only its head when it is large.
func (r *Replica) flood(rec feed.Record, from *session) {
	ops, err := rec.Ops()
	if err != nil {
		return // admitted records have ops
	}
	c := urgency(ops)
	if c != classEvidence && len(rec.Body()) > floodSize {
		r.announce(rec, from)
		return
	}
	whole := frame(frameRecord, rec.Bytes())
	r.offer(rec.Feed(), rec.Seq, from, c, func(s *session) []byte {
		if r.withheld(s, rec) {
			return frame(frameHeader, rec.Statement())
		}
		return whole
	})
}

// always is the same frame for every peer.
func always(b []byte) func(*session) []byte { return func(*session) []byte { return b } }

// announce tells the mesh of a record that it can be had.
func (r *Replica) announce(rec feed.Record, from *session) {
	f, c := rec.Feed(), classState
	if ops, err := rec.Ops(); err == nil {
		c = urgency(ops)
	}
	for _, b := range headsFrames(feed.Frontier{f: {Seq: rec.Seq, ID: rec.ID(), Bytes: r.chains[f.Origin].Head(f.Epoch).Bytes}}) {
		r.offer(f, rec.Seq, from, c, always(b))
	}
}

// announceHead tells the mesh how far a feed is here.
func (r *Replica) announceHead(f feed.FeedID, from *session) {
	h := r.chains[f.Origin].Head(f.Epoch)
	if h.Seq == 0 {
		return
	}
	for _, b := range headsFrames(feed.Frontier{f: h}) {
		r.offer(f, h.Seq, from, classState, always(b))
	}
}

// offer sends a frame about a record to every peer of the mesh but from that may not
// have it.
func (r *Replica) offer(f feed.FeedID, seq uint64, from *session, c class, frameFor func(*session) []byte) {
	sent := map[*peer]bool{}
	if from != nil {
		sent[from.peer] = true
	}
	for _, s := range r.attached {
		if !s.peer.eager || sent[s.peer] || s.peer.has(f) >= seq || r.hasFrom(s.peer, f, seq) || !r.cfg.Carry(s.peer.id, f.Origin) || s.lagging && c >= classState {
			continue
		}
		sent[s.peer] = true
		r.sendCert(s, f, c)
		r.sendLead(s, f, seq, c)
		s.send(c, r.shape(s, f, seq, c, frameFor(s)))
	}
}

// sendLead sends the records before an urgent one as urgently, each once a session, where
// those that the peer lacks wait behind others or were left out: it parks what comes ahead
// of a gap. A peer that lacks more than a few asks for them.
func (r *Replica) sendLead(s *session, f feed.FeedID, seq uint64, c class) {
	if c >= classState {
		return
	}
	from := max(s.peer.has(f), s.led[f]) + 1
	s.led[f] = seq
	chain := r.chains[f.Origin]
	before, held := chain.At(f.Epoch, from-1)
	last, also := chain.At(f.Epoch, seq-1)
	if from >= seq || !held && from > 1 || !also || less(last.Bytes, before.Bytes) > leadBytes || !s.lagging && s.out.clear() {
		return
	}
	err := r.scan(f, from, func(rec feed.Record) (bool, error) {
		if rec.Seq >= seq || r.withheld(s, rec) {
			return false, nil
		}
		return s.send(c, frame(frameRecord, rec.Bytes())), nil
	})
	if err != nil {
		r.cfg.Log.Error("read a record back", "feed", f.String(), "seq", from, "error", err)
	}
}

// urgency is the class of a record with these ops.
func urgency(ops []feed.Op) class {
	c := classState
	for _, op := range ops {
		switch key, _ := feed.ParseKey(op.Key); {
		case key.Kind == feed.KindEvidence:
			return classEvidence
		case feed.IsAuthority(key.Kind), key.Kind == feed.KindAccusation:
			c = classControl
		}
	}
	return c
}

// sendCert sends a feed's certificate ahead of something of a class that it signed: once
// a session on each stream, for neither waits for the other, and again when it was
// renewed.
func (r *Replica) sendCert(s *session, f feed.FeedID, of class) {
	c := r.chains[f.Origin]
	if c == nil {
		return
	}
	key, ok := c.Key(f.Epoch)
	on := s.lane(of)
	if !ok || !key.NotAfter.After(s.certs[on][f]) {
		return
	}
	ahead := classEvidence
	if on == rest {
		ahead = classState
	}
	if s.send(ahead, frame(frameCert, key.Cert)) {
		s.certs[on][f] = key.NotAfter
	}
}
