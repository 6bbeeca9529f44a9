package quarantine

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// Set is all facts this node has about its region's identities. Its methods may
// be called from any goroutine; nothing outside runs while its lock is held.
type Set struct {
	td     spiffeid.TrustDomain
	checks Checks

	mu    sync.RWMutex // guards the fields below, for map work only
	facts map[spiffeid.ID]*facts
	local map[spiffeid.ID]*local
	bytes int // evidence kept

	doubts  map[spiffeid.ID]doubt
	charges map[spiffeid.ID]map[spiffeid.ID]charge // by accuser, then accused
	members []Member
	ranks   map[spiffeid.ID][]Member // Rank of members, for each accused

	thresholds Thresholds // within their bounds
}

// facts is what is known of one accused. Nothing is ever taken out.
type facts struct {
	findings    map[[32]byte]*finding
	overflowAt  time.Time // when findings passed MaxFindings; zero: never
	releases    map[[32]byte]signed[Release]
	revocation  *signed[Revocation]
	evidenceLen int // findings with evidence
}

type finding struct {
	Finding
	evidence  []byte // nil: not kept
	firstSeen time.Time
	by        map[spiffeid.ID]bool
}

// signed is a statement of the authority: what it says, its bytes, and when it
// was first seen here.
type signed[T any] struct {
	says      T
	raw       []byte
	firstSeen time.Time
}

// NewSet returns an empty set for the identities of one trust domain.
func NewSet(td spiffeid.TrustDomain, checks Checks) *Set {
	return &Set{
		td: td, checks: checks, facts: map[spiffeid.ID]*facts{}, local: map[spiffeid.ID]*local{}, thresholds: Defaults(),
		doubts: map[spiffeid.ID]doubt{}, charges: map[spiffeid.ID]map[spiffeid.ID]charge{}, ranks: map[spiffeid.ID][]Member{},
	}
}

// AddEvidence verifies evidence and adds its finding. by is the observer that
// carried it (zero: this node). added is false when the finding was known
// already. Errors wrap ErrEvidence, ErrForeign or ErrFull; the set is then as
// before.
func (s *Set) AddEvidence(now time.Time, evidence []byte, by spiffeid.ID) (f Finding, added bool, err error) {
	f, err = s.verify(evidence)
	if err != nil {
		return Finding{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	added, err = s.addFinding(f, bytes.Clone(evidence), millis(now), by)
	return f, added, err
}

func (s *Set) verify(evidence []byte) (Finding, error) {
	if len(evidence) == 0 || len(evidence) > MaxEvidence {
		return Finding{}, fmt.Errorf("%w: %d bytes, 1 to %d are allowed", ErrEvidence, len(evidence), MaxEvidence)
	}
	if s.checks.Evidence == nil {
		return Finding{}, fmt.Errorf("%w: no verifier", ErrEvidence)
	}
	f, err := s.checks.Evidence(evidence)
	if err != nil {
		return Finding{}, fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	return f, f.check(s.td)
}

// addFinding merges one finding; the smaller evidence of two wins, so that
// order does not matter. s.mu is held.
func (s *Set) addFinding(f Finding, evidence []byte, seen time.Time, by ...spiffeid.ID) (bool, error) {
	c, err := s.open(f.Accused)
	if err != nil {
		return false, err
	}
	have, known := c.findings[f.Digest]
	if !known {
		have = &finding{Finding: f, firstSeen: seen, by: map[spiffeid.ID]bool{}}
		c.findings[f.Digest] = have
	}
	// One digest that verifies to two findings would be a fault of ours; the
	// smaller one is kept so that at least all nodes agree.
	if f.Class < have.Class || f.Class == have.Class && f.Epoch < have.Epoch {
		have.Finding = f
	}
	have.firstSeen = earlier(have.firstSeen, seen)
	for _, id := range by {
		if !id.IsZero() {
			have.by[id] = true
		}
	}
	for len(have.by) > maxCarriers {
		delete(have.by, slices.MaxFunc(slices.Collect(maps.Keys(have.by)), compareID))
	}
	s.keep(c, have, evidence)
	for len(c.findings) > MaxFindings {
		if c.overflowAt.IsZero() {
			c.overflowAt = seen
		}
		last := slices.MaxFunc(slices.Collect(maps.Keys(c.findings)), compareDigest)
		s.drop(c, c.findings[last])
		delete(c.findings, last)
	}
	_, kept := c.findings[f.Digest]
	return !known && kept, nil
}

// keep stores evidence within the bounds: of too many, that of answered
// findings goes first, then that of the greatest digest.
func (s *Set) keep(c *facts, f *finding, evidence []byte) {
	if evidence == nil || f.evidence != nil && bytes.Compare(f.evidence, evidence) <= 0 {
		return
	}
	s.drop(c, f)
	if s.bytes+len(evidence) > maxEvidenceBytes {
		return
	}
	f.evidence = evidence
	s.bytes += len(evidence)
	c.evidenceLen++
	if c.evidenceLen <= MaxKept {
		return
	}
	var worst *finding
	for _, g := range c.findings {
		if g.evidence == nil {
			continue
		}
		if worst == nil || c.covered(g) != c.covered(worst) && c.covered(g) ||
			c.covered(g) == c.covered(worst) && compareDigest(g.Digest, worst.Digest) > 0 {
			worst = g
		}
	}
	s.drop(c, worst)
}

func (s *Set) drop(c *facts, f *finding) {
	if f.evidence != nil {
		s.bytes -= len(f.evidence)
		c.evidenceLen--
		f.evidence = nil
	}
}

// AddRelease verifies a signed release and adds it. Errors wrap ErrForeign,
// ErrFull, ErrMalformed or those of Checks.Release.
func (s *Set) AddRelease(now time.Time, raw []byte) (r Release, added bool, err error) {
	if s.checks.Release == nil || len(raw) > statement.MaxSize {
		return Release{}, false, fmt.Errorf("%w: release of %d bytes", ErrMalformed, len(raw))
	}
	if r, err = s.checks.Release(raw); err != nil {
		return Release{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	added, err = s.addRelease(r, bytes.Clone(raw), millis(now))
	return r, added, err
}

func (s *Set) addRelease(r Release, raw []byte, seen time.Time) (bool, error) {
	content, err := r.Encode()
	if err != nil {
		return false, err
	}
	c, err := s.open(r.Accused)
	if err != nil {
		return false, err
	}
	key := statement.Digest(content)
	have, known := c.releases[key]
	if !known && len(c.releases) >= MaxReleases {
		return false, fmt.Errorf("%w: %s has %d releases", ErrFull, r.Accused, MaxReleases)
	}
	if known {
		raw, seen = smaller(have.raw, raw), earlier(have.firstSeen, seen)
	}
	c.releases[key] = signed[Release]{r, raw, seen}
	return !known, nil
}

// AddRevocation verifies a signed revocation and adds it. Of several the
// earliest is kept. Errors are as of AddRelease.
func (s *Set) AddRevocation(now time.Time, raw []byte) (r Revocation, added bool, err error) {
	if s.checks.Revocation == nil || len(raw) > statement.MaxSize {
		return Revocation{}, false, fmt.Errorf("%w: revocation of %d bytes", ErrMalformed, len(raw))
	}
	if r, err = s.checks.Revocation(raw); err != nil {
		return Revocation{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	added, err = s.addRevocation(r, bytes.Clone(raw), millis(now))
	return r, added, err
}

func (s *Set) addRevocation(r Revocation, raw []byte, seen time.Time) (bool, error) {
	if _, err := r.Encode(); err != nil {
		return false, err
	}
	c, err := s.open(r.Accused)
	if err != nil {
		return false, err
	}
	have := c.revocation
	if have == nil {
		c.revocation = &signed[Revocation]{r, raw, seen}
		return true, nil
	}
	seen = earlier(have.firstSeen, seen)
	if have.says.At.Before(r.At) || have.says.At.Equal(r.At) && bytes.Compare(have.raw, raw) <= 0 {
		r, raw = have.says, have.raw
	}
	c.revocation = &signed[Revocation]{r, raw, seen}
	return false, nil
}

// open returns the facts about an identity, making room for them. s.mu is held.
func (s *Set) open(id spiffeid.ID) (*facts, error) {
	//bailiwick:check TestPoisonedRegion
	if id.TrustDomain() != s.td {
		return nil, fmt.Errorf("%w: %s, this region is %s", ErrForeign, id, s.td)
	}
	c, ok := s.facts[id]
	if !ok {
		if len(s.facts) >= MaxAccused {
			return nil, fmt.Errorf("%w: %d identities, no room for %s", ErrFull, MaxAccused, id)
		}
		c = &facts{findings: map[[32]byte]*finding{}, releases: map[[32]byte]signed[Release]{}}
		s.facts[id] = c
	}
	return c, nil
}

// millis is the precision in which first-seen times are kept.
func millis(t time.Time) time.Time { return t.Truncate(time.Millisecond).UTC() }

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func smaller(a, b []byte) []byte {
	if bytes.Compare(b, a) < 0 {
		return b
	}
	return a
}

func compareID(a, b spiffeid.ID) int { return strings.Compare(a.String(), b.String()) }

func compareDigest(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) }
