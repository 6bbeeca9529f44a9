package quarantine

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Case is all that is known of one identity, for showing.
type Case struct {
	Accused    spiffeid.ID
	Status     Status
	Evidence   []Evidence // sorted by FirstSeen, then digest
	Releases   [][]byte   // signed statements, as received, sorted
	Revocation []byte     // signed statement, as received; nil: none
	Tally      Tally      // what observers say of it
	Doubt      string     // class of what this node itself finds; empty: nothing
}

// Evidence is one finding with what proves it.
type Evidence struct {
	Finding
	Bytes     []byte        // as received; nil: not kept on this node
	Answered  bool          // a release covers it
	FirstSeen time.Time     // by this node's clock
	By        []spiffeid.ID // observers that carried it here, sorted, at most 16; empty: this node found it
}

// Case returns what is known of an identity, and whether there is anything.
func (s *Set) Case(id spiffeid.ID, now time.Time) (Case, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := Case{Accused: id, Status: s.standing(id, now), Tally: s.tally(id, now), Doubt: s.doubts[id].class}
	f, ok := s.facts[id]
	if !ok {
		return c, c.Status.Standing != OK || len(c.Tally.Charges) > 0
	}
	for _, g := range f.findings {
		c.Evidence = append(c.Evidence, Evidence{
			Finding:   g.Finding,
			Bytes:     bytes.Clone(g.evidence),
			Answered:  f.covered(g),
			FirstSeen: g.firstSeen,
			By:        slices.SortedFunc(maps.Keys(g.by), compareID),
		})
	}
	slices.SortFunc(c.Evidence, func(a, b Evidence) int {
		if d := a.FirstSeen.Compare(b.FirstSeen); d != 0 {
			return d
		}
		return compareDigest(a.Digest, b.Digest)
	})
	for _, r := range f.releases {
		c.Releases = append(c.Releases, bytes.Clone(r.raw))
	}
	slices.SortFunc(c.Releases, bytes.Compare)
	if f.revocation != nil {
		c.Revocation = bytes.Clone(f.revocation.raw)
	}
	return c, true
}

// Cases returns every case, held and watched relays and whoever is accused included, sorted by ID.
func (s *Set) Cases(now time.Time) []Case {
	s.mu.RLock()
	ids := s.known()
	s.mu.RUnlock()
	var out []Case
	for _, id := range ids {
		if c, ok := s.Case(id, now); ok {
			out = append(out, c)
		}
	}
	return out
}

// known returns all identities with facts or faults, sorted. s.mu is held.
func (s *Set) known() []spiffeid.ID {
	ids := slices.AppendSeq(slices.Collect(maps.Keys(s.facts)), maps.Keys(s.local))
	ids = slices.AppendSeq(ids, maps.Keys(s.doubts))
	for _, of := range s.charges {
		ids = slices.AppendSeq(ids, maps.Keys(of))
	}
	slices.SortFunc(ids, compareID)
	return slices.Compact(ids)
}

// Verify checks the kept evidence of a finding again, now, and reports what it
// proves. Errors wrap ErrNoCase, ErrNoEvidence or ErrEvidence.
func (s *Set) Verify(accused spiffeid.ID, digest [32]byte) (Finding, error) {
	s.mu.RLock()
	var want Finding
	var evidence []byte
	c, ok := s.facts[accused]
	if ok {
		var f *finding
		if f, ok = c.findings[digest]; ok {
			want, evidence = f.Finding, f.evidence
		}
	}
	s.mu.RUnlock()
	switch {
	case !ok:
		return Finding{}, fmt.Errorf("%w: %s, digest %x", ErrNoCase, accused, digest)
	case evidence == nil:
		return Finding{}, fmt.Errorf("%w: %s, digest %x", ErrNoEvidence, accused, digest)
	}
	got, err := s.verify(evidence)
	if err != nil {
		return Finding{}, err
	}
	if got != want {
		return Finding{}, fmt.Errorf("%w: it proves %+v, the case says %+v", ErrEvidence, got, want)
	}
	return got, nil
}
