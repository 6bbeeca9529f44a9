package replica

import (
	"cmp"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

const (
	pullWait   = time.Second
	pullAge    = 30 * time.Second // a want is given up after so long without a record, whatever else the peer brings
	maxPulls   = 256              // feeds asked for at once, of one session
	maxLooks   = 32               // at claims that cannot be asked for, when one pull has ended
	pullAtOnce = 512              // records of one want
	pullBytes  = 256 << 10        // of them, about
	pullPiece  = 16 << 10         // less is not asked for while more is under way
	maxSilence = 8 * time.Second  // for so long is a peer not asked that answers nothing
)

// Of what may be under way from one peer, in bytes of records. It grows while answers
// come soon, and shrinks when they wait behind others: the queue is then at the peer.
const (
	leastWindow = 64 << 10
	firstWindow = 128 << 10
	mostWindow  = 768 << 10 // below softQueue, so that an answer finds room there
)

// pull is one feed's records that are under way: from the one after the head to to.
type pull struct {
	from  *session
	next  uint64 // the first record we lacked
	to    uint64
	per   int       // bytes of a record, about
	owed  int       // bytes that the peer has yet to send, about
	asked time.Time // the newest want
	moved time.Time // the newest record

	timed uint64    // when this record comes,
	since time.Time // it was asked for then
	told  uint64    // the mesh knows of the records up to here

	brought bool   // from has sent some of it: what others sent is not its merit
	last    uint64 // that it has sent
}

// silence is how often in a row a peer left wants for a feed unanswered, and until
// when it is not asked again.
type silence struct {
	times int
	until time.Time
}

// claimSize is what a claim costs in memory, about.
func claimSize(f feed.FeedID) int { return 160 + len(f.Origin.String()) }

// claim notes a head to ask for, if we lack it or hold another in its place.
func (r *Replica) claim(p *peer, f feed.FeedID, h feed.Head, now time.Time) {
	if !r.cfg.Carry(p.id, f.Origin) {
		return
	}
	if c := r.chains[f.Origin]; c != nil {
		id, held := r.knows(c, f, h.Seq)
		if held && id == h.ID {
			return
		}
		if _, known := c.Key(f.Epoch); known && !held && c.Missing(f.Epoch, h.Seq) == 0 {
			return
		}
		if end, frozen := c.FrozenAt(f.Epoch); frozen && c.Head(f.Epoch).Seq >= end || held && c.Held() {
			return
		}
	}
	if _, had := p.claims[f]; !had {
		//bailiwick:check TestHeadLies/news
		if len(p.claims) >= maxFeeds || p.claimed+claimSize(f) > maxFrontier {
			return
		}
		p.claimed += claimSize(f)
	}
	p.notes(f, h)
	r.inquire(p, f, h)
	r.await(p, f, now)
	//bailiwick:check TestAnnounceAndNeverServe
	if q, asked := r.pulls[f]; asked && (q.from.peer.silent[f].times > p.silent[f].times || r.needless(f, q, p)) {
		r.endPull(f, now) // who kept silent before is not waited for where another may answer
		return
	}
	r.pull(f, now)
}

// pull asks one of the peers that say so for the next records of a feed, unless
// that was done a moment ago: one that has not left wants for it unanswered, then one
// that showed a signed head, then the one that claims most, then the one that has to
// bring the least.
func (r *Replica) pull(f feed.FeedID, now time.Time) {
	if _, ok := r.pulls[f]; ok {
		return
	}
	c, next := r.chains[f.Origin], r.nextOf(f)
	var best *session
	var claim feed.Head
	for _, s := range r.attached {
		h, ok := s.peer.claims[f]
		if ok && c != nil && h.Seq < next {
			if id, held := r.knows(c, f, h.Seq); !held || id == h.ID {
				delete(s.peer.claims, f)
				ok = false
			}
		}
		if !ok || s.asked >= maxPulls || s.owed > 0 && s.owed+pullPiece > s.window || now.Before(s.peer.silent[f].until) || !r.mayAsk(s, f, now) || !r.mayCross(s, f, now) {
			continue
		}
		if best == nil || cmp.Or(
			cmp.Compare(best.peer.silent[f].times, s.peer.silent[f].times),
			r.nearer(f, s, best),
			cmp.Compare(s.peer.signed[f].Seq, best.peer.signed[f].Seq),
			cmp.Compare(h.Seq, claim.Seq),
			cmp.Compare(s.window-s.owed, best.window-best.owed)) > 0 {
			best, claim = s, h
		}
	}
	if best == nil {
		return
	}
	p := &pull{from: best, next: next, to: next - 1, moved: now, told: next - 1}
	if claim.Seq < next { // another record in the place of ours: once is enough
		delete(best.peer.claims, f)
		p.to = claim.Seq - 1
	}
	r.pulls[f] = p
	r.fetches(best, f)
	best.asked++
	if p.per = r.recordSize(f, next, claim); !r.further(f, p, claim.Seq, now) {
		delete(r.pulls, f)
		best.asked--
	}
}

// further wants the next records of a pull, as many as there is room for, and reports
// whether that is any.
func (r *Replica) further(f feed.FeedID, p *pull, last uint64, now time.Time) bool {
	s := p.from
	if last <= p.to || !r.mayCross(s, f, now) {
		return false
	}
	rest, room := min(last-p.to, pullAtOnce), s.window-s.owed
	if len(s.peer.claims) > s.asked {
		room -= pullPiece // other feeds wait: one that is long must not be all there is
	}
	if s.owed > 0 && room < min(max(pullPiece, s.window/4), int(rest)*p.per) {
		return false
	}
	count := min(rest, uint64(max(min(room, pullBytes)/p.per, 1)))
	w := want{f, p.to + 1, p.to + count}
	if p.timed == 0 {
		p.timed, p.since = w.from, now
	}
	p.to, p.asked = w.to, now
	p.owed += int(count) * p.per
	s.owed += int(count) * p.per
	r.metrics.pulls.Inc()
	s.send(classControl, s.wantOf(w))
	return true
}

// recordSize is how large the records of a feed from next up to a claimed head are,
// about: by what the peer says of both, within what a record can be.
func (r *Replica) recordSize(f feed.FeedID, next uint64, claim feed.Head) int {
	var ours feed.Head
	if c := r.chains[f.Origin]; c != nil {
		ours = c.Head(f.Epoch)
	}
	if claim.Seq < next || claim.Bytes == 0 {
		return 1 << 10
	}
	bytes, records := claim.Bytes, claim.Seq-next+1
	if next == ours.Seq+1 {
		bytes = less(claim.Bytes, ours.Bytes)
	}
	return int(min(max(bytes/records, 256), feed.MaxRecord))
}

// came follows a pull when a record of it has come, and reports whether it is one of
// many: then the mesh need not hear of it by itself.
func (r *Replica) came(s *session, rec feed.Record, now time.Time) (many bool) {
	p := r.pulls[rec.Feed()]
	if p == nil || p.from != s || rec.Seq > p.to || rec.Seq < min(p.next, p.to) {
		return false
	}
	p.brought, p.last = true, max(p.last, rec.Seq)
	p.moved, s.moved = now, now
	paid := min(p.owed, p.per)
	p.owed -= paid
	s.owed -= paid
	late := p.timed > 0 && rec.Seq >= p.timed && now.Sub(p.since) > pullWait
	if s.window += len(rec.Bytes()); late {
		s.window /= 2
	}
	least, most := s.windows()
	s.window = min(max(s.window, least), most)
	if p.timed > 0 && rec.Seq >= p.timed {
		s.answering.took(now.Sub(p.since))
		s.reached = later(s.reached, p.since)
		p.timed = 0
	}
	return p.to > p.next
}

// goOn asks for more of a feed, or for others when it has all that it asked for.
func (r *Replica) goOn(f feed.FeedID, now time.Time) {
	p := r.pulls[f]
	if p == nil {
		return
	}
	next := r.nextOf(f)
	if many := p.to > p.next; many && (next > p.to || next > p.told+pullAtOnce/2) || next > p.told+1 && r.tellsNear(f, p.from.peer, now) {
		p.told = next - 1
		r.announceHead(f, p.from)
	}
	if next > p.next {
		r.further(f, p, p.from.peer.claims[f].Seq, now)
	}
	if next > p.to {
		r.endPull(f, now)
	}
}

// receiveEnd hears that an answer ends before a record.
func (r *Replica) receiveEnd(s *session, body []byte, now time.Time) error {
	f, seq, err := parseEnd(body)
	if err != nil {
		return err
	}
	p := r.pulls[f]
	if p == nil || p.from != s || seq < p.next || seq > p.to {
		return nil // of an earlier want
	}
	p.to = seq - 1
	if r.nextOf(f) > p.to {
		r.unanswered(f, p, now)
	}
	return nil
}

// stalled reports whether a want waits in vain. While the peer brings what was asked
// for earlier it is only slow; answers come in the order of wants.
func (p *pull) stalled(f feed.FeedID, now time.Time) bool {
	quiet := now.Sub(later(p.asked, p.moved))
	patience := min(p.from.answering.patience()<<min(p.from.peer.silent[f].times, 3), maxSilence) + p.from.patience()
	if p.from.moved.IsZero() {
		patience *= 2 // nothing is known of how far away it is
	}
	return quiet > pullAge+p.from.patience() || quiet > patience && (now.Sub(p.from.moved) > patience || p.from.reached.After(p.asked))
}

// answerTime is how long a session's wants take to be answered: the mean and the mean
// deviation, as a retransmission timer has them (RFC 6298, section 2).
type answerTime struct{ mean, deviation time.Duration }

func (p *answerTime) took(d time.Duration) {
	d = min(d, maxSilence)
	if p.mean == 0 {
		p.mean, p.deviation = d, d/2
		return
	}
	p.deviation += ((p.mean - d).Abs() - p.deviation) / 4
	p.mean += (d - p.mean) / 8
}

// patience is how long the next answer may take. Behind a slow link whose queue is full, or
// while what was lost there is sent again, that is seconds.
func (p *answerTime) patience() time.Duration {
	return min(max(pullWait, p.mean+4*p.deviation), maxSilence)
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// nextOf is the record of a feed to ask for next.
func (r *Replica) nextOf(f feed.FeedID) uint64 {
	if c := r.chains[f.Origin]; c != nil {
		return c.Next(f.Epoch)
	}
	return 1
}

// unanswered gives a want up. Who brought nothing at all is not believed about the
// feed for a while, twice as long every time: a claim costs it nothing.
func (r *Replica) unanswered(f feed.FeedID, p *pull, now time.Time) {
	peer := p.from.peer
	switch {
	case p.brought && p.last < p.to:
		p.from.answering.took(2 * now.Sub(later(p.asked, p.moved))) // at least so long, and it does answer
	case !p.brought:
		delete(peer.claims, f) // until it tells again, do not ask again
		if peer.silent == nil || len(peer.silent) >= maxFeeds {
			peer.silent = map[feed.FeedID]silence{}
		}
		times := peer.silent[f].times + 1
		//bailiwick:check TestAnnounceAndNeverServe
		peer.silent[f] = silence{times, now.Add(min(pullWait<<min(times-1, 8), maxSilence))}
	}
	r.endPull(f, now)
}

// endPull forgets a pull, and makes room for the next.
func (r *Replica) endPull(f feed.FeedID, now time.Time) {
	p, ok := r.pulls[f]
	if !ok {
		return
	}
	delete(r.pulls, f)
	s := p.from
	s.asked--
	s.owed -= p.owed
	if p.brought {
		delete(s.peer.silent, f)
	}
	r.pull(f, now)
	r.pullMore(s, now)
}

// pullMore asks a peer for what else it claims, while there is room. It looks at few that
// cannot be asked for now: a peer that claims much and answers nothing would have them all
// looked at for each of its frames. Every tick all are.
func (r *Replica) pullMore(s *session, now time.Time) {
	if len(s.peer.claims) <= s.asked {
		return // nothing waits
	}
	s.peer.forgetFirst()
	visits, looks := 4*maxPulls, maxLooks
	for _, waiting := range s.peer.order {
		if s.asked >= maxPulls || s.owed+pullPiece > s.window || visits == 0 || looks == 0 {
			return
		}
		visits--
		r.looked++
		if _, claimed := s.peer.claims[waiting]; !claimed || r.pulls[waiting] != nil {
			continue
		}
		r.pull(waiting, now)
		if _, claimed := s.peer.claims[waiting]; claimed && r.pulls[waiting] == nil {
			looks--
		}
	}
}
