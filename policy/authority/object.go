package authority

import (
	"bytes"
	"cmp"
	"crypto"
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// Kind says what an object is about.
type Kind string

const (
	KindRecord     Kind = "authority"
	KindService    Kind = "service"
	KindRelease    Kind = "release"
	KindRevocation Kind = "revocation"
	KindBeacon     Kind = "beacon"
	KindRollback   Kind = "rollback"
	KindSegments   Kind = "segments"
)

// kinds lists every kind with its statement type.
var kinds = map[Kind]statement.Type{
	KindRecord:     {Name: "authority", Version: 1},
	KindService:    {Name: "service", Version: 1},
	KindRelease:    {Name: "release", Version: 1},
	KindRevocation: {Name: "revocation", Version: 1},
	KindBeacon:     {Name: "beacon", Version: 2},
	KindRollback:   {Name: "rollback", Version: 1},
	KindSegments:   {Name: "segments", Version: 1},
}

var (
	// ErrMalformed means bytes are no authority object, or break its bounds.
	ErrMalformed = errors.New("malformed authority object")

	// ErrSigner means no key that this node trusts for the object's level signed
	// it. Refresh the trust record; else the sender is at fault.
	ErrSigner = errors.New("authority object is not signed by an authority of its level")

	// ErrForeign means an object of one region names an identity of another.
	ErrForeign = errors.New("authority object names an identity outside its trust domain")
)

// MaxSize is the largest signed object, in bytes: it has to fit one gossiped value.
const MaxSize = 15 << 10

const maxName = 512 // a SPIFFE ID or a service name, in bytes

// Object is what an authority states, without the signature.
type Object struct {
	Kind    Kind
	Level   Level
	Name    string      // region label, service name, or SPIFFE ID of the accused
	Version uint64      // from 1
	HLC     uint64      // 48 bits of Unix ms, 16 bits of counter
	Origin  spiffeid.ID // the node that holds the signing key
	Parent  [32]byte    // digest of the object it replaces; zero: it is the first
	Body    []byte      // deterministic CBOR, by kind

	Approvals [][]byte // of a release: statements of approvers over Body, ascending; else none
}

// Signed is an object that verified. Only Open makes one with a level.
type Signed struct {
	Object
	Raw    []byte   // the statement, exactly as received
	Digest [32]byte // of its payload; names the object

	ApprovedBy []string // of a release: KeyName of the approvers that count, where the region has any
}

type objectWire struct {
	Kind    string   `cbor:"1,keyasint"`
	Level   string   `cbor:"2,keyasint"`
	Name    string   `cbor:"3,keyasint"`
	Version uint64   `cbor:"4,keyasint"`
	HLC     uint64   `cbor:"5,keyasint"`
	Origin  string   `cbor:"6,keyasint"`
	Parent  [32]byte `cbor:"7,keyasint"`
	Body    []byte   `cbor:"8,keyasint"`

	Approvals [][]byte `cbor:"9,keyasint,omitempty"`
}

// Keys returns who may sign objects of a level for one trust domain. It is asked for
// each object, so that a rotated key takes effect at once.
type Keys func(Level) Signers

// Open reads and verifies one object of a trust domain. Errors wrap
// ErrMalformed, ErrForeign, ErrSigner, quarantine.ErrApprovals or statement.ErrMalformed.
func Open(raw []byte, td spiffeid.TrustDomain, keys Keys) (Signed, error) {
	if len(raw) > MaxSize {
		return Signed{}, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(raw), MaxSize)
	}
	env, err := statement.Parse(raw)
	if err != nil {
		return Signed{}, err
	}
	o, err := parse(env.Payload(), td)
	if err != nil {
		return Signed{}, err
	}
	if keys == nil {
		return Signed{}, fmt.Errorf("%w: no keys", ErrSigner)
	}
	signers := keys(o.Level)
	for _, key := range signers.Keys {
		if env.Verify(key, kinds[o.Kind], td.Name()) != nil {
			continue
		}
		var by []string
		if o.Kind == KindRelease {
			if by, err = signers.Approvers.check(td, o.Body, o.Approvals); err != nil {
				return Signed{}, err
			}
		}
		return Signed{o, raw, statement.Digest(env.Payload()), by}, nil
	}
	return Signed{}, fmt.Errorf("%w: %s %s %q version %d", ErrSigner, o.Level, o.Kind, o.Name, o.Version)
}

// seal signs an object for a trust domain.
func seal(key crypto.Signer, td spiffeid.TrustDomain, o Object) (Signed, error) {
	payload, err := statement.Marshal(objectWire{
		string(o.Kind), o.Level.String(), o.Name, o.Version, o.HLC, o.Origin.String(), o.Parent, o.Body, o.Approvals,
	})
	if err != nil {
		return Signed{}, err
	}
	if len(payload) > MaxSize-80 { // what the envelope adds
		return Signed{}, fmt.Errorf("%w: payload of %d bytes, at most %d", ErrMalformed, len(payload), MaxSize-80)
	}
	if o, err = parse(payload, td); err != nil {
		return Signed{}, err
	}
	raw, err := statement.Sign(key, kinds[o.Kind], td.Name(), payload)
	if err != nil {
		return Signed{}, err
	}
	return Signed{Object: o, Raw: raw, Digest: statement.Digest(payload)}, nil
}

// parse reads a payload and holds it, body included, to the rules of its kind.
func parse(payload []byte, td spiffeid.TrustDomain) (o Object, err error) {
	var w objectWire
	if err := statement.Unmarshal(payload, &w); err != nil {
		return Object{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	o = Object{Kind: Kind(w.Kind), Name: w.Name, Version: w.Version, HLC: w.HLC, Parent: w.Parent, Body: w.Body, Approvals: w.Approvals}
	if o.Level, err = ParseLevel(w.Level); err != nil {
		return Object{}, fmt.Errorf("%w: level: %w", ErrMalformed, err)
	}
	if o.Origin, err = spiffeid.FromString(w.Origin); err != nil {
		return Object{}, fmt.Errorf("%w: origin: %w", ErrMalformed, err)
	}
	if o.Level != Global && o.Origin.TrustDomain() != td {
		return Object{}, fmt.Errorf("%w: origin %s", ErrForeign, o.Origin)
	}
	if len(o.Name) == 0 || len(o.Name) > maxName || o.Version == 0 {
		return Object{}, fmt.Errorf("%w: name %q, version %d", ErrMalformed, o.Name, o.Version)
	}
	if o.Approvals != nil && o.Kind != KindRelease {
		return Object{}, fmt.Errorf("%w: %s %q carries approvals", ErrMalformed, w.Kind, w.Name)
	}
	if err := checkApprovals(o.Approvals); err != nil {
		return Object{}, err
	}
	switch o.Kind {
	case KindRecord:
		var r Record
		if r, err = parseRecord(o.Body); err == nil {
			err = r.belongs(o, td)
		}
	case KindService:
		var s Service
		if s, err = parseService(o.Body); err == nil {
			err = s.belongs(o, td)
		}
	case KindRelease:
		var r quarantine.Release
		if r, err = quarantine.ParseRelease(o.Body); err == nil {
			err = aboutAccused(o, r.Accused, td)
		}
	case KindRevocation:
		var r quarantine.Revocation
		if r, err = quarantine.ParseRevocation(o.Body); err == nil {
			err = aboutAccused(o, r.Accused, td)
		}
	case KindBeacon:
		var b Beacon
		if b, err = parseBeacon(o.Body); err == nil {
			err = b.belongs(o)
		}
	case KindRollback:
		var r Rollback
		if r, err = parseRollback(o.Body); err == nil {
			err = aboutAccused(o, r.Origin, td)
		}
	case KindSegments:
		var s Segments
		if s, err = ParseSegments(o.Body); err == nil {
			err = aboutAccused(o, s.Origin, td)
		}
	default:
		err = fmt.Errorf("%w: kind %q", ErrMalformed, w.Kind)
	}
	if err != nil {
		return Object{}, err
	}
	return o, nil
}

func aboutAccused(o Object, accused spiffeid.ID, td spiffeid.TrustDomain) error {
	if accused.TrustDomain() != td {
		return fmt.Errorf("%w: accused %s", ErrForeign, accused)
	}
	if o.Name != accused.String() {
		return fmt.Errorf("%w: %s named %q is about %s", ErrMalformed, o.Kind, o.Name, accused)
	}
	return nil
}

// Record returns the authority record in an object of KindRecord.
func (s Signed) Record() (Record, error) {
	if s.Kind != KindRecord {
		return Record{}, fmt.Errorf("%w: %q is no authority record", ErrMalformed, s.Kind)
	}
	return parseRecord(s.Body)
}

// Service returns the names in an object of KindService.
func (s Signed) Service() (Service, error) {
	if s.Kind != KindService {
		return Service{}, fmt.Errorf("%w: %q is no service", ErrMalformed, s.Kind)
	}
	return parseService(s.Body)
}

// Release returns the release in an object of KindRelease.
func (s Signed) Release() (quarantine.Release, error) {
	if s.Kind != KindRelease {
		return quarantine.Release{}, fmt.Errorf("%w: %q is no release", ErrMalformed, s.Kind)
	}
	return quarantine.ParseRelease(s.Body)
}

// Revocation returns the revocation in an object of KindRevocation.
func (s Signed) Revocation() (quarantine.Revocation, error) {
	if s.Kind != KindRevocation {
		return quarantine.Revocation{}, fmt.Errorf("%w: %q is no revocation", ErrMalformed, s.Kind)
	}
	return quarantine.ParseRevocation(s.Body)
}

// OpenRelease verifies a signed release: what quarantine.Checks asks for.
func OpenRelease(raw []byte, td spiffeid.TrustDomain, keys Keys) (quarantine.Release, error) {
	s, err := Open(raw, td, keys)
	if err != nil {
		return quarantine.Release{}, err
	}
	return s.Release()
}

// OpenRevocation verifies a signed revocation: what quarantine.Checks asks for.
func OpenRevocation(raw []byte, td spiffeid.TrustDomain, keys Keys) (quarantine.Revocation, error) {
	s, err := Open(raw, td, keys)
	if err != nil {
		return quarantine.Revocation{}, err
	}
	return s.Revocation()
}

// Compare orders objects of one kind and name by who prevails: (level, version,
// HLC, origin, digest). It returns +1 when a does.
func Compare(a, b Signed) int {
	return cmp.Or(
		cmp.Compare(a.Level, b.Level),
		cmp.Compare(a.Version, b.Version),
		cmp.Compare(a.HLC, b.HLC),
		strings.Compare(a.Origin.String(), b.Origin.String()),
		bytes.Compare(a.Digest[:], b.Digest[:]),
	)
}
