package replica

import (
	"fmt"
	"maps"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

const (
	pullAtOnce = 64
	pullBytes  = 256 << 10
	pullWait   = time.Second
	maxPulls   = 256     // under way, for one session
	maxFeeds   = 1 << 14 // of one peer's frontier
)

// peer is what this node knows of another's copy, also between sessions.
type peer struct {
	id       spiffeid.ID
	sessions int
	heard    time.Time
	front    feed.Frontier             // its whole frontier, as last told or shown equal to ours
	ahead    map[feed.FeedID]feed.Head // what it showed since
	claims   map[feed.FeedID]feed.Head // heads we do not hold, to ask for; unsigned
	signed   map[feed.FeedID]feed.Head // heads we do not hold, signed
}

// front is a frontier with its root.
type front struct {
	heads feed.Frontier
	root  [32]byte
}

// pull is a want that was sent.
type pull struct {
	from  *session
	to    uint64
	until time.Time
}

// has returns the last record of a feed the peer is known to hold.
func (p *peer) has(f feed.FeedID) uint64 { return max(p.front[f].Seq, p.ahead[f].Seq) }

// tells notes a head the peer showed.
func (p *peer) tells(f feed.FeedID, h feed.Head) {
	if h.Seq > p.has(f) && len(p.ahead) < maxFeeds {
		p.ahead[f] = h
	}
}

// signs notes a signed head the peer showed.
func (p *peer) signs(f feed.FeedID, h feed.Head) {
	if old := p.signed[f]; h.Seq > old.Seq {
		if h.Bytes == 0 {
			h.Bytes = max(p.front[f].Bytes, p.claims[f].Bytes)
		}
		if old.Seq > 0 {
			h.HLC = min(h.HLC, old.HLC) // the oldest that was seen missing
		}
		p.signed[f] = h
	}
}

// moved forgets the cached frontiers.
func (r *Replica) moved() { clear(r.fronts) }

// frontier returns the heads that travel between us and a peer, and their root.
// The map is shared: never changed, only replaced.
func (r *Replica) frontier(to spiffeid.ID) (feed.Frontier, [32]byte) {
	if f, ok := r.fronts[to]; ok {
		return f.heads, f.root
	}
	heads := feed.Frontier{}
	for origin, c := range r.chains {
		if r.cfg.Carry(to, origin) {
			maps.Insert(heads, c.Heads())
		}
	}
	f := front{heads, heads.Root()}
	r.fronts[to] = f
	return f.heads, f.root
}

// receiveRoot compares roots: equal means the peer has what we have.
func (r *Replica) receiveRoot(s *session, body []byte, now time.Time) error {
	if len(body) != 32 {
		return fmt.Errorf("%w: root of %d bytes", errFrame, len(body))
	}
	heads, root := r.frontier(s.peer.id)
	if [32]byte(body) == root {
		s.peer.front, s.peer.claims = heads, nil
		clear(s.peer.ahead)
		clear(s.peer.signed)
		return nil
	}
	if now.Sub(s.told) >= tick*9/10 {
		s.told = now
		for _, b := range headsFrames(false, heads) {
			s.send(classControl, b)
		}
	}
	return nil
}

// receiveHeads asks for what the peer has and we lack.
func (r *Replica) receiveHeads(s *session, body []byte, now time.Time) error {
	part, heads, err := parseHeads(body)
	if err != nil {
		return err
	}
	p := s.peer
	if part == partNews {
		for f, h := range heads {
			p.tells(f, h)
			r.claim(p, f, h, now)
		}
		return nil
	}
	if len(s.whole)+len(heads) > maxFeeds {
		return fmt.Errorf("%w: frontier of more than %d feeds", errFrame, maxFeeds)
	}
	maps.Copy(s.whole, heads)
	if part == partMore {
		return nil
	}
	p.front, p.claims, s.whole = s.whole, nil, feed.Frontier{}
	clear(p.ahead)
	for f, h := range p.front {
		r.claim(p, f, h, now)
	}
	return nil
}

// claim notes a head to ask for, if we lack it or hold another in its place.
func (r *Replica) claim(p *peer, f feed.FeedID, h feed.Head, now time.Time) {
	if !r.cfg.Carry(p.id, f.Origin) {
		return
	}
	if c := r.chains[f.Origin]; c != nil {
		ours, held := c.At(f.Epoch, h.Seq)
		if held && ours.ID == h.ID {
			return
		}
		if _, known := c.Key(f.Epoch); known && !held && !c.Wants(f.Epoch, c.Head(f.Epoch).Seq+1) {
			return
		}
		if end, frozen := c.FrozenAt(f.Epoch); frozen && c.Head(f.Epoch).Seq >= end || held && c.Held() {
			return
		}
	}
	if len(p.claims) >= maxFeeds {
		return
	}
	if p.claims == nil {
		p.claims = map[feed.FeedID]feed.Head{}
	}
	p.claims[f] = h
	r.pull(f, now)
}

// pull asks one of the peers that say so for the next records of a feed, unless
// that was done a moment ago.
func (r *Replica) pull(f feed.FeedID, now time.Time) {
	if _, ok := r.pulls[f]; ok {
		return
	}
	var head uint64
	c := r.chains[f.Origin]
	if c != nil {
		head = c.Head(f.Epoch).Seq
	}
	var best *session
	var claim feed.Head
	for s := range r.sessions {
		h, ok := s.peer.claims[f]
		if ok && c != nil {
			if ours, held := c.At(f.Epoch, h.Seq); held && ours.ID == h.ID {
				delete(s.peer.claims, f)
				ok = false
			}
		}
		if ok && s.asked < maxPulls && (best == nil || h.Seq > claim.Seq) {
			best, claim = s, h
		}
	}
	if best == nil {
		return
	}
	w := want{f, head + 1, min(claim.Seq, head+pullAtOnce)}
	if claim.Seq <= head { // another record in the place of ours: once is enough
		w.from, w.to = claim.Seq, claim.Seq
		delete(best.peer.claims, f)
	}
	r.metrics.pulls.Inc()
	r.pulls[f] = pull{best, w.to, now.Add(pullWait)}
	best.asked++
	best.send(classControl, wantFrame(w))
}

// endPull forgets a want, and makes room for the next.
func (r *Replica) endPull(f feed.FeedID, now time.Time) {
	p, ok := r.pulls[f]
	if !ok {
		return
	}
	delete(r.pulls, f)
	p.from.asked--
	r.pull(f, now)
	if len(p.from.peer.claims) <= p.from.asked {
		return // nothing waits
	}
	for waiting := range p.from.peer.claims {
		if p.from.asked >= maxPulls {
			return
		}
		r.pull(waiting, now)
	}
}

// receiveWant answers from the store, as far as there is room.
func (r *Replica) receiveWant(s *session, body []byte) error {
	wants, err := parseWant(body)
	if err != nil {
		return err
	}
	for _, w := range wants {
		c := r.chains[w.feed.Origin]
		if c == nil || !r.cfg.Carry(s.peer.id, w.feed.Origin) {
			continue
		}
		head := c.Head(w.feed.Epoch)
		if head.Seq < w.from {
			continue
		}
		r.sendCert(s, w.feed)
		if h := r.statementAt(w.feed, head.Seq); h != nil {
			s.send(classControl, frame(frameHeader, h))
		}
		sent, size := 0, 0
		err := r.scan(w.feed, w.from, func(rec feed.Record) (bool, error) {
			if rec.Seq > min(w.to, head.Seq) || sent == pullAtOnce || size > pullBytes {
				return false, nil
			}
			sent++
			size += len(rec.Bytes())
			s.send(classBulk, frame(frameRecord, rec.Bytes()))
			return true, nil
		})
		if err != nil {
			r.cfg.Log.Error("answer a want", "feed", w.feed.String(), "error", err)
		}
	}
	return nil
}

// receiveHead takes a signed head: debt, and news of our own feed.
func (r *Replica) receiveHead(s *session, f feed.FeedID, h feed.Head, verify func(feed.EpochKey) error) error {
	c := r.chains[f.Origin]
	if c == nil || s.disputed[f] || !r.cfg.Carry(s.peer.id, f.Origin) {
		return nil
	}
	key, ok := c.Key(f.Epoch)
	if !ok {
		return nil
	}
	ours, held := c.At(f.Epoch, h.Seq)
	if held && ours.ID == h.ID {
		return nil
	}
	if err := verify(key); err != nil {
		return err
	}
	if f.Origin == r.cfg.Self {
		r.rewind(f.Epoch, h.Seq)
	}
	if !held {
		s.peer.signs(f, h)
	}
	return nil
}
