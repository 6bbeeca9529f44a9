package bundle

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
)

var (
	recordType     = statement.Type{Name: "policy", Version: 1}
	delegationType = statement.Type{Name: "delegation", Version: 1}
)

// Errors of Verify, Sign and Certify.
var (
	// ErrMalformed: the bytes are no policy record, or a field is outside its bounds.
	ErrMalformed = errors.New("malformed policy record")
	// ErrSignature: no key that may speak for the level and scope signed it.
	ErrSignature = errors.New("policy record is not signed by the key of its level")
	// ErrDelegation: a delegation is missing, is for another scope, or reaches beyond its parent.
	ErrDelegation = errors.New("policy key is not delegated")
	// ErrExpired: the record or a delegation is not valid now. Publish a new one, or check the clock.
	ErrExpired = errors.New("policy record is not valid now")
	// ErrDigest: the content is not the one the record names. Fetch it again, from another peer.
	ErrDigest = errors.New("policy content does not match its record")
	// ErrFeature: the record requires what this version does not have. Upgrade the node; until
	// then it keeps the policy in force.
	ErrFeature = errors.New("policy record requires a feature this node does not have")
)

// Features are what records may require of this version.
var Features = []string{"rego-v2", "input-1", "grants-1", "schemas-1", FeatureRollout}

// FeatureRollout is required by records with a Rollout, and by no others: a node that does not know
// it would put them in force at once.
const FeatureRollout = "rollout-1"

// ScopeMesh is the scope of the global level.
const ScopeMesh = "mesh"

// Modes of a record.
const (
	Enforce = "enforce"
	Shadow  = "shadow" // evaluated and compared, never enforced
)

// What a node does once a level has had no news for longer than MaxStaleness.
const (
	StaleContinue = "continue" // go on, and say so
	StaleFreeze   = policy.Freeze
	StaleDenyNew  = policy.DenyNew
)

// MaxDelegation is the longest a delegation may last.
const MaxDelegation = 366 * 24 * time.Hour

// Record is what an author says of one version of one scope's policy. Times are Unix seconds.
type Record struct {
	Level        string   `cbor:"1,keyasint"` // policy.Global, Regional or Local
	Scope        string   `cbor:"2,keyasint"` // see the package doc
	Version      uint64   `cbor:"3,keyasint"` // from 1
	Digest       [32]byte `cbor:"4,keyasint"` // SHA-256 of the content; set by Sign
	Size         uint64   `cbor:"5,keyasint"` // of the content; set by Sign
	Parent       Parent   `cbor:"6,keyasint"` // what it was written against
	Mode         string   `cbor:"7,keyasint"` // Enforce or Shadow
	Requires     []string `cbor:"8,keyasint,omitempty"`
	NotBefore    int64    `cbor:"9,keyasint"`
	NotAfter     int64    `cbor:"10,keyasint"`
	MaxStaleness int64    `cbor:"11,keyasint,omitempty"` // seconds; zero means no bound
	StaleMode    string   `cbor:"12,keyasint"`
	Author       string   `cbor:"13,keyasint"`           // SPIFFE ID
	Change       string   `cbor:"14,keyasint,omitempty"` // why, or a ticket; at most 1 KiB
	// Delegations lead from a global key to the key that signs, outermost first.
	Delegations [][]byte `cbor:"15,keyasint,omitempty"`
	// Chunks is ChunksDigest of the content, by which it is fetched piece by piece; set by Sign.
	// It is zero in records of before, which travel as files only.
	Chunks [32]byte `cbor:"16,keyasint,omitzero"`
	// Rollout has nodes put the record in force ring by ring; nil: each at once. It requires the
	// feature "rollout-1".
	Rollout *rollout.Plan `cbor:"17,keyasint,omitempty"`
}

// Parent is the version of the level above that an author had in view; empty for the global level.
type Parent struct {
	Scope   string `cbor:"1,keyasint,omitempty"`
	Version uint64 `cbor:"2,keyasint,omitempty"`
}

// Delegation says that a key may sign policy for a level and scope, and its ceiling.
type Delegation struct {
	Level     string        `cbor:"1,keyasint"` // Regional or Local
	Scope     string        `cbor:"2,keyasint"`
	Key       []byte        `cbor:"3,keyasint"` // P-256, PKIX DER
	NotBefore int64         `cbor:"4,keyasint"`
	NotAfter  int64         `cbor:"5,keyasint"`
	Kinds     []policy.Kind `cbor:"6,keyasint,omitempty"` // as in policy.Delegation
	Regions   []string      `cbor:"7,keyasint,omitempty"`
	Services  []string      `cbor:"8,keyasint,omitempty"`
	// Floor is the least version the key may sign. It also is where jumps are measured from, so
	// that the level above can let a scope pass over a gap.
	Floor uint64 `cbor:"9,keyasint,omitempty"`
}

// Certify signs a delegation with the key of the level above.
func Certify(parent crypto.Signer, d Delegation) ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	payload, err := statement.Marshal(d)
	if err != nil {
		return nil, err
	}
	return statement.Sign(parent, delegationType, domainOf(d.Scope), payload)
}

// Sign completes a record with the digest of its content and signs it with the level's key.
func Sign(key crypto.Signer, r Record, content []byte) ([]byte, error) {
	if _, err := Unpack(content); err != nil {
		return nil, err
	}
	r.Digest, r.Size = statement.Digest(content), uint64(len(content))
	r.Chunks = ChunksDigest(ChunkList(content))
	if err := r.check(); err != nil {
		return nil, err
	}
	payload, err := statement.Marshal(r)
	if err != nil {
		return nil, err
	}
	return statement.Sign(key, recordType, domainOf(r.Scope), payload)
}

// String names the record for people: its level, scope and version.
func (r *Record) String() string {
	return fmt.Sprintf("%s %s version %d", r.Level, r.Scope, r.Version)
}

// domainOf is the trust domain a scope lies in.
func domainOf(scope string) string {
	if scope == ScopeMesh {
		return ""
	}
	td, _, _ := strings.Cut(scope, "/")
	return td
}

// checkScope ties the form of a scope to its level.
func checkScope(level, scope string) error {
	bad := fmt.Errorf("%w: scope %q does not fit level %q", ErrMalformed, scope, level)
	if len(scope) > 512 {
		return bad
	}
	td, below, isBelow := strings.Cut(scope, "/")
	if _, err := spiffeid.TrustDomainFromString(td); err != nil || td != strings.ToLower(td) {
		return bad
	}
	switch level {
	case policy.Global:
		if scope == ScopeMesh {
			return nil
		}
	case policy.Regional:
		if !isBelow && scope != ScopeMesh {
			return nil
		}
	case policy.Local:
		if isBelow && spiffeid.ValidatePath("/"+below) == nil {
			return nil
		}
	}
	return bad
}

func (r *Record) check() error {
	bad := func(field string, v any) error { return fmt.Errorf("%w: %s is %v", ErrMalformed, field, v) }
	if err := checkScope(r.Level, r.Scope); err != nil {
		return err
	}
	depth := map[string]int{policy.Global: 0, policy.Regional: 1, policy.Local: 2}
	switch {
	case r.Version == 0:
		return bad("version", 0)
	case r.Size > MaxContent:
		return bad("size", r.Size)
	case r.Mode != Enforce && r.Mode != Shadow:
		return bad("mode", r.Mode)
	case r.StaleMode != StaleContinue && r.StaleMode != StaleFreeze && r.StaleMode != StaleDenyNew:
		return bad("stale mode", r.StaleMode)
	case r.NotBefore <= 0 || r.NotAfter <= r.NotBefore:
		return bad("validity", fmt.Sprint(r.NotBefore, "-", r.NotAfter))
	case r.MaxStaleness < 0:
		return bad("max staleness", r.MaxStaleness)
	case len(r.Requires) > 32 || len(r.Change) > 1<<10 || len(r.Parent.Scope) > 512:
		return bad("length", "too long")
	case len(r.Delegations) != depth[r.Level]:
		return fmt.Errorf("%w: a %s record carries %d delegations, want %d", ErrDelegation, r.Level, len(r.Delegations), depth[r.Level])
	}
	if _, err := spiffeid.FromString(r.Author); err != nil {
		return bad("author", r.Author)
	}
	if r.Rollout != nil {
		if !slices.Contains(r.Requires, FeatureRollout) {
			return fmt.Errorf("%w: a record with a rollout must require %q", ErrMalformed, FeatureRollout)
		}
		if err := r.Rollout.Check(); err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	return nil
}

func (d *Delegation) check() error {
	if err := checkScope(d.Level, d.Scope); err != nil {
		return err
	}
	if d.Level == policy.Global {
		return fmt.Errorf("%w: nobody delegates the global level", ErrDelegation)
	}
	if d.NotBefore <= 0 || d.NotAfter <= d.NotBefore || d.NotAfter-d.NotBefore > int64(MaxDelegation/time.Second) {
		return fmt.Errorf("%w: a delegation lasts from %d to %d, at most %v", ErrMalformed, d.NotBefore, d.NotAfter, MaxDelegation)
	}
	if len(d.Kinds) > 16 || len(d.Regions) > 64 || len(d.Services) > 256 {
		return fmt.Errorf("%w: a delegation lists too much", ErrMalformed)
	}
	_, err := d.key()
	return err
}

func (d *Delegation) key() (*ecdsa.PublicKey, error) {
	k, err := x509.ParsePKIXPublicKey(d.Key)
	pub, ok := k.(*ecdsa.PublicKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%w: the key of a delegation is not P-256 in PKIX form", ErrMalformed)
	}
	return pub, nil
}

// Covers is the ceiling in the form of package policy.
func (d *Delegation) Covers() policy.Delegation {
	return policy.Delegation{Kinds: d.Kinds, Regions: d.Regions, Services: d.Services}
}

// Within refuses a ceiling that reaches beyond its parent's. Errors wrap ErrDelegation.
func (d *Delegation) Within(parent *Delegation) error {
	for _, k := range d.Kinds {
		if !slices.Contains(parent.Kinds, k) {
			return fmt.Errorf("%w: kind %s is beyond the ceiling of %s", ErrDelegation, k, parent.Scope)
		}
	}
	for _, r := range d.Regions {
		if !slices.Contains(parent.Regions, r) {
			return fmt.Errorf("%w: region %s is beyond the ceiling of %s", ErrDelegation, r, parent.Scope)
		}
	}
	if len(parent.Services) == 0 {
		return nil
	}
	if len(d.Services) == 0 {
		return fmt.Errorf("%w: all services are beyond the ceiling of %s", ErrDelegation, parent.Scope)
	}
	for _, s := range d.Services {
		if !slices.ContainsFunc(parent.Services, func(p string) bool { return p == s || patternCovers(p, s) }) {
			return fmt.Errorf("%w: service %s is beyond the ceiling of %s", ErrDelegation, s, parent.Scope)
		}
	}
	return nil
}

// patternCovers reports whether every name that s stands for, p stands for too.
func patternCovers(p, s string) bool {
	prefix, ok := strings.CutSuffix(p, "*")
	return ok && strings.HasPrefix(strings.TrimSuffix(s, "*"), prefix)
}
