package replica

import (
	"math"
	"time"

	"golang.org/x/time/rate"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// After a partition all nodes of a side lack the same, and have links to the other. What
// is here has each feed fetched across by few: see the package doc, Rejoining.

const (
	crossFrom  = 128 << 10        // bytes that far peers have more than we; less is fetched at once
	crossRate  = 1 << 20          // bytes a second: it is left to others no longer than what is missing takes at this rate,
	crossMost  = 4 * time.Second  // nor than this;
	crossAge   = 30 * time.Second // nor, while other feeds come, if nothing of this one does
	crossRanks = 3                // as many are tried in turn before the others
	crossIdle  = 4                // so much less who is first by chance waits for the near to fall silent
	crossFirst = 3                // and so much more before they bring any of it: what comes first stands in a queue
	crossShare = 16               // who brings less than this part of what the link takes holds nobody up

	tellCrossed = 8 // the near hear how far a feed has come so often in the time that they leave it to others

	turnsEvery = 20 * time.Millisecond // at most

	farCompares = 2 // comparisons with far peers at once, and then one every two seconds
)

// crossing is a feed of which far peers have more.
type crossing struct {
	rank    int       // how many of the near come before this node
	chance  float64   // a share of a step that it waits longer
	mine    bool      // this node fetches it
	moved   time.Time // when a record of it came that counts, or it was heard of
	due     time.Time // when the turn comes for which a want waits; zero: none does
	brought bool      // a near peer brought some of it
	told    time.Time // when the near were told of it
}

// crossings are all of them. What a far peer says of itself is with that peer: so it counts for
// what is asked of that one only.
type crossings struct {
	of       map[feed.FeedID]*crossing
	near     int       // peers attached that are
	least    float64   // bytes a second that the near have to bring
	paid     time.Time // until when they have
	news     time.Time // when a near peer brought something of any
	due      time.Time // when the turn of the next comes; zero: of none
	compares *rate.Limiter
	waiting  []*session // far peers whose copies differ, in the order in which they said so
}

func newCrossings() crossings {
	return crossings{of: map[feed.FeedID]*crossing{}, compares: rate.NewLimiter(0.5, farCompares)}
}

// step is the time between the turns of two nodes to ask a far peer: what the one fetches has to
// have come to the other.
func (p *peer) step() time.Duration {
	//bailiwick:check TestFarClaims/wants instead takes := crossMost
	takes := time.Duration(float64(p.more) / crossRate * float64(time.Second))
	return min(max(takes/(crossRanks+1), 2*p.round), crossMost/(crossRanks+1))
}

// turn is when this node may fetch a feed itself from a far peer of such a step: so much later than
// when the feed moved, and than the near brought any. Who is first among some who do not see each other
// waits less for that: a line that falls silent is idle, and has to be taken up again at once. But as long as
// nothing of a feed has come, the first of what another asked for may still stand in the line's queue.
func (x *crossings) turn(c *crossing, step time.Duration) time.Time {
	wait := float64(min(c.rank, crossRanks))
	if c.brought {
		wait = max(wait, 1)
	}
	silence := wait + c.chance
	if wait == 0 {
		silence /= crossIdle
	}
	first := wait + c.chance
	if wait == 0 && !c.brought {
		first *= crossFirst
	}
	turn := c.moved.Add(time.Duration(first * float64(step)))
	if silence > 0 && x.news.After(c.moved) {
		news := x.news
		if last := c.moved.Add(crossAge); last.Before(news) {
			news = last
		}
		turn = later(turn, news.Add(time.Duration(silence*float64(step))))
	}
	return turn
}

// near counts the peers attached whose copies are known to have been as complete as this.
func (r *Replica) near() (count int) {
	for _, s := range r.attached {
		if s.peer.near && !r.holds[s.peer.id].Held {
			count++
		}
	}
	return count
}

// crossAll notes of what a peer has more.
func (r *Replica) crossAll(p *peer, heads feed.Frontier, now time.Time) {
	if p.near || !r.carriesBodies(p) {
		return
	}
	r.seeSides()
	for f, h := range heads {
		if f.Origin != r.cfg.Self && h.Seq >= r.nextOf(f) {
			p.more = min(p.more+max(0, r.lacks(f, h)-r.lacks(f, p.claims[f])), crossEnough)
			r.cross(f, now)
		}
	}
}

// crossEnough is from how many bytes on a step is no longer.
const crossEnough = crossRate * int(crossMost/time.Second)

// lacks is how many bytes of a feed are missing here up to a head, as that says.
func (r *Replica) lacks(f feed.FeedID, h feed.Head) int {
	var ours feed.Head
	if chain := r.chains[f.Origin]; chain != nil {
		ours = chain.Head(f.Epoch)
	}
	return int(min(less(h.Bytes, ours.Bytes), uint64(crossEnough)))
}

func (r *Replica) cross(f feed.FeedID, now time.Time) {
	x := &r.crossings
	if x.of[f] != nil || len(x.of) >= maxFeeds || x.near == 0 {
		return
	}
	if len(x.of) == 0 {
		x.paid = now.Add(crossMost)
	}
	c := &crossing{moved: now}
	c.rank, c.chance = r.rank(f)
	x.of[f] = c
}

// seeSides looks at who is near, and what the links to the others take.
func (r *Replica) seeSides() {
	r.crossings.near = r.near()
	takes := crossRate
	for _, s := range r.attached {
		if budget := s.own.Budget; budget > 0 && !s.peer.near {
			takes = min(takes, int(budget))
		}
	}
	r.crossings.least = float64(takes) / crossShare
}

// pays notes that the near brought so many bytes, and reports whether they bring enough to be left
// more: what they bring pays for time, and they are not further ahead or behind than crossMost.
func (x *crossings) pays(bytes int, now time.Time) bool {
	took := time.Duration(float64(bytes) / x.least * float64(time.Second))
	x.paid = later(x.paid, now.Add(-crossMost)).Add(took)
	if most := now.Add(crossMost); x.paid.After(most) {
		x.paid = most
	}
	return !x.paid.Before(now)
}

// carriesBodies reports whether records come from a peer unasked.
func (r *Replica) carriesBodies(p *peer) bool {
	for _, s := range r.attached {
		if s.peer == p && s.terms.Mode != Headers {
			return true
		}
	}
	return false
}

// rank says how many of the near come before this node in fetching a feed: each is somewhere
// else for each feed, and nobody can choose. Where that leaves several in a region who do
// not see each other, chance tells their turns apart, so that about one is first
// (Nonnenmacher and Biersack 1999).
func (r *Replica) rank(f feed.FeedID) (rank int, chance float64) {
	of := name(f.Origin) + f.Epoch
	near, own := 0, place(rings, of, r.name)
	for _, s := range r.attached {
		if !s.peer.near || r.holds[s.peer.id].Held {
			continue
		}
		near++
		if place(rings, of, s.peer.name) > own {
			rank++
		}
	}
	chance = float64(place(rings+1, of, r.name)>>11) / (1 << 53)
	if rank == 0 {
		alike := math.Log(float64(len(r.cfg.Roster())) / float64(near+1))
		chance = max(0, 1+math.Log(chance)/max(alike, 1e-9))
	}
	return rank, chance
}

// mayCross reports whether a feed may be asked of a peer now: of the near always, of others
// when it is this node's turn.
func (r *Replica) mayCross(s *session, f feed.FeedID, now time.Time) bool {
	c := r.crossings.of[f]
	if c == nil || s.peer.near || c.mine || s.peer.more < crossFrom || r.crossings.near == 0 {
		return true
	}
	turn := r.crossings.turn(c, s.peer.step())
	if now.Before(turn) {
		if c.due.IsZero() || turn.Before(c.due) {
			c.due = turn
		}
		r.crossings.wake(turn, now)
		return false
	}
	return true
}

// wake has takeTurns called at a time, but not all the time: who tells of many feeds must not
// have them looked at for each.
func (x *crossings) wake(at, now time.Time) {
	if soonest := now.Add(turnsEvery); at.Before(soonest) {
		at = soonest
	}
	if x.due.IsZero() || at.Before(x.due) {
		x.due = at
	}
}

// fetches notes that a feed is asked of a peer: across, it is this node that does it now.
func (r *Replica) fetches(s *session, f feed.FeedID) {
	if c := r.crossings.of[f]; c != nil && !s.peer.near {
		c.mine = true
	}
}

// crossed notes that a record of so many bytes came. Where a near peer brought it another node
// fetches the feed.
func (r *Replica) crossed(s *session, f feed.FeedID, bytes int, now time.Time) {
	c := r.crossings.of[f]
	if c == nil {
		return
	}
	if !s.peer.near {
		if c.mine {
			c.moved = now
		}
		return
	}
	//bailiwick:check TestFarClaims/drip
	if !r.crossings.pays(bytes, now) {
		return
	}
	c.moved, c.brought, c.mine = now, true, false
	r.crossings.news = now
}

// tellsNear reports whether the near have to hear now how far a feed has come: they wait
// for it.
func (r *Replica) tellsNear(f feed.FeedID, from *peer, now time.Time) bool {
	c := r.crossings.of[f]
	if c == nil || now.Sub(c.told) < from.step()*(crossRanks+1)/tellCrossed {
		return false
	}
	c.told = now
	return true
}

// hasFrom reports whether a record comes from where a far peer is: it need not be told. What was
// written before that attached is found when its copy is compared with ours, as it has to be before
// the peer is near; so it does not matter who claims what.
func (r *Replica) hasFrom(p *peer, f feed.FeedID, seq uint64) bool {
	c, chain := r.crossings.of[f], r.chains[f.Origin]
	if c == nil || chain == nil || p.near {
		return false
	}
	if seq <= p.claims[f].Seq {
		return true
	}
	h, held := chain.At(f.Epoch, seq)
	return held && h.HLC < feed.NewHLC(p.attached)
}

// takeTurns asks for what this node's turn has come for.
func (r *Replica) takeTurns(now time.Time) {
	x := &r.crossings
	if x.due.IsZero() || now.Before(x.due) {
		return
	}
	x.due = time.Time{}
	turns := map[feed.FeedID]bool{}
	for f, c := range x.of {
		switch {
		case c.due.IsZero():
		case now.Before(c.due):
			x.wake(c.due, now)
		default:
			c.due = time.Time{} // what finds no room now does when a pull ends, or with the next tick
			turns[f] = true
		}
	}
	for _, f := range inOrder(turns) {
		r.pull(f, now)
	}
}

// crossWait returns how long it is until then, and whether anything waits.
func (r *Replica) crossWait(now time.Time) (time.Duration, bool) {
	return max(r.crossings.due.Sub(now), 0), !r.crossings.due.IsZero()
}

// endCrossings forgets what has come or can be had no more; and who has told of nothing
// that is missing still is near from now on.
func (r *Replica) endCrossings(now time.Time) {
	open := map[feed.FeedID]bool{}
	for _, s := range r.attached {
		p := s.peer
		if len(p.claims) == 0 {
			p.more = 0
		}
		if len(r.crossings.of) == 0 {
			p.round = 0
		}
		p.near = p.near || p.told && len(p.claims) == 0
		if p.near || len(r.crossings.of) == 0 {
			continue
		}
		for f := range p.claims {
			open[f] = true
		}
	}
	r.seeSides()
	for f, c := range r.crossings.of {
		if !open[f] && now.Sub(c.moved) >= tick {
			delete(r.crossings.of, f)
		}
	}
	r.compareNext(now)
}

// needless reports whether what a far peer was asked for, and has sent nothing of, is with a
// near one now.
func (r *Replica) needless(f feed.FeedID, q *pull, p *peer) bool {
	return r.crossings.of[f] != nil && p.near && p.silent[f].times == 0 && !q.from.peer.near && !q.brought
}

// nearer orders two sessions to ask for a feed: what is on its way to the near is not
// fetched across again.
func (r *Replica) nearer(f feed.FeedID, a, b *session) int {
	switch {
	case r.crossings.of[f] == nil || a.peer.near == b.peer.near:
		return 0
	case a.peer.near:
		return 1
	}
	return -1
}

// dueIn returns how long own writes have to wait, or feeds that are left to others, and
// whether any do.
func (r *Replica) dueIn(now time.Time) (time.Duration, bool) {
	wait, waits := r.writable(now)
	if cross, left := r.crossWait(now); left && (!waits || cross < wait) {
		return cross, true
	}
	return wait, waits
}
