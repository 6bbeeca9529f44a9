package policy

import (
	"context"
	"fmt"
	"time"
)

// MaxSteps is how much one level may do for one decision. A step is one expression of Rego that is
// tried, or the part of a function's work that costs about as much (see charge). It bounds an
// evaluation on every machine in the same way: one that needs more is the level's error, on the
// data path and in each replay, and the level is not activated where its own tests or the largest
// inputs show it.
const MaxSteps = 20_000

// meter counts the steps of one level's evaluation, by being what topdown asks before each whether
// it shall go on. It also looks at the clock and the caller now and then, for steps that are slow.
// It belongs to one goroutine.
type meter struct {
	ctx   context.Context
	until time.Time
	steps int
	limit int
	why   string // it stopped; empty while it goes on
	over  bool   // because the limit of steps was reached
}

func newMeter(ctx context.Context, deadline time.Duration) *meter {
	return &meter{ctx: ctx, until: time.Now().Add(deadline), limit: MaxSteps}
}

// again begins anew for another level; what stopped by the clock stays so.
func (m *meter) again() {
	m.steps = 0
	m.look()
}

// clockEvery is how many steps may pass without a look at the clock.
const clockEvery = 64

// Cancelled counts a step.
func (m *meter) Cancelled() bool {
	m.charge(1)
	return m.why != ""
}

// Cancel stops the evaluation.
func (m *meter) Cancel() { m.why = "it was cancelled" }

// charge counts work and reports whether there is enough left for it.
func (m *meter) charge(n int) bool {
	before := m.steps / clockEvery
	m.steps += n
	switch {
	case m.why != "":
	case m.steps > m.limit:
		m.over = true
		m.why = fmt.Sprintf("it takes more than %d steps", m.limit)
	case m.steps/clockEvery != before:
		m.look()
	}
	return m.why == ""
}

func (m *meter) look() {
	switch {
	case m.why != "":
	case m.ctx.Err() != nil:
		m.why = "the caller gave up"
	case time.Now().After(m.until):
		m.why = "the deadline passed"
	}
}
