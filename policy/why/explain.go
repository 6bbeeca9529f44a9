package why

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// Engine is what explains: a policy.Engine, best the Aside of one.
type Engine interface {
	Decide(ctx context.Context, in policy.Input) policy.Decision
	Trace(ctx context.Context, in policy.Input) ([]policy.RuleTrace, error)
	Vocabulary(kind policy.Kind) []policy.Word
	Revision() string
}

// Explanation is what a policy makes of a recorded decision.
type Explanation struct {
	Revision string `json:"revision"` // of the policy that explains
	// Same: it is the one that decided. Otherwise what follows is about the policy that explains,
	// whose answer is Allow and Rule.
	Same  bool   `json:"same_policy"`
	Allow bool   `json:"allow"`
	Level string `json:"level,omitempty"`
	Rule  string `json:"rule"`
	// Held are the rules that held. Near are allow rules that did not, the nearest first, where the
	// answer is no; Others is how many more there are.
	Held   []policy.RuleTrace `json:"held"`
	Near   []policy.RuleTrace `json:"near"`
	Others int                `json:"others"`
	Flip   Flip               `json:"flip"`
}

// maxNear is how many rules that did not hold are shown.
const maxNear = 4

// ErrUnexplained means that there is nothing to ask again: the node refused by itself, or masking
// rules took a part of the input. The message says which.
var ErrUnexplained = errors.New("the decision cannot be explained by a policy")

// Explain asks engine again. Errors wrap ErrUnexplained or policy.ErrInput, or are ctx's.
func Explain(ctx context.Context, engine Engine, e decision.Event) (Explanation, error) {
	switch {
	case len(e.Result.Verdicts) == 0:
		return Explanation{}, fmt.Errorf("%w: the node refused by itself, before any policy was asked", ErrUnexplained)
	case len(e.Input) == 0:
		return Explanation{}, fmt.Errorf("%w: it was recorded without its input", ErrUnexplained)
	case !e.Replayable():
		return Explanation{}, fmt.Errorf("%w: masking rules changed its input: %v", ErrUnexplained, append(slices.Clone(e.Erased), e.Masked...))
	}
	in, err := policy.ParseInput(e.Input)
	if err != nil {
		return Explanation{}, err
	}
	now := engine.Decide(ctx, in)
	x := Explanation{
		Revision: engine.Revision(), Same: engine.Revision() == e.Result.Revision, Allow: now.Allow, Level: now.Level, Rule: now.Rule,
		Held: []policy.RuleTrace{}, Near: []policy.RuleTrace{},
	}
	traces, err := engine.Trace(ctx, in)
	if err != nil && traces == nil {
		return Explanation{}, err
	}
	for _, t := range traces {
		if t.Held {
			x.Held = append(x.Held, t)
		} else if !t.Denies && !now.Allow {
			x.Near = append(x.Near, t)
		}
	}
	slices.SortStableFunc(x.Near, func(a, b policy.RuleTrace) int { return cmp.Compare(distance(a), distance(b)) })
	if more := len(x.Near) - maxNear; more > 0 {
		x.Near, x.Others = x.Near[:maxNear], more
	}
	x.Flip, err = search(ctx, engine, in, now, hints(x))
	return x, err
}

// distance orders rules that did not hold: fewer open conditions first, then more that held.
func distance(t policy.RuleTrace) int {
	const many = 1000
	return (t.Left+1)*many - len(t.Conditions)
}

// hints are the parts of the input on which the nearest rules hang, the most likely first.
func hints(x Explanation) (out []string) {
	add := func(cs ...policy.Condition) {
		for _, c := range cs {
			for _, f := range c.Facts {
				out = append(out, f.Path)
			}
			for _, w := range c.Within {
				for _, f := range w.Facts {
					out = append(out, f.Path)
				}
			}
		}
	}
	for _, t := range x.Held {
		if t.Denies {
			add(t.Conditions...)
		}
	}
	for _, t := range x.Near {
		if f := t.Failed(); f != nil {
			add(*f)
		}
	}
	if x.Allow {
		for _, t := range x.Held {
			add(t.Conditions...)
		}
	}
	return out
}
