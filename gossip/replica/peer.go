package replica

import (
	"iter"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// Bounds of what a peer tells of its copy.
const (
	maxFeeds    = 1 << 14
	maxFrontier = 4 << 20 // bytes of a frontier's frames, and of the claims that are kept
	maxLost     = 256     // peers without a session that are remembered
)

// peer is what this node knows of another's copy, also between sessions.
type peer struct {
	id       spiffeid.ID
	sessions int
	eager    bool // in the mesh: records are pushed to it, and it is known what it has
	heard    time.Time
	attached time.Time                 // when its first session began
	lost     time.Time                 // when the last session ended
	name     uint64                    // its place among others, before it is mixed
	near     bool                      // what it told of has all come since it attached, or nothing was missing
	told     bool                      // it compared its copy with ours since
	more     int                       // bytes that it claims and we lack, the most since it claimed nothing
	round    time.Duration             // the longest that it took to answer in a comparison while feeds cross
	carried  *carried                  // what travels between it and us; nil until that is asked
	agreed   bool                      // its frontier was equal to ours once since it attached
	front    feed.Frontier             // its whole frontier, when it was last equal to ours
	ahead    map[feed.FeedID]feed.Head // what it showed since; without records: that it lacks the feed
	claims   map[feed.FeedID]feed.Head // heads we do not hold, to ask for; unsigned
	order    []feed.FeedID             // of claims, as they came; may name some that are no more
	claimed  int                       // bytes of claims at most, counted anew every tick
	silent   map[feed.FeedID]silence   // wants it did not answer
	signed   map[feed.FeedID]feed.Head // heads we do not hold, signed
}

// unclaim forgets what the peer only said.
func (p *peer) unclaim() { p.claims, p.order, p.claimed = nil, nil, 0 }

// notes remembers a claim.
func (p *peer) notes(f feed.FeedID, h feed.Head) {
	if p.claims == nil {
		p.claims = map[feed.FeedID]feed.Head{}
	}
	if _, had := p.claims[f]; !had {
		if len(p.order) > 2*len(p.claims)+64 {
			p.order = slices.Collect(p.waiting())
		}
		p.order = append(p.order, f)
	}
	p.claims[f] = h
}

// forgetFirst drops from order those at its beginning that are claimed no more.
func (p *peer) forgetFirst() {
	for len(p.order) > 0 {
		if _, still := p.claims[p.order[0]]; still {
			return
		}
		p.order = p.order[1:]
	}
}

// waiting yields what is claimed, in the order in which it came. Claims may go meanwhile.
func (p *peer) waiting() iter.Seq[feed.FeedID] {
	return func(yield func(feed.FeedID) bool) {
		seen := make(map[feed.FeedID]bool, len(p.claims))
		for _, f := range p.order {
			if _, still := p.claims[f]; still && !seen[f] {
				seen[f] = true
				if !yield(f) {
					return
				}
			}
		}
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

// knows returns the RecordID of a record that is held, or whose header is kept.
func (r *Replica) knows(c *feed.Chain, f feed.FeedID, seq uint64) (feed.ID, bool) {
	if h, ok := c.At(f.Epoch, seq); ok {
		return h.ID, true
	}
	if seq >= c.Start(f.Epoch) {
		return feed.ID{}, false
	}
	h, err := feed.ParseSigned(r.statementAt(f, seq))
	return h.ID(), err == nil
}

// receiveSeal takes an owner's word about its head: debt, and news of our own feed.
func (r *Replica) receiveSeal(s *session, seal feed.Seal, now time.Time) error {
	f := seal.Feed
	c := r.heardOf(s, f)
	if c == nil {
		return nil
	}
	key, ok := c.Key(f.Epoch)
	if !ok {
		return nil
	}
	id, held := r.knows(c, f, seal.Seq)
	if held && id == seal.ID {
		return nil
	}
	if err := seal.Verify(key); err != nil {
		return err
	}
	r.ahead(s, c, f, feed.Head{Seq: seal.Seq, ID: seal.ID, HLC: feed.NewHLC(now)}, held)
	return nil
}

// receiveHeader takes a header alone: debt, where a feed begins, and whether two
// histories of it meet.
func (r *Replica) receiveHeader(s *session, h feed.Signed, now time.Time) error {
	f := h.Feed()
	c := r.heardOf(s, f)
	if c == nil {
		return nil
	}
	before := c.Next(f.Epoch)
	res := c.Witness(now, h)
	switch {
	case res.Verdict.Proves():
		r.convict(s, h, res)
		return nil
	case res.Verdict.RelayFault():
		return res.Err
	case res.Verdict != feed.Unjudged:
		return nil
	case res.Err != nil:
		r.cfg.Log.Error("header could not be judged", "feed", f.String(), "seq", h.Seq, "error", res.Err)
		return nil
	}
	if p := r.pulls[f]; p == nil || p.from != s { // no part of an answer
		r.passHeader(s, c, h)
	}
	r.ahead(s, c, f, feed.Head{Seq: h.Seq, ID: h.ID(), HLC: h.HLC}, false)
	if s.terms.Mode == Headers { // it is all that the peer tells of it
		r.claim(s.peer, f, feed.Head{Seq: h.Seq, ID: h.ID()}, now)
	}
	if next := c.Next(f.Epoch); next != before {
		if p := r.pulls[f]; p != nil && p.from == s && next <= p.to {
			p.next, p.told = next, next-1 // what was asked for reaches into the snapshot
		} else {
			r.endPull(f, now)
		}
	}
	return nil
}

// heardOf returns the chain of a feed that the peer may tell of.
func (r *Replica) heardOf(s *session, f feed.FeedID) *feed.Chain {
	c := r.chains[f.Origin]
	if c == nil || s.disputed[f] || !r.cfg.Carry(s.peer.id, f.Origin) {
		return nil
	}
	return c
}

// ahead takes a signed head that is not ours. With other set it is in the place of
// one that we hold.
func (r *Replica) ahead(s *session, c *feed.Chain, f feed.FeedID, h feed.Head, other bool) {
	further := h.Seq >= c.Start(f.Epoch) && h.Seq > c.Head(f.Epoch).Seq
	if f.Origin == r.cfg.Self && (further || other) {
		r.rewind(f.Epoch, h.Seq)
	}
	if further {
		s.peer.signs(f, h)
	}
}
