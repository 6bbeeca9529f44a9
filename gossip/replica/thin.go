package replica

import (
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// What sessions of the modes Tree and Headers do otherwise than others.

const (
	graftAfter  = time.Second     // a record that was announced and did not come is fetched
	thinRoots   = time.Minute     // between roots told to a peer that gets headers
	askedFor    = 5 * time.Minute // records of an origin are fetched over such links too, once asked for
	maxAskedFor = 1024            // origins
	foreignWait = 3 * time.Second // of patience at most, if the budget is the peer's
	windowSpan  = 4 * time.Second // so much of a budget is asked for at once
)

// shape returns what a session gets for a frame about a record of a class: that frame,
// or something smaller that stands for it.
func (r *Replica) shape(s *session, f feed.FeedID, seq uint64, c class, b []byte) []byte {
	switch {
	case c < classState:
	case s.terms.Mode == Headers:
		if h := r.statementAt(f, seq); h != nil {
			return frame(frameHeader, h)
		}
	case s.terms.Mode == Tree && s.lazy:
		if h, held := r.chains[f.Origin].At(f.Epoch, seq); held {
			return headsFrames(feed.Frontier{f: h})[0]
		}
	}
	return b
}

// duplicate hears that a record came that was held already: one of two links of a tree
// is one too many.
func (r *Replica) duplicate(s *session, f feed.FeedID) {
	if p, asked := r.pulls[f]; s.terms.Mode != Tree || !s.paired || s.lazy || asked && p.from == s {
		return
	}
	s.lazy = true
	r.metrics.prunes.Inc()
	s.send(classControl, frame(framePrune, nil))
}

// await decides whether a head that a peer tells is to wait for its record to come by
// another link, over which it is pushed.
func (r *Replica) await(p *peer, f feed.FeedID, now time.Time) {
	if _, waits := r.awaited[f]; waits || len(r.awaited) >= maxFeeds {
		return
	}
	for _, s := range r.attached {
		if s.peer == p && s.terms.Mode == Tree && s.lazy {
			r.awaited[f] = now.Add(graftAfter)
		}
	}
}

// graft fetches what was waited for in vain.
func (r *Replica) graft(now time.Time) {
	for _, f := range inOrder(r.awaited) {
		if due := r.awaited[f]; now.Sub(due) > 4*graftAfter {
			delete(r.awaited, f) // nobody has it any more
		} else if !now.Before(due) {
			r.pull(f, now)
		}
	}
}

// mayAsk reports whether records of a feed may be asked for in a session now.
func (r *Replica) mayAsk(s *session, f feed.FeedID, now time.Time) bool {
	switch s.terms.Mode {
	case Tree:
		due, waits := r.awaited[f]
		return !s.lazy || !waits || !now.Before(due)
	case Headers:
		return now.Before(r.asked[f.Origin]) || s.asked == 0 && s.out.spare(now)
	}
	return true
}

// wantOf is the frame that asks for records. To fetch is to want them although the mode
// is against it, and in a tree to be pushed to again.
func (s *session) wantOf(w want) []byte {
	if s.paired && (s.terms.Mode == Headers || s.terms.Mode == Tree && s.lazy) {
		s.lazy = false
		return wantFrame(frameFetch, w)
	}
	return wantFrame(frameWant, w)
}

// patience is what a budget adds to the time that a peer may take from one record of an
// answer to the next. Nobody else is asked meanwhile: so one that only the peer wants adds
// little.
func (s *session) patience() time.Duration {
	if s.terms.Budget == 0 {
		return 0
	}
	rate := max(s.terms.Budget, leastBudget)
	needs := time.Duration(float64(feed.MaxRecord) / float64(rate) * float64(time.Second))
	if s.own.Budget == 0 {
		needs = min(needs, foreignWait)
	}
	return needs
}

// windows are the bounds of what may be under way from the peer.
func (s *session) windows() (least, most int) {
	if s.terms.Budget == 0 || s.terms.Budget > mostWindow {
		return leastWindow, mostWindow
	}
	span := max(pullPiece, int(s.terms.Budget)*int(windowSpan/time.Second))
	return min(leastWindow, span), min(mostWindow, span)
}

// receiveFetch is receiveWant for a peer that wants bodies in any mode.
func (r *Replica) receiveFetch(s *session, body []byte, now time.Time) error {
	s.lazy = false
	return r.receiveWant(s, body, true, now)
}

// receivePrune: the peer has what we push from elsewhere.
func (r *Replica) receivePrune(s *session) {
	s.lazy = s.terms.Mode == Tree
}

// inquire asks a peer that gives headers only for that of a head it told.
func (r *Replica) inquire(p *peer, f feed.FeedID, h feed.Head) {
	for _, s := range r.attached {
		if s.peer == p && s.terms.Mode == Headers && p.signed[f].Seq < h.Seq {
			s.send(classControl, wantFrame(frameWant, want{f, h.Seq, h.Seq}))
		}
	}
}

// passHeader tells the mesh of a record that only its header came of, if it is the furthest
// of its feed that anybody showed: what all of this side lack is the debt of all.
func (r *Replica) passHeader(from *session, c *feed.Chain, h feed.Signed) {
	f := h.Feed()
	if h.Seq < c.Next(f.Epoch) {
		return
	}
	for _, p := range r.peers {
		if p.signed[f].Seq >= h.Seq {
			return
		}
	}
	r.offer(f, h.Seq, from, classState, always(frame(frameHeader, h.Statement())))
}

// tellHeads tells a peer our heads of some feeds: by their headers where it gets those.
func (r *Replica) tellHeads(s *session, c class, heads feed.Frontier) {
	if s.terms.Mode != Headers {
		for _, b := range headsFrames(heads) {
			if s.out.full() {
				return
			}
			s.send(c, b)
		}
		return
	}
	for _, f := range heads.Feeds() {
		if s.out.full() {
			return
		}
		r.sendCert(s, f, classState)
		r.sendHeader(s, f, heads[f].Seq)
		r.sendUrgent(s, f)
	}
}

// sendUrgent sends a peer that gets headers only the records of a feed that would have been
// pushed to it whole, had it been there: each once a session.
func (r *Replica) sendUrgent(s *session, f feed.FeedID) {
	for _, seq := range r.view.urgent(f, max(s.peer.has(f), s.caught[f])) {
		var sent bool
		err := r.scan(f, seq, func(rec feed.Record) (bool, error) {
			if rec.Seq != seq || r.withheld(s, rec) || s.out.full() || !s.answers.AllowN(r.cfg.Now(), len(rec.Bytes())) {
				return false, nil
			}
			ops, err := rec.Ops()
			if err != nil {
				return false, err
			}
			c := urgency(ops)
			r.sendCert(s, f, c)
			sent = s.send(c, frame(frameRecord, rec.Bytes()))
			return false, nil
		})
		if err != nil {
			r.cfg.Log.Error("read a record back", "feed", f.String(), "seq", seq, "error", err)
		}
		if !sent {
			return
		}
		s.caught[f] = seq
	}
}

// Fetch has the records of an origin fetched, over the next minutes, also over links that
// carry only headers. It is for readers who cannot do without, and does not wait.
func (r *Replica) Fetch(origin spiffeid.ID) {
	r.post(func() { r.fetch(origin, r.cfg.Now()) })
}

func (r *Replica) fetch(origin spiffeid.ID, now time.Time) {
	if _, again := r.asked[origin]; !again && len(r.asked) >= maxAskedFor {
		return
	}
	r.asked[origin] = now.Add(askedFor)
	for _, s := range r.attached {
		for f := range s.peer.waiting() {
			if f.Origin == origin {
				r.pull(f, now)
			}
		}
	}
}

// forgetAsked drops what was asked for long ago.
func (r *Replica) forgetAsked(now time.Time) {
	for origin, until := range r.asked {
		if now.After(until) {
			delete(r.asked, origin)
		}
	}
}
