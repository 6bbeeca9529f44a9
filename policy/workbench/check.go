package workbench

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// Checked is what Check found in a tree that compiles.
type Checked struct {
	Levels  []policy.Profile
	Costs   map[string][]policy.Cost // by level: what the inputs of its tests, and the largest, take
	Excess  []Excess                 // allows outside their delegations
	Layouts []Layout                 // modules that Format would change
}

// Review is policy.Review for a level, with its data as it is written.
func Review(l Level) error {
	data, err := bounded.ReadFile(filepath.Join(l.Dir, policy.DataFile), bundle.MaxContent)
	if err != nil {
		data = nil // there is none, or it is in a signed file
	}
	return policy.Review(l.Level, data)
}

// Check reports every mistake that would make a node refuse the levels of a tree, what has no
// effect in them, and what is wrong with the tree's own inputs. Where there are none it tells what the levels consist of, and what of their allows lies outside their
// delegations, by the inputs of the tree and of its tests.
func (t *Tree) Check(ctx context.Context) (out Checked, err error) {
	errs := []error{t.inputMistakes()}
	for _, l := range t.Written() {
		if err := policy.Check(l.Level); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := Review(l); err != nil {
			errs = append(errs, err)
			continue
		}
		p, err := policy.Describe(l.Level)
		if err != nil {
			return out, err
		}
		if out.Costs == nil {
			out.Costs = map[string][]policy.Cost{}
		}
		if out.Costs[l.Name], err = policy.Costs(l.Level); err != nil {
			return out, err
		}
		out.Levels = append(out.Levels, p)
	}
	if err := errors.Join(errs...); err != nil {
		return out, err
	}
	inputs, err := t.Questions(ctx)
	if err != nil {
		return out, err
	}
	if out.Layouts, err = t.Format(); err != nil {
		return out, err
	}
	out.Excess, err = t.Law(ctx, inputs)
	return out, err
}
