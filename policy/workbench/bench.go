package workbench

import (
	"context"
	"runtime"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Measured is how long a tree takes for the questions of one kind, on this machine and one core.
type Measured struct {
	Kind        policy.Kind   `json:"kind"`
	Questions   int           `json:"questions"` // different ones
	Decisions   int           `json:"decisions"` // made while measuring
	Each        time.Duration `json:"ns_per_decision"`
	PerSecond   float64       `json:"decisions_per_second"`
	Allocations float64       `json:"allocations_per_decision"`
	Bytes       float64       `json:"bytes_per_decision"`
	// Recalled is for a decision that is remembered, as on a node that answers the same question
	// again; zero where the policy makes that impossible.
	Recalled time.Duration `json:"ns_per_recall"`
}

// Bench measures a tree on questions, each kind for about so long with nothing remembered, and then
// a tenth of it with. Whatever else the machine does is in the numbers: compare two trees in one
// run of each, and repeat.
func (t *Tree) Bench(ctx context.Context, questions []policy.Input, each time.Duration) (out []Measured, err error) {
	fresh, err := t.engine(policy.Config{Cache: -1})
	if err != nil {
		return nil, err
	}
	remembering, err := t.engine(policy.Config{Cache: max(1, len(questions))})
	if err != nil {
		return nil, err
	}
	for _, kind := range policy.Kinds {
		var asked []policy.Input
		for _, in := range questions {
			if in.Kind == kind {
				asked = append(asked, in)
			}
		}
		if len(asked) == 0 {
			continue
		}
		m := measure(ctx, fresh, asked, each)
		m.Kind, m.Questions = kind, len(asked)
		m.Recalled = recall(ctx, remembering, asked, each/10)
		out = append(out, m)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func measure(ctx context.Context, e *policy.Engine, asked []policy.Input, during time.Duration) (m Measured) {
	for _, in := range asked { // what is done once is not measured
		e.Decide(ctx, in)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	for time.Since(start) < during && ctx.Err() == nil {
		for _, in := range asked {
			e.Decide(ctx, in)
		}
		m.Decisions += len(asked)
	}
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	n := float64(max(1, m.Decisions))
	m.Each = time.Duration(float64(took) / n)
	m.PerSecond = n / took.Seconds()
	m.Allocations, m.Bytes = float64(after.Mallocs-before.Mallocs)/n, float64(after.TotalAlloc-before.TotalAlloc)/n
	return m
}

// recall is how long a remembered answer takes.
func recall(ctx context.Context, e *policy.Engine, asked []policy.Input, during time.Duration) time.Duration {
	for _, in := range asked {
		e.Decide(ctx, in)
		if e.Recall(in) == nil {
			return 0
		}
	}
	n, start := 0, time.Now()
	for time.Since(start) < during && ctx.Err() == nil {
		for range 100 {
			for _, in := range asked {
				e.Recall(in)
			}
		}
		n += 100 * len(asked)
	}
	return time.Since(start) / time.Duration(max(1, n))
}

// Questions are what a tree can be measured and checked with: its own inputs and those that its
// tests ask with.
func (t *Tree) Questions(ctx context.Context) (out []policy.Input, err error) {
	for q, err := range t.Inputs() {
		if err != nil {
			return nil, err
		}
		out = append(out, q.Input)
	}
	for _, l := range t.Written() {
		rep, err := policy.Test(ctx, l.Level, policy.TestOptions{})
		if err != nil {
			return nil, err
		}
		out = append(out, rep.Inputs...)
	}
	return out, nil
}
