package quarantine

import (
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// Bounds of the set. What is beyond them is refused with ErrFull, except where
// the constant says otherwise.
const (
	MaxEvidence = 64 << 10 // bytes of one evidence
	MaxFindings = 256      // findings of one accused; more only set a mark that no release answers
	MaxKept     = 16       // evidences kept of one accused; of further findings only the digest stays
	MaxAccused  = 4096     // identities with facts
	MaxReleases = 64       // releases of one accused
	maxCarriers = 16       // observers remembered per finding

	maxEvidenceBytes = 32 << 20 // evidence of the whole set; beyond it only digests are kept
)

var (
	// ErrForeign means the fact is about an identity of another trust domain.
	// Quarantine never crosses regions; the sender is at fault.
	ErrForeign = errors.New("quarantine fact is about another trust domain")

	// ErrFull means a bound of the set is reached and the fact was not added. No
	// healthy fleet gets here: look at what fills the set first.
	ErrFull = errors.New("quarantine set is full")

	// ErrEvidence means evidence is oversized, or did not verify. It convicts
	// nobody, except perhaps whoever signed that it does.
	ErrEvidence = errors.New("evidence does not verify")

	// ErrNoEvidence means a finding is known by its digest only: its evidence was
	// over the bounds of what one node keeps. Other nodes, or the finder's feed,
	// may have it.
	ErrNoEvidence = errors.New("evidence is not kept on this node")

	// ErrNoCase means nothing is known against the identity.
	ErrNoCase = errors.New("no quarantine case for this identity")

	// ErrMalformed means bytes are not a case, release or revocation of ours.
	ErrMalformed = errors.New("malformed quarantine data")

	// ErrApprovals means fewer of the region's approvers signed a release than its trust record asks
	// for. The message says how many, whose count and whose are missing.
	ErrApprovals = errors.New("the release is not approved by enough of the region's approvers")

	// ErrSegment means there is no such part of a node's state to keep out, or to let back in.
	ErrSegment = errors.New("not a part of a node's state that can be kept out")

	// ErrSegmented means the region's authority keeps out the part of a node's state that a key is in:
	// what is written there counts nowhere.
	ErrSegmented = errors.New("the region's authority keeps this part of the node's state out: see bailiwick quarantine history with the node's SPIFFE ID")

	// ErrDraft means bytes are no draft of a release, or it is none for now: its time is over, or the
	// node was given epochs or another release since it was made.
	ErrDraft = errors.New("the draft of a release cannot be used: make it anew")
)

// Finding is what a verifier of evidence reports. The same evidence gives the
// same finding on every machine.
type Finding struct {
	Accused spiffeid.ID
	Class   string   // stable name of the broken rule, e.g. "equivocation", "foreign-key"; 1 to 64 bytes
	Digest  [32]byte // names the evidence; equal digests are one finding
	Epoch   uint64   // epoch of the accused's feed the fault is in; 0 when it is in none
}

// Release is the authority's answer to findings. It reads as signed; who signed
// it is for Checks.Release to know.
type Release struct {
	Accused spiffeid.ID
	Digests [][32]byte // findings answered, at most MaxFindings
	Epoch   uint64     // the accused's next epoch, at least 1; findings about lower epochs are answered too
	Until   time.Time  // end of probation, to the second
	At      time.Time  // when the authority decided, to the second
	Reason  string     // root cause in the operator's words, at most 256 bytes
	Again   bool       // the accused had been released before, and an operator said so all the same
}

// Revocation ends an identity for good.
type Revocation struct {
	Accused spiffeid.ID
	At      time.Time // when the authority decided, to the second
	Reason  string    // at most 256 bytes
}

// Checks turns bytes from outside into facts, or refuses them. All must be
// pure functions of the bytes and of keys the node trusts. A nil function
// refuses everything.
type Checks struct {
	Evidence   func(evidence []byte) (Finding, error)
	Release    func(statement []byte) (Release, error)
	Revocation func(statement []byte) (Revocation, error)
}

func (f Finding) check(td spiffeid.TrustDomain) error {
	switch {
	case f.Accused.IsZero() || len(f.Class) == 0 || len(f.Class) > 64:
		return fmt.Errorf("%w: finding against %q of class %q", ErrEvidence, f.Accused, f.Class)
	case f.Accused.TrustDomain() != td:
		return fmt.Errorf("%w: %s, this region is %s", ErrForeign, f.Accused, td)
	}
	return nil
}

const maxReason = 256

type releaseWire struct {
	Accused string     `cbor:"1,keyasint"`
	Digests [][32]byte `cbor:"2,keyasint"`
	Epoch   uint64     `cbor:"3,keyasint"`
	Until   int64      `cbor:"4,keyasint"`
	At      int64      `cbor:"5,keyasint"`
	Reason  string     `cbor:"6,keyasint,omitempty"`
	Again   bool       `cbor:"7,keyasint,omitempty"`
}

// Encode writes the release as the deterministic CBOR that an authority signs.
// Errors wrap ErrMalformed: a field is out of its bounds.
func (r Release) Encode() ([]byte, error) {
	b, err := statement.Marshal(releaseWire{r.Accused.String(), r.Digests, r.Epoch, r.Until.Unix(), r.At.Unix(), r.Reason, r.Again})
	if err != nil {
		return nil, err
	}
	if _, err := ParseRelease(b); err != nil {
		return nil, err
	}
	return b, nil
}

// ParseRelease reads what Encode wrote. The caller has verified the signature.
func ParseRelease(b []byte) (Release, error) {
	var w releaseWire
	if len(b) > statement.MaxSize {
		return Release{}, fmt.Errorf("%w: release of %d bytes", ErrMalformed, len(b))
	}
	if err := statement.Unmarshal(b, &w); err != nil {
		return Release{}, fmt.Errorf("%w: release: %w", ErrMalformed, err)
	}
	id, err := spiffeid.FromString(w.Accused)
	switch {
	case err != nil:
		return Release{}, fmt.Errorf("%w: release: accused: %w", ErrMalformed, err)
	case len(w.Digests) > MaxFindings:
		return Release{}, fmt.Errorf("%w: release: %d digests, at most %d", ErrMalformed, len(w.Digests), MaxFindings)
	case w.Epoch == 0:
		return Release{}, fmt.Errorf("%w: release: epoch is missing; a release begins a new one", ErrMalformed)
	case !validUnix(w.Until) || !validUnix(w.At) || len(w.Reason) > maxReason:
		return Release{}, fmt.Errorf("%w: release: until, at or reason out of bounds", ErrMalformed)
	}
	return Release{id, w.Digests, w.Epoch, time.Unix(w.Until, 0).UTC(), time.Unix(w.At, 0).UTC(), w.Reason, w.Again}, nil
}

type revocationWire struct {
	Accused string `cbor:"1,keyasint"`
	At      int64  `cbor:"2,keyasint"`
	Reason  string `cbor:"3,keyasint,omitempty"`
}

// Encode writes the revocation as the deterministic CBOR that an authority signs.
func (r Revocation) Encode() ([]byte, error) {
	b, err := statement.Marshal(revocationWire{r.Accused.String(), r.At.Unix(), r.Reason})
	if err != nil {
		return nil, err
	}
	if _, err := ParseRevocation(b); err != nil {
		return nil, err
	}
	return b, nil
}

// ParseRevocation reads what Encode wrote. The caller has verified the signature.
func ParseRevocation(b []byte) (Revocation, error) {
	var w revocationWire
	if len(b) > statement.MaxSize {
		return Revocation{}, fmt.Errorf("%w: revocation of %d bytes", ErrMalformed, len(b))
	}
	if err := statement.Unmarshal(b, &w); err != nil {
		return Revocation{}, fmt.Errorf("%w: revocation: %w", ErrMalformed, err)
	}
	id, err := spiffeid.FromString(w.Accused)
	if err != nil {
		return Revocation{}, fmt.Errorf("%w: revocation: accused: %w", ErrMalformed, err)
	}
	if !validUnix(w.At) || len(w.Reason) > maxReason {
		return Revocation{}, fmt.Errorf("%w: revocation: at or reason out of bounds", ErrMalformed)
	}
	return Revocation{id, time.Unix(w.At, 0).UTC(), w.Reason}, nil
}

// validUnix keeps seconds within years 1970 to 9999, which every clock can show.
func validUnix(s int64) bool { return s >= 0 && s < 253402300800 }
