package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
)

// Difference is something on which the trails of two nodes do not agree. Nil: that side has
// nothing about it.
type Difference struct {
	About string     `json:"about"` // what is different, in words
	A     *fact.Fact `json:"a,omitempty"`
	B     *fact.Fact `json:"b,omitempty"`
}

// Diff compares what two nodes' trails say of the same things: the standing of each identity,
// the policy in force, trust records, and the newest record of each origin that both tell of. What
// each node alone did is no difference. It compares the newest word on each; one that is on its
// way shows until it has arrived.
func Diff(ctx context.Context, a, b string) (out []Difference, err error) {
	left, err := newest(ctx, a)
	if err != nil {
		return nil, err
	}
	right, err := newest(ctx, b)
	if err != nil {
		return nil, err
	}
	subjects := map[string]bool{}
	for k := range left {
		subjects[k] = true
	}
	for k := range right {
		subjects[k] = true
	}
	for _, k := range slices.Sorted(maps.Keys(subjects)) {
		x, y := left[k], right[k]
		if x != nil && y != nil && said(*x) == said(*y) {
			continue
		}
		if (x == nil || y == nil) && strings.HasPrefix(k, "record of ") {
			continue // a node's own records are state.out there, and not every node takes every scope
		}
		out = append(out, Difference{k, x, y})
	}
	return out, nil
}

// newest is the last word of a trail on each thing that nodes may differ about.
func newest(ctx context.Context, dir string) (map[string]*fact.Fact, error) {
	all, err := Scan(ctx, []string{dir}, Filter{})
	if err != nil {
		return nil, err
	}
	out := map[string]*fact.Fact{}
	for i := range all {
		if k := thing(all[i]); k != "" {
			out[k] = &all[i]
		}
	}
	return out, nil
}

func thing(f fact.Fact) string {
	switch f.Kind {
	case trail.PeerStanding.Name():
		return "standing of " + f.Field("id")
	case trail.PeerFinding.Name():
		return fmt.Sprintf("proof %s against %s", fact.Short(f.Field("digest")), f.Field("accused"))
	case trail.PolicyActivate.Name():
		if f.Field("revision") != "" {
			return "policy generation in force"
		}
		return fmt.Sprintf("%s policy of %s", f.Field("level"), f.Field("scope"))
	case trail.IdentityTrust.Name():
		return "trust record of " + f.Field("trust_domain")
	case trail.StateIn.Name():
		return fmt.Sprintf("record of %s in epoch %s, number %s", f.Field("origin"), f.Field("epoch"), f.Field("last"))
	}
	return ""
}

// said is the part of a fact that two nodes must agree on.
func said(f fact.Fact) string {
	switch f.Kind {
	case trail.PeerStanding.Name():
		return f.Field("to")
	case trail.PeerFinding.Name():
		return f.Field("class")
	case trail.PolicyActivate.Name():
		return f.Field("revision") + f.Field("version") + f.Field("content")
	case trail.IdentityTrust.Name():
		return f.Field("version")
	}
	return f.Field("record")
}
