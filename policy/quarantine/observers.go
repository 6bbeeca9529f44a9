package quarantine

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// fewestObservers is with how many assigned observers a quorum can be had at all. Where there are
// fewer, what is not proven ends at held.
const fewestObservers = 5

// Member is a node that may be an observer: one with a TPM, of the signed roster.
type Member struct {
	ID     spiffeid.ID
	Domain string // its failure domain
}

// Rank orders the members other than the accused by how soon they are its observers: by
//
//	SHA-256("bailiwick observer/1" 0x00 accused's SPIFFE ID 0x00 member's SPIFFE ID)
//
// the smallest first. Names are given at enrolment, so neither the accused nor an accuser chooses
// them; one member more or less moves no two others past each other. Failure domains take no
// turns: nodes that are alone in theirs would be observers of everybody. What a domain may do by
// itself is bounded where votes are counted instead.
func Rank(accused spiffeid.ID, members []Member) []Member {
	type scored struct {
		Member
		score [32]byte
	}
	all := make([]scored, 0, len(members))
	for _, m := range members {
		if m.ID != accused && m.ID.TrustDomain() == accused.TrustDomain() {
			all = append(all, scored{m, sha256.Sum256([]byte("bailiwick observer/1\x00" + accused.String() + "\x00" + m.ID.String()))})
		}
	}
	slices.SortFunc(all, func(a, b scored) int { return bytes.Compare(a.score[:], b.score[:]) })
	all = slices.CompactFunc(all, func(a, b scored) bool { return a.ID == b.ID })
	out := make([]Member, len(all))
	for i, s := range all {
		out[i] = s.Member
	}
	return out
}

// Enrol tells the set who may be an observer. The order does not matter.
func (s *Set) Enrol(members []Member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(s.members, members) {
		return
	}
	s.members = slices.Clone(members)
	for accused := range s.ranks {
		s.ranks[accused] = Rank(accused, s.members)
	}
}

// Observes reports whether a node is an assigned observer of another.
func (s *Set) Observes(observer, accused spiffeid.ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.ContainsFunc(s.seats(accused), func(m Member) bool { return m.ID == observer })
}

// rank makes sure that those who are spoken of need not be ranked again for each question.
func (s *Set) rank(id spiffeid.ID) {
	if _, ok := s.ranks[id]; !ok {
		s.ranks[id] = Rank(id, s.members)
	}
}

// seats are the assigned observers of an identity: the first by rank that no proof convicts.
// s.mu is held.
func (s *Set) seats(accused spiffeid.ID) (out []Member) {
	rank, ok := s.ranks[accused]
	if !ok {
		rank = Rank(accused, s.members)
	}
	for _, m := range rank {
		if len(out) == s.thresholds.Observers {
			break
		}
		if !s.convicted(m.ID) {
			out = append(out, m)
		}
	}
	return out
}

// convicted reports whether a proof or the authority speaks against an identity now. What
// observers say does not take the say from an observer: that would be circular.
func (s *Set) convicted(id spiffeid.ID) bool {
	c := s.facts[id]
	return c != nil && (c.revocation != nil || c.firstOpen() != nil || !c.overflowAt.IsZero())
}

// accused are all that somebody accuses, sorted. s.mu is held.
func (s *Set) accused() (out []spiffeid.ID) {
	for id := range s.ranks {
		out = append(out, id)
	}
	slices.SortFunc(out, compareID)
	return out
}
