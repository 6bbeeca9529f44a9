package feed

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
)

// Kinds of keys every node knows.
const (
	KindNode        = "node"        // the node itself: endpoints, region
	KindService     = "service"     // a service it offers
	KindWorkload    = "workload"    // a workload it runs
	KindEvidence    = "evidence"    // a proof against someone, named by the finding's digest
	KindAccusation  = "accusation"  // its word against another, where nothing proves it
	KindAttestation = "attestation" // what proves the state of its machine
	KindAuthority   = "authority"   // statements an authority signed
	KindSummary     = "summary"     // a region's summary, by a gateway
	KindCover       = "cover"       // a feed's head in a checkpoint, named by CoverName
	KindPolicy      = "policy"      // a signed policy record, carried; its content is fetched
	KindGeneration  = "generation"  // the policy that is in force on the node
	KindTrail       = "trail"       // the keys of its trail and of it as a witness; proofs that a trail was forked
)

// MaxValue is the largest value of any kind, in bytes.
const MaxValue = 15 << 10

// ErrSchema means a value is not what its kind allows, or the kind is unknown.
var ErrSchema = errors.New("value does not fit its kind")

// Schema checks a value of a kind. It must be pure: every node of a version has to
// come to the same answer.
type Schema func(name string, value []byte) error

// Kinds is the registry of kinds. The zero value knows none but x-<name>.
type Kinds map[string]Schema

// DefaultKinds returns the kinds of this package. Those whose content another
// package knows are only bounded in size; give them their schema with With.
func DefaultKinds() Kinds {
	return Kinds{
		KindNode:        sized(4 << 10),
		KindService:     sized(4 << 10),
		KindWorkload:    sized(4 << 10),
		KindAccusation:  sized(1 << 10),
		KindAttestation: sized(MaxValue),
		KindAuthority:   sized(MaxValue),
		KindSummary:     sized(MaxValue),
		KindPolicy:      sized(MaxValue),
		KindGeneration:  sized(4 << 10),
		KindTrail:       sized(MaxValue),
		KindEvidence:    evidenceSchema,
		KindCover:       coverSchema,
	}
}

// With returns a copy of the registry in which kind has this schema.
func (k Kinds) With(kind string, s Schema) Kinds {
	out := maps.Clone(k)
	if out == nil {
		out = Kinds{}
	}
	out[kind] = s
	return out
}

// Check applies the schema of an op's kind. The op's key must be one that ParseKey
// takes, as in every record that was read. Errors wrap ErrSchema.
func (k Kinds) Check(op Op) error {
	key, _ := splitKey(op.Key)
	schema, known := k[key.Kind]
	if !known {
		if !strings.HasPrefix(key.Kind, "x-") || len(key.Kind) == len("x-") {
			return fmt.Errorf("%w: %s: unknown kind %q (operators' own kinds start with x-)", ErrSchema, key, key.Kind)
		}
		schema = ownKind
	}
	if op.Action == Del {
		return nil
	}
	if err := schema(key.Name, op.Value); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrSchema, key, err)
	}
	return nil
}

// ownKind is the schema of operators' own kinds.
var ownKind = sized(MaxValue)

func sized(limit int) Schema {
	return func(_ string, value []byte) error {
		if len(value) > limit {
			return fmt.Errorf("%d bytes, at most %d", len(value), limit)
		}
		return nil
	}
}

// evidenceSchema wants a well-formed proof under its own digest. Whether it
// convicts needs keys: VerifyProof says.
func evidenceSchema(name string, value []byte) error {
	p, err := parseProof(value)
	if err != nil {
		return err
	}
	if !p.namedBy(name) {
		return fmt.Errorf("evidence named %q is not named by its digest in hex", name)
	}
	return nil
}

// IsAuthority reports whether values of a kind are statements that an authority signed, whoever
// carries them.
func IsAuthority(kind string) bool { return kind == KindAuthority || kind == KindPolicy }

// EvidenceName returns the name of the evidence key for a finding's digest.
func EvidenceName(digest [32]byte) string { return hex.EncodeToString(digest[:]) }
