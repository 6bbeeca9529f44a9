package audit

import (
	"context"
	"strconv"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// chain finds, in one trail, the leaves that stand behind a decision: those by which the policy came into
// force, and that of the segment it is in. Each is looked for once; the first error stays.
type chain struct {
	ctx  context.Context
	find Finder
	dir  string

	err              error
	segments, active []fact.Fact // all of them, oldest first; nil: not looked for yet
}

func (c *chain) all(known *[]fact.Fact, kind trail.Kind) []fact.Fact {
	if *known == nil && c.err == nil {
		var some []fact.Fact
		some, c.err = c.find(c.ctx, []string{c.dir}, Filter{Kinds: []string{kind.Name()}})
		*known = append([]fact.Fact{}, some...) // not nil
	}
	return *known
}

// revisionAt is the generation in force at a time; empty: none was.
func (c *chain) revisionAt(at time.Time) (revision string) {
	for _, f := range c.all(&c.active, trail.PolicyActivate) {
		if r := f.Field("revision"); r != "" && !f.At.After(at) {
			revision = r
		}
	}
	return revision
}

// inForceAt are the leaves by which a generation came into force.
func (c *chain) inForceAt(revision string, at time.Time) (out []Place) {
	for _, f := range c.all(&c.active, trail.PolicyActivate) {
		if f.Field("revision") == revision && !f.At.After(at) {
			out = []Place{place(f)} // the newest
		}
	}
	return out
}

// segmentOf is the leaf of the segment that an event is in; nil while it is in none.
func (c *chain) segmentOf(e decision.Event) *fact.Fact {
	for i, f := range c.all(&c.segments, trail.Segment) {
		first, ferr := strconv.ParseUint(f.Field("first"), 10, 64)
		last, lerr := strconv.ParseUint(f.Field("last"), 10, 64)
		if ferr == nil && lerr == nil && first <= e.RequestID && e.RequestID <= last {
			return &c.segments[i]
		}
	}
	return nil
}
