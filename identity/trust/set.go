package trust

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	// ErrUnknown means there is no record for the trust domain.
	ErrUnknown = errors.New("no trust record for this trust domain: import the region's record")
	// ErrOld means a newer version is known already. Nothing was changed, and
	// nothing is wrong.
	ErrOld = errors.New("a newer trust record of this region is known already")
	// ErrConflict means the record contradicts one that the global keys signed
	// before: another content under one version, or a label or trust domain
	// that is taken. The older stays. Somebody signed both: find out why.
	ErrConflict = errors.New("trust record contradicts one that is known already")
	// ErrNoGlobal means the global keys cannot reach the threshold.
	ErrNoGlobal = errors.New("global keys: the threshold must be from 1 to the number of keys")
)

// Set holds the newest trust record of each region. Its methods may be called
// concurrently.
type Set struct {
	global    []*ecdsa.PublicKey
	threshold int

	mu      sync.RWMutex // held for map accesses only; guards what follows
	regions map[spiffeid.TrustDomain]entry
	changed chan struct{}
}

type entry struct {
	Record
	raw    []byte
	digest [32]byte // of the payload: signatures may differ
	bundle *x509bundle.Bundle
}

// NewSet returns an empty set that believes threshold of the global keys.
func NewSet(global []*ecdsa.PublicKey, threshold int) (*Set, error) {
	if threshold < 1 || threshold > len(global) {
		return nil, fmt.Errorf("%w: threshold %d, %d keys", ErrNoGlobal, threshold, len(global))
	}
	return &Set{global: slices.Clone(global), threshold: threshold, regions: map[spiffeid.TrustDomain]entry{}, changed: make(chan struct{})}, nil
}

// Apply verifies b as of now and takes it in. It reports whether the set
// changed; the same record again does not change it and is no error. Errors
// match those of Verify, ErrOld or ErrConflict, and change nothing.
func (s *Set) Apply(b []byte, now time.Time) (Record, bool, error) {
	r, err := Verify(b, s.global, s.threshold, now)
	if err != nil {
		return Record{}, false, err
	}
	return s.admit(r, b)
}

// Restore is Apply for what Export gave before a restart: an expired record is
// taken in as well, so that no older version can take its place.
func (s *Set) Restore(b []byte) error {
	r, err := verify(b, s.global, s.threshold)
	if err == nil {
		_, _, err = s.admit(r, b)
	}
	return err
}

func (s *Set) admit(r Record, b []byte) (Record, bool, error) {
	e, err := newEntry(r, b)
	if err != nil {
		return Record{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	news, err := s.judge(e)
	switch {
	case err != nil:
		return Record{}, false, err
	case !news:
		return r, false, nil
	}
	s.regions[r.TrustDomain] = e
	close(s.changed)
	s.changed = make(chan struct{})
	return r, true, nil
}

// Judge says what Apply would, and changes nothing.
func (s *Set) Judge(b []byte, now time.Time) (Record, bool, error) {
	r, err := Verify(b, s.global, s.threshold, now)
	if err != nil {
		return Record{}, false, err
	}
	e, err := newEntry(r, b)
	if err != nil {
		return Record{}, false, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	news, err := s.judge(e)
	return r, news, err
}

func newEntry(r Record, b []byte) (entry, error) {
	payload, _, err := split(b)
	return entry{Record: r, raw: bytes.Clone(b), digest: statement.Digest(payload), bundle: x509bundle.FromX509Authorities(r.TrustDomain, r.X509Roots)}, err
}

// judge compares a record with those that are known. The caller holds mu.
func (s *Set) judge(e entry) (news bool, err error) {
	have, ok := s.regions[e.TrustDomain]
	switch {
	case ok && have.digest == e.digest:
		return false, nil
	case ok && have.Region != e.Region:
		return false, fmt.Errorf("%w: %s is region %q, not %q", ErrConflict, e.TrustDomain, have.Region, e.Region)
	case ok && have.Version == e.Version:
		return false, fmt.Errorf("%w: region %s has two contents at version %d", ErrConflict, e.Region, e.Version)
	case ok && have.Version > e.Version:
		return false, fmt.Errorf("%w: region %s has version %d, offered %d", ErrOld, e.Region, have.Version, e.Version)
	}
	for td, other := range s.regions {
		if other.Region == e.Region && td != e.TrustDomain {
			return false, fmt.Errorf("%w: region %q is %s, not %s", ErrConflict, e.Region, td, e.TrustDomain)
		}
	}
	return true, nil
}

// Changed returns a channel that is closed at the next change: live
// connections must then be verified again.
func (s *Set) Changed() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.changed
}

// GetX509BundleForTrustDomain returns the X.509 roots of td, ErrUnknown, or
// ErrExpired once the record is. It makes Set an x509bundle.Source.
func (s *Set) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	e, err := s.valid(td, time.Now())
	return e.bundle, err
}

// RecordRoots returns the record roots of td, none if td is unknown or its
// record expired.
func (s *Set) RecordRoots(td spiffeid.TrustDomain) []*x509.Certificate {
	e, _ := s.valid(td, time.Now())
	return e.RecordRoots
}

// Record returns the record of td, valid or not; the caller checks ValidAt.
func (s *Set) Record(td spiffeid.TrustDomain) (Record, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.regions[td]
	return e.Record, ok
}

// AuthorityKey returns the authority's key of td, also where its record has expired: what it
// signed before still holds. The error is ErrUnknown.
func (s *Set) AuthorityKey(td spiffeid.TrustDomain) (*ecdsa.PublicKey, error) {
	r, ok := s.Record(td)
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrUnknown, td)
	}
	return r.AuthorityKey, nil
}

// ByLabel returns the record of the region with this label, valid or not.
func (s *Set) ByLabel(label string) (Record, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, e := range s.regions {
		if e.Region == label {
			return e.Record, true
		}
	}
	return Record{}, false
}

// Regions returns all records, valid or not, by label.
func (s *Set) Regions() []Record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Record, 0, len(s.regions))
	for _, e := range s.regions {
		out = append(out, e.Record)
	}
	slices.SortFunc(out, func(a, b Record) int { return cmp.Compare(a.Region, b.Region) })
	return out
}

// Export returns all records as received, by label: what to store, to send to
// peers, and to Restore after a restart.
func (s *Set) Export() [][]byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out [][]byte
	for _, e := range slices.SortedFunc(maps.Values(s.regions), func(a, b entry) int { return cmp.Compare(a.Region, b.Region) }) {
		out = append(out, e.raw)
	}
	return out
}

// Fingerprint is another text for every other set of records, for comparing what two nodes
// hold: 16 hexadecimal digits.
func (s *Set) Fingerprint() string {
	var all []byte
	for _, raw := range s.Export() {
		digest := statement.Digest(raw)
		all = append(all, digest[:]...)
	}
	digest := statement.Digest(all)
	return hex.EncodeToString(digest[:8])
}

func (s *Set) valid(td spiffeid.TrustDomain, now time.Time) (entry, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.regions[td]
	switch {
	case !ok:
		return entry{}, fmt.Errorf("%w: %q", ErrUnknown, td.Name())
	case !e.ValidAt(now):
		return entry{}, fmt.Errorf("%w: %s, until %s", ErrExpired, td, e.NotAfter.UTC().Format(time.RFC3339))
	}
	return e, nil
}
