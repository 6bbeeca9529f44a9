package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// ErrContained means a peer is held, quarantined or revoked here.
var ErrContained = errors.New("the peer is shut out here: see bailiwick quarantine list")

const factsBucket = "quarantine/facts" // SPIFFE ID -> quarantine.Set.Marshal

// standings keeps what this node makes of its region's identities, and carries
// every change to whoever enforces it.
type standings struct {
	set  *quarantine.Set
	st   *store.Store
	log  *slog.Logger
	size func() quarantine.Roster
	// thresholds brings the set's to what policy says for a region of this size.
	thresholds func(quarantine.Roster)
	gap        func(count uint64, why string) // tells the trail what could not be recorded

	// enforce makes the effects true: freeze the feed, close links, cut tunnels. It must not
	// block for long, and tells what was live until then.
	enforce func(spiffeid.ID, quarantine.Effects) severed
	// regained has what policy refused of an identity looked at again: it is contained no more.
	regained func()

	mu   sync.Mutex // held over one change and its record, so that leaves are in order
	last map[spiffeid.ID]quarantine.Standing
	kept map[spiffeid.ID]bool // sessions are, because of the cap
	cuts cuts
	wake chan struct{}
}

func newStandings(set *quarantine.Set, st *store.Store, log *slog.Logger, reg prometheus.Registerer) *standings {
	return &standings{
		set: set, st: st, log: log, cuts: newCuts(reg),
		last:       map[spiffeid.ID]quarantine.Standing{},
		kept:       map[spiffeid.ID]bool{},
		wake:       make(chan struct{}, 1),
		size:       func() quarantine.Roster { return quarantine.Roster{} },
		thresholds: func(quarantine.Roster) {},
		gap:        func(uint64, string) {},
		enforce:    func(spiffeid.ID, quarantine.Effects) severed { return severed{} },
		regained:   func() {},
	}
}

// roster is what caps are measured against, with the thresholds in force for it.
func (s *standings) roster() quarantine.Roster {
	r := s.size()
	s.thresholds(r)
	return r
}

// load brings back the facts of earlier runs, verified anew.
func (s *standings) load() error {
	return s.st.View(func(tx *store.Tx) error {
		tx.Range(factsBucket, nil, func(k, v []byte) bool {
			if err := s.set.Unmarshal(append([]byte(nil), v...)); err != nil {
				s.log.Error("quarantine facts cannot be read back; peers will bring them again", "accused", string(k), "err", err)
			}
			return true
		})
		return nil
	})
}

// settle enforces what load brought back, which is on record already.
func (s *standings) settle() {
	now := time.Now()
	for _, c := range s.set.Cases(now) {
		effects := s.set.Effects(c.Accused, now, s.roster())
		s.mu.Lock()
		s.last[c.Accused], s.cuts.now[c.Accused] = c.Status.Standing, effects.CutSessions
		s.mu.Unlock()
		s.enforce(c.Accused, effects)
	}
}

// evidence takes in a proof, found here (by is zero) or carried by a peer's feed.
func (s *standings) evidence(proof []byte, by spiffeid.ID) (quarantine.Finding, bool, error) {
	came := time.Now()
	f, added, err := s.set.AddEvidence(came, proof, by)
	if err != nil {
		return f, false, err
	}
	if added {
		s.log.Warn("evidence verified", "accused", f.Accused, "class", f.Class, "carried_by", by)
		s.containSince(f.Accused, came)
		s.record(f.Accused, trail.PeerFinding, map[string]any{
			"accused": f.Accused.String(), "class": f.Class, "digest": f.Digest[:], "epoch": f.Epoch, "carried_by": by.String(),
		})
	}
	return f, added, nil
}

// release and revocation take in the authority's word, a release with the approvers it counts for.
func (s *standings) release(raw []byte, approvedBy []string) error {
	r, added, err := s.set.AddRelease(time.Now(), raw)
	if err == nil && added {
		s.contain(r.Accused)
		body := map[string]any{"release": r.Accused.String(), "epoch": r.Epoch, "reason": r.Reason}
		if r.Again {
			body["repeat"] = "not for the first time"
		}
		if len(approvedBy) > 0 {
			body["approved_by"] = strings.Join(approvedBy, ", ")
		}
		s.record(r.Accused, trail.PeerRelease, body)
	}
	return err
}

func (s *standings) revocation(raw []byte) error {
	r, added, err := s.set.AddRevocation(time.Now(), raw)
	if err == nil && added {
		s.contain(r.Accused)
		s.record(r.Accused, trail.PeerRelease, map[string]any{"revocation": r.Accused.String(), "reason": r.Reason})
	}
	return err
}

// fault notes what a relay did to this node alone.
func (s *standings) fault(relay spiffeid.ID, class string) {
	s.roster() // for its thresholds
	s.set.Fault(time.Now(), relay, class)
	s.contain(relay)
}

// contain acts first; the record of it follows.
func (s *standings) contain(id spiffeid.ID) { s.containSince(id, time.Now()) }

// containSince is contain for a cause that this node heard of before.
func (s *standings) containSince(id spiffeid.ID, since time.Time) {
	now := time.Now()
	effects := s.set.Effects(id, now, s.roster())
	was := s.enforce(id, effects)
	st := s.set.Standing(id, now)
	s.mu.Lock()
	before, kept := s.last[id], s.kept[id]
	s.last[id], s.kept[id] = st.Standing, effects.Capped
	cut := s.cuts.note(id, effects.CutSessions, &was, since)
	s.mu.Unlock()
	if effects.Capped && !kept {
		s.log.Error("sessions are kept: as many as may be were cut in 10 minutes; look whether so many are guilty or the software is", "id", id, "reason", st.Reason)
	}
	if before.Contained() && !st.Standing.Contained() {
		s.regained()
	}
	if before != st.Standing || cut { // also when the cap that kept sessions has room again
		body := map[string]any{"id": id.String(), "from": before.String(), "to": st.Standing.String(), "reason": st.Reason}
		var also []func(*store.Tx) error
		if cut {
			body["cut"] = was.String()
			also = append(also, func(tx *store.Tx) error { return was.keep(tx, id) })
		}
		s.log.Warn("standing changed", "id", id, "from", before, "to", st.Standing, "reason", st.Reason, "cut", body["cut"])
		s.record(id, trail.PeerStanding, body, also...)
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// record writes the facts, the leaf of a change and what goes with it in one transaction. What
// cannot be recorded has happened all the same: the trail is told of the gap.
func (s *standings) record(id spiffeid.ID, kind trail.Kind, body map[string]any, also ...func(*store.Tx) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.st.Update(func(tx *store.Tx) error {
		if b, err := s.set.Marshal(id); err == nil {
			if err := tx.Put(factsBucket, []byte(id.String()), b); err != nil {
				return err
			}
		}
		for _, put := range also {
			if err := put(tx); err != nil {
				return err
			}
		}
		return trail.Append(tx, kind, body)
	})
	if err != nil {
		s.log.Error("containment could not be recorded", "id", id, "kind", kind, "err", err)
		s.gap(1, fmt.Sprintf("%s of %s: %v", kind, id, err))
	}
}

// effects are of the standing of an identity. Of nearly all nothing is known, and then the roster is
// not asked: in a large region that is much work, and this is asked of every node again and again.
func (s *standings) effects(id spiffeid.ID, now time.Time) quarantine.Effects {
	if !s.set.Concerns(id) {
		return quarantine.Effects{}
	}
	return s.set.Effects(id, now, s.roster())
}

// admits is the answer to a peer that wants a session. Facts are of this
// region; peers of others are for their own region to judge.
func (s *standings) admits(id spiffeid.ID) error {
	if e := s.effects(id, time.Now()); e.CutSessions {
		st := s.set.Standing(id, time.Now())
		return fmt.Errorf("%w: %s is %s: %s", ErrContained, id, st.Standing, st.Reason)
	}
	return nil
}

// issues is the answer to a node that wants a credential.
func (s *standings) issues(id spiffeid.ID) error {
	if e := s.effects(id, time.Now()); e.RefuseIssue {
		st := s.set.Standing(id, time.Now())
		return fmt.Errorf("%w: %s is %s: %s", ErrContained, id, st.Standing, st.Reason)
	}
	return nil
}

func (s *standings) of(id spiffeid.ID) quarantine.Status { return s.set.Standing(id, time.Now()) }

// concerned are all whose standing is other than ok, or was: accusations end without a trace.
func (s *standings) concerned() map[spiffeid.ID]bool {
	out := map[spiffeid.ID]bool{}
	for _, c := range s.set.Cases(time.Now()) {
		out[c.Accused] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, last := range s.last {
		if last != quarantine.OK {
			out[id] = true
		}
	}
	return out
}

// run enforces what time alone changes: holds that end, caps that free up.
func (s *standings) run(ctx context.Context) error {
	for {
		next, ok := s.set.Deadline(time.Now(), s.roster())
		var due <-chan time.Time
		if ok {
			due = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-due:
			for id := range s.concerned() {
				s.contain(id)
			}
			select {
			case <-s.wake: // by ourselves
			default:
			}
		}
	}
}
