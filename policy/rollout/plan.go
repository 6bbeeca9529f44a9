package rollout

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Bounds of a plan.
const (
	MaxRings     = 8
	maxSelectors = 64
	// MaxSoak is the longest soak time, in seconds.
	MaxSoak = int64(30 * 24 * time.Hour / time.Second)
)

// ErrPlan means that a plan is out of its bounds. The message names every field that is.
var ErrPlan = errors.New("not a valid rollout plan")

// Plan is how a version spreads over its scope. It is part of the signed record.
type Plan struct {
	Rings []Ring `cbor:"1,keyasint" json:"rings"`
	Soak  int64  `cbor:"2,keyasint" json:"soak_seconds"` // that each ring enforces before the next begins
	Limit Limits `cbor:"3,keyasint" json:"limits"`
}

// Ring is some nodes of a scope: those that one of its selectors fits, or all without selectors, and
// of those Percent. A node belongs to the first ring it fits.
type Ring struct {
	Name    string   `cbor:"1,keyasint" json:"name"`
	Zones   []string `cbor:"2,keyasint,omitempty" json:"zones,omitempty"`
	Nodes   []string `cbor:"3,keyasint,omitempty" json:"nodes,omitempty"`   // beginnings of SPIFFE paths, such as /node/canary-
	Classes []string `cbor:"4,keyasint,omitempty" json:"classes,omitempty"` // limits classes, such as gateway
	Percent uint8    `cbor:"5,keyasint,omitempty" json:"percent,omitempty"` // 1 to 100; zero means 100
}

// Limits say what stops a rollout. Zero fields have the defaults.
type Limits struct {
	// MinDecisions is how many different questions must have been compared before limits are looked
	// at: 20. Two are different by kind, source, target or deciding rule.
	MinDecisions uint64 `cbor:"1,keyasint,omitempty" json:"min_decisions,omitempty"`
	// DeniedPercent is how many of the sources of a kind of question the new version may deny what
	// the one before allows: 5. 100 means any number.
	DeniedPercent uint64 `cbor:"2,keyasint,omitempty" json:"denied_percent,omitempty"`
	// FailedPercent is for how many of them the new version may fail: 1.
	FailedPercent uint64 `cbor:"3,keyasint,omitempty" json:"failed_percent,omitempty"`
}

// The defaults of Limits.
const (
	defaultMinDecisions  = 20
	defaultDeniedPercent = 5
	defaultFailedPercent = 1
)

var ringName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Check reports every mistake in a plan; it wraps ErrPlan.
func (p *Plan) Check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrPlan}, args...)...))
	}
	if len(p.Rings) == 0 || len(p.Rings) > MaxRings {
		bad("rings has %d, want 1 to %d", len(p.Rings), MaxRings)
	}
	if p.Soak < 1 || p.Soak > MaxSoak {
		bad("soak_seconds is %d, want 1 to %d", p.Soak, MaxSoak)
	}
	if p.Limit.DeniedPercent > 100 || p.Limit.FailedPercent > 100 {
		bad("limits: denied_percent is %d and failed_percent %d, want 0 to 100", p.Limit.DeniedPercent, p.Limit.FailedPercent)
	}
	names := map[string]bool{}
	for i, r := range p.Rings {
		if !ringName.MatchString(r.Name) || names[r.Name] {
			bad("ring %d: name %q, want lower-case letters, digits and dashes, each name once", i+1, r.Name)
		}
		names[r.Name] = true
		if r.Percent > 100 {
			bad("ring %s: percent is %d, want 1 to 100", r.Name, r.Percent)
		}
		if len(r.Zones)+len(r.Nodes)+len(r.Classes) > maxSelectors {
			bad("ring %s: more than %d selectors", r.Name, maxSelectors)
		}
		for _, s := range slices.Concat(r.Zones, r.Nodes, r.Classes) {
			if s == "" || len(s) > 256 {
				bad("ring %s: selector %q is empty or too long", r.Name, s)
			}
		}
		for _, n := range r.Nodes {
			if !strings.HasPrefix(n, "/") {
				bad("ring %s: nodes: %q is no path: it begins with /", r.Name, n)
			}
		}
	}
	return errors.Join(errs...)
}

// Node is what tells a node's ring: signed facts.
type Node struct {
	ID    string // SPIFFE ID
	Path  string // of the ID
	Zone  string
	Class string // limits class
}

// Assign returns the number of the ring of each node of a scope, from 0; the number of rings for one
// that is in none and goes last. A percentage that draws none of the nodes that are left to its ring
// takes the one that comes closest: of a few nodes, too, one goes first.
func (p *Plan) Assign(version uint64, nodes []Node) []int {
	in := make([]int, len(nodes))
	for i := range in {
		in[i] = len(p.Rings)
	}
	for number, r := range p.Rings {
		drawn, closest, least := false, -1, uint64(0)
		for i, n := range nodes {
			if in[i] < number || !r.fits(n) {
				continue
			}
			if r.percent() == 100 {
				in[i], drawn = number, true
				continue
			}
			switch of := share(version, n.ID); {
			case of < r.percent():
				in[i], drawn = number, true
			case drawn:
			case closest < 0 || of < least || of == least && n.ID < nodes[closest].ID:
				closest, least = i, of
			}
		}
		if !drawn && closest >= 0 {
			in[closest] = number
		}
	}
	return in
}

// Name is the name of a ring by its number.
func (p *Plan) Name(ring int) string {
	if ring >= 0 && ring < len(p.Rings) {
		return p.Rings[ring].Name
	}
	return "all"
}

func (r Ring) percent() uint64 {
	if r.Percent == 0 {
		return 100
	}
	return uint64(r.Percent)
}

func (r Ring) fits(n Node) bool {
	if len(r.Zones)+len(r.Nodes)+len(r.Classes) == 0 {
		return true
	}
	return slices.Contains(r.Zones, n.Zone) || slices.Contains(r.Classes, n.Class) ||
		slices.ContainsFunc(r.Nodes, func(prefix string) bool { return strings.HasPrefix(n.Path, prefix) })
}

// share is a number below 100, which a node keeps for a version.
func share(version uint64, id string) uint64 {
	h := sha256.Sum256(append(binary.BigEndian.AppendUint64(make([]byte, 0, 128), version), id...))
	return binary.BigEndian.Uint64(h[:]) % 100
}
