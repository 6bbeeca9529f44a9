package workbench

import (
	"context"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Excess is what a level allows and may not: the engine gives such an allow no weight, so that its
// author is told here instead of wondering.
type Excess struct {
	Level string      `json:"level"`
	Kind  policy.Kind `json:"kind"`
	*policy.Rule
	// Never says that no allow of the rule counts: its kind is not delegated. Otherwise some do, and
	// Example is one that does not.
	Never   bool          `json:"never"`
	Example *policy.Input `json:"example,omitempty"`
}

// Law finds the allows of lower levels that lie outside their delegations: by kind, by the inputs
// that are given, and by the same inputs moved to a region and a service that the level was not
// given. It finds no excess that only an input shows which is not among them.
func (t *Tree) Law(ctx context.Context, inputs []policy.Input) ([]Excess, error) {
	engine, err := t.Engine()
	if err != nil {
		return nil, err
	}
	var out []Excess
	for _, l := range t.Written() {
		if l.Delegation.All {
			continue
		}
		known := map[string]bool{}
		add := func(e Excess) {
			if key := string(e.Kind) + "/" + e.ID; !known[key] {
				known[key] = true
				out = append(out, e)
			}
		}
		for _, kind := range policy.Kinds {
			if slices.Contains(l.Delegation.Kinds, kind) {
				continue
			}
			for _, r := range engine.Rules(kind) {
				if r.Level == l.Name && !r.Denies {
					add(Excess{Level: l.Name, Kind: kind, Rule: r.Rule, Never: true})
				}
			}
		}
		for _, in := range inputs {
			for _, in := range append(moved(in, l.Delegation), in) {
				if l.Delegation.Covers(&in) {
					continue
				}
				for _, v := range engine.Decide(ctx, in).Verdicts {
					if v.Level != l.Name || v.Outcome != policy.Allowed {
						continue
					}
					for _, r := range v.Rules {
						add(Excess{Level: l.Name, Kind: in.Kind, Rule: r, Example: &in})
					}
				}
			}
		}
	}
	return out, ctx.Err()
}

// elsewhere is a region, and part of a name, that no delegation gives.
const elsewhere = "elsewhere"

// moved are variants of an input outside a delegation.
func moved(in policy.Input, d policy.Delegation) (out []policy.Input) {
	if in.Service != nil {
		there := in
		s := *in.Service
		s.Region = elsewhere
		there.Service = &s
		out = append(out, there)
		if len(d.Services) > 0 {
			other := in
			s := *in.Service
			s.Name = elsewhere + "-" + s.Name
			other.Service = &s
			out = append(out, other)
		}
	}
	if in.Self != nil {
		there := in
		self := *in.Self
		self.Region = elsewhere
		there.Self = &self
		out = append(out, there)
	}
	return out
}
