package quarantine

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// MaxCase bounds what Unmarshal looks at, in bytes.
const MaxCase = MaxKept*MaxEvidence + (MaxReleases+1)*statement.MaxSize + 512<<10

// The persistent form is one value per accused. The store it lies in is this
// node's own: Unmarshal does not verify anew, because keys rotate, and a proof
// that was good when it came must not lapse with a certificate.
type caseWire struct {
	Accused    string        `cbor:"1,keyasint"`
	Findings   []findingWire `cbor:"2,keyasint,omitempty"` // ascending by digest
	Overflow   int64         `cbor:"3,keyasint,omitempty"` // Unix ms
	Releases   []signedWire  `cbor:"4,keyasint,omitempty"` // ascending by content
	Revocation *signedWire   `cbor:"5,keyasint,omitempty"`
}

type findingWire struct {
	Class     string   `cbor:"1,keyasint"`
	Digest    [32]byte `cbor:"2,keyasint"`
	Epoch     uint64   `cbor:"3,keyasint,omitempty"`
	Evidence  []byte   `cbor:"4,keyasint,omitempty"`
	FirstSeen int64    `cbor:"5,keyasint"` // Unix ms
	By        []string `cbor:"6,keyasint,omitempty"`
}

type signedWire struct {
	Content   []byte `cbor:"1,keyasint"`
	Raw       []byte `cbor:"2,keyasint"`
	FirstSeen int64  `cbor:"3,keyasint"` // Unix ms
}

// Marshal writes the facts about one identity; faults are left out. Errors wrap
// ErrNoCase.
func (s *Set) Marshal(id spiffeid.ID) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c, ok := s.facts[id]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNoCase, id)
	}
	w := caseWire{Accused: id.String()}
	if !c.overflowAt.IsZero() {
		w.Overflow = c.overflowAt.UnixMilli()
	}
	for _, d := range slices.SortedFunc(maps.Keys(c.findings), compareDigest) {
		f := c.findings[d]
		fw := findingWire{Class: f.Class, Digest: f.Digest, Epoch: f.Epoch, Evidence: f.evidence, FirstSeen: f.firstSeen.UnixMilli()}
		for _, by := range slices.SortedFunc(maps.Keys(f.by), compareID) {
			fw.By = append(fw.By, by.String())
		}
		w.Findings = append(w.Findings, fw)
	}
	for _, d := range slices.SortedFunc(maps.Keys(c.releases), compareDigest) {
		r := c.releases[d]
		content, err := r.says.Encode()
		if err != nil {
			return nil, err
		}
		w.Releases = append(w.Releases, signedWire{content, r.raw, r.firstSeen.UnixMilli()})
	}
	if r := c.revocation; r != nil {
		content, err := r.says.Encode()
		if err != nil {
			return nil, err
		}
		w.Revocation = &signedWire{content, r.raw, r.firstSeen.UnixMilli()}
	}
	return statement.Marshal(w)
}

// Unmarshal merges a case that Marshal wrote. b must come from this node's own
// store. Errors wrap ErrMalformed, ErrForeign or ErrFull; then nothing of b was
// merged.
func (s *Set) Unmarshal(b []byte) error {
	if len(b) > MaxCase {
		return fmt.Errorf("%w: case of %d bytes, at most %d", ErrMalformed, len(b), MaxCase)
	}
	c, err := parseCase(b, s.td)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, ok := s.facts[c.accused]; ok && len(have.releases)+len(c.releases) > MaxReleases {
		return fmt.Errorf("%w: releases of %s", ErrFull, c.accused)
	}
	into, err := s.open(c.accused)
	if err != nil {
		return err
	}
	if into.overflowAt.IsZero() || !c.overflow.IsZero() && c.overflow.Before(into.overflowAt) {
		into.overflowAt = c.overflow
	}
	for _, r := range c.releases { // first: they decide which evidence is kept
		if _, err := s.addRelease(r.says, r.raw, r.firstSeen); err != nil {
			return err
		}
	}
	for _, f := range c.findings {
		if _, err := s.addFinding(f.Finding, f.evidence, f.firstSeen, slices.Collect(maps.Keys(f.by))...); err != nil {
			return err
		}
	}
	if r := c.revocation; r != nil {
		_, err = s.addRevocation(r.says, r.raw, r.firstSeen)
	}
	return err
}

// parsedCase is a case whose every field is within bounds.
type parsedCase struct {
	accused    spiffeid.ID
	overflow   time.Time
	findings   []finding
	releases   []signed[Release]
	revocation *signed[Revocation]
}

func parseCase(b []byte, td spiffeid.TrustDomain) (c parsedCase, err error) {
	var w caseWire
	if err := statement.Unmarshal(b, &w); err != nil {
		return c, fmt.Errorf("%w: case: %w", ErrMalformed, err)
	}
	if c.accused, err = spiffeid.FromString(w.Accused); err != nil {
		return c, fmt.Errorf("%w: case: accused: %w", ErrMalformed, err)
	}
	if len(w.Findings) > MaxFindings || len(w.Releases) > MaxReleases {
		return c, fmt.Errorf("%w: case: %d findings, %d releases", ErrMalformed, len(w.Findings), len(w.Releases))
	}
	if w.Overflow != 0 {
		if c.overflow, err = fromMillis(w.Overflow); err != nil {
			return c, err
		}
	}
	for i, fw := range w.Findings {
		f, err := fw.parse(c.accused, td)
		if err != nil {
			return c, fmt.Errorf("finding %d: %w", i, err)
		}
		c.findings = append(c.findings, f)
	}
	for i, sw := range w.Releases {
		r, err := ParseRelease(sw.Content)
		if err != nil {
			return c, fmt.Errorf("release %d: %w", i, err)
		}
		if r.Accused != c.accused || len(sw.Raw) > statement.MaxSize {
			return c, fmt.Errorf("%w: case: release %d of another accused, or too large", ErrMalformed, i)
		}
		seen, err := fromMillis(sw.FirstSeen)
		if err != nil {
			return c, err
		}
		c.releases = append(c.releases, signed[Release]{r, sw.Raw, seen})
	}
	if sw := w.Revocation; sw != nil {
		r, err := ParseRevocation(sw.Content)
		if err != nil {
			return c, err
		}
		if r.Accused != c.accused || len(sw.Raw) > statement.MaxSize {
			return c, fmt.Errorf("%w: case: revocation of another accused, or too large", ErrMalformed)
		}
		seen, err := fromMillis(sw.FirstSeen)
		if err != nil {
			return c, err
		}
		c.revocation = &signed[Revocation]{r, sw.Raw, seen}
	}
	return c, nil
}

func (fw findingWire) parse(accused spiffeid.ID, td spiffeid.TrustDomain) (finding, error) {
	f := finding{Finding: Finding{accused, fw.Class, fw.Digest, fw.Epoch}, by: map[spiffeid.ID]bool{}}
	if err := f.check(td); err != nil {
		return f, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(fw.Evidence) > MaxEvidence || len(fw.By) > maxCarriers {
		return f, fmt.Errorf("%w: evidence of %d bytes by %d", ErrMalformed, len(fw.Evidence), len(fw.By))
	}
	if len(fw.Evidence) > 0 {
		f.evidence = fw.Evidence
	}
	for _, by := range fw.By {
		id, err := spiffeid.FromString(by)
		if err != nil {
			return f, fmt.Errorf("%w: observer: %w", ErrMalformed, err)
		}
		f.by[id] = true
	}
	var err error
	f.firstSeen, err = fromMillis(fw.FirstSeen)
	return f, err
}

func fromMillis(ms int64) (time.Time, error) {
	if !validUnix(ms/1000) || ms < 0 {
		return time.Time{}, fmt.Errorf("%w: time %d ms", ErrMalformed, ms)
	}
	return time.UnixMilli(ms).UTC(), nil
}
