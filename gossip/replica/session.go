package replica

import (
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/time/rate"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

// A relay's bucket: what one session may send us, before it is slowed down.
const (
	framesPerSecond = 5000
	framesAtOnce    = 10000
)

// Certificates of one session that are looked at though those before did not verify: roots
// differ in age, so nobody is to blame, but each costs as much as a record.
const (
	badCerts       = 5 // a second
	badCertsAtOnce = 1024
)

// session is one attached stream, or a pair of them.
type session struct {
	peer   *peer
	out    *queue
	bucket *rate.Limiter // frames the peer may send; the driver keeps to it
	fail   func(error)   // ends the session; the first call counts

	// Owned by the replica's loop.
	paired       bool                             // a stream for each lane, and terms
	own          Terms                            // as configured here
	terms        Terms                            // as they hold between both
	certs        [lanes]map[feed.FeedID]time.Time // NotAfter of the certificate sent
	disputed     map[feed.FeedID]bool             // the peer has another certificate for it than we
	asked        int                              // pulls under way
	owed         int                              // bytes of them that are to come, about
	window       int                              // owed is at most about this
	answering    answerTime
	moved        time.Time                  // when a record that was asked for came last
	reached      time.Time                  // wants up to those of then have been answered, or never will
	quiet        bool                       // the record that is judged is one of many that were asked for
	served       time.Time                  // the newest want of more than one record
	certificates *rate.Limiter              // that did not verify
	answers      *rate.Limiter              // bytes of the store read for the peer's wants
	compares     *rate.Limiter              // bytes told and heads looked at to compare frontiers
	told         time.Time                  // when a root of the peer was answered last
	compared     time.Time                  // the same, until the peer goes on from there
	root         [32]byte                   // of the peer, while it waits to be compared with
	rooted       time.Time                  // when our root was told last
	lagging      bool                       // state frames were dropped
	caught       map[feed.FeedID]uint64     // the last record that was sent because it is urgent and was missed
	answered     map[feed.FeedID][]answered // what waits of the answers to wants
	led          map[feed.FeedID]uint64     // the last urgent record that was sent: what is before it leads no other
	lazy         bool                       // in a tree: records are announced, not pushed
	greeted      bool
	counted      [classes]uint64 // bytes sent that the metrics know of
}

func newSession(fail func(error)) *session {
	return &session{
		out: newQueue(), bucket: rate.NewLimiter(framesPerSecond, framesAtOnce), fail: fail,
		window: firstWindow, certs: [lanes]map[feed.FeedID]time.Time{{}, {}}, disputed: map[feed.FeedID]bool{}, caught: map[feed.FeedID]uint64{}, led: map[feed.FeedID]uint64{}, answered: map[feed.FeedID][]answered{},
		certificates: rate.NewLimiter(badCerts, badCertsAtOnce), answers: rate.NewLimiter(answerBytes, answerBytes), compares: rate.NewLimiter(compareBytes, compareBurst),
	}
}

// send queues a frame and reports whether there was room. A peer that does not keep
// up loses state and bulk.
func (s *session) send(c class, b []byte) bool {
	switch {
	case s.out.push(c, b):
		return true
	case c >= classState:
		s.lagging = true
	default:
		s.fail(ErrSlow)
	}
	return false
}

// blame ends the session for what the peer should have refused.
func (s *session) blame(err error) { s.fail(fmt.Errorf("%w: %w", ErrRelay, err)) }

func (r *Replica) attach(id spiffeid.ID, s *session, now time.Time) {
	s.peer = r.peers[id]
	if s.peer == nil {
		s.peer = &peer{id: id, name: name(id), ahead: map[feed.FeedID]feed.Head{}, signed: map[feed.FeedID]feed.Head{}}
		r.peers[id] = s.peer
	}
	if s.peer.sessions++; s.peer.sessions == 1 {
		s.peer.attached, s.peer.agreed, s.peer.near, s.peer.told, s.peer.more, s.peer.round = now, false, false, false, 0, 0
	}
	r.sessions[s] = true
	r.attached = append(r.attached, s)
	r.redraw(now)
	s.own = r.cfg.Terms(id)
	s.agree(s.own, now)
	if s.paired {
		s.send(classEvidence, termsFrame(s.terms))
	}
	r.greet(s)
}

// agree puts terms in force.
func (s *session) agree(t Terms, now time.Time) {
	s.terms = t
	s.out.limit(t.Budget, now)
	_, most := s.windows()
	s.window = min(s.window, most)
}

// receiveTerms takes the peer's, of which the thinner hold.
func (r *Replica) receiveTerms(s *session, body []byte, now time.Time) error {
	theirs, err := parseTerms(body)
	if err != nil {
		return err
	}
	if t := s.terms.with(theirs); t != s.terms {
		s.agree(t, now)
	}
	return nil
}

// lane is the stream that frames of a class travel on.
func (s *session) lane(c class) lane {
	if s.paired {
		return c.lane()
	}
	return urgent
}

// greet sends the own certificate and seal, where there are any, and the root.
func (r *Replica) greet(s *session) {
	s.greeted = true
	if r.writer != nil && r.cfg.Carry(s.peer.id, r.cfg.Self) {
		if seal, err := r.writer.Seal(); err == nil { // no seal: nothing written yet
			r.sendCert(s, r.writer.Feed(), classControl)
			s.send(classControl, frame(frameSeal, seal))
		}
	}
	r.sendRoot(s)
}

// detach ends a session. Who parted in good order is served by others from now on, and
// forgotten; what one that was lost lacks is a debt.
func (r *Replica) detach(s *session, parted bool, now time.Time) {
	if !r.sessions[s] {
		return
	}
	delete(r.sessions, s)
	r.attached = slices.DeleteFunc(r.attached, func(other *session) bool { return other == s })
	s.peer.sessions--
	switch {
	case s.peer.sessions > 0:
	case parted:
		delete(r.peers, s.peer.id)
	default:
		r.gone(s.peer, now)
	}
	r.redraw(now)
	r.seeSides()
	r.crossings.waiting = slices.DeleteFunc(r.crossings.waiting, func(other *session) bool { return other == s })
	for _, f := range inOrder(r.pulls) {
		if r.pulls[f].from == s {
			delete(r.pulls, f)
			r.pull(f, now) // of another
		}
	}
}

// gone keeps of a peer that was lost only what debt needs: signed heads, and how far it
// had the feeds that are held here. One outside of the mesh had what we have: others
// pushed to it.
func (r *Replica) gone(p *peer, now time.Time) {
	p.lost = now
	p.unclaim()
	p.silent = nil
	r.forgetLost()
	if !p.eager {
		p.front = r.carriedWith(p).frontier()
		return
	}
	held := func(told feed.Frontier) feed.Frontier {
		if told == nil {
			return nil // nothing is known
		}
		kept := feed.Frontier{}
		for f, h := range told {
			if c := r.chains[f.Origin]; c != nil && c.Head(f.Epoch).Seq > 0 {
				kept[f] = h
			}
		}
		return kept
	}
	p.front, p.ahead = held(p.front), held(p.ahead)
}

// forgetLost forgets the peer that was lost first when there are too many.
func (r *Replica) forgetLost() {
	var first *peer
	lost := 0
	for _, p := range r.peers {
		if p.sessions > 0 {
			continue
		}
		lost++
		if first == nil || p.lost.Before(first.lost) || p.lost.Equal(first.lost) && p.id.String() < first.id.String() {
			first = p
		}
	}
	if lost > maxLost {
		delete(r.peers, first.id)
	}
}

// sawAlive forgets a lost peer of which a record comes that it has written since: it is
// with others, who serve it.
func (r *Replica) sawAlive(rec feed.Record) {
	p := r.peers[rec.Feed().Origin]
	if p != nil && p.sessions == 0 && rec.HLC.Time().After(p.lost) {
		delete(r.peers, p.id)
	}
}
