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
	KindAttestation = "attestation" // what proves the state of its machine
	KindAuthority   = "authority"   // statements an authority signed
	KindSummary     = "summary"     // a region's summary, by a gateway
)

// MaxValue is the largest value of any kind, in bytes.
const MaxValue = 15 << 10

// ErrSchema means a value is not what its kind allows, or the kind is unknown.
var ErrSchema = errors.New("value does not fit its kind")

// Schema checks a value of a kind. It must be pure: every node has to come to
// the same answer.
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
		KindAttestation: sized(MaxValue),
		KindAuthority:   sized(MaxValue),
		KindSummary:     sized(MaxValue),
		KindEvidence:    evidenceSchema,
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

// check applies the schema of an op's kind. Errors wrap ErrSchema.
func (k Kinds) check(key Key, op Op) error {
	schema, known := k[key.Kind]
	if !known {
		if !strings.HasPrefix(key.Kind, "x-") || len(key.Kind) == len("x-") {
			return fmt.Errorf("%w: %s: unknown kind %q (operators' own kinds start with x-)", ErrSchema, key, key.Kind)
		}
		schema = sized(MaxValue)
	}
	if op.Action == Del {
		return nil
	}
	if err := schema(key.Name, op.Value); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrSchema, key, err)
	}
	return nil
}

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

// EvidenceName returns the name of the evidence key for a finding's digest.
func EvidenceName(digest [32]byte) string { return hex.EncodeToString(digest[:]) }
