package app

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// revert is what the engine says when it goes back to an older generation.
type revert struct{ from, to, why string }

// maxReverts wait to be acted on. Each needs a policy that was taken over before it.
const maxReverts = 16

// policyReverted is called from within a decision, which must not wait.
func (a *App) policyReverted(from, to, why string) {
	select {
	case a.reverts <- revert{from, to, why}:
	default:
		a.log.Error("a policy failed for most callers: the one before it is back", "reverted", from, "revision", to, "why", why)
	}
}

// reverting does after the engine went back what follows every change of policy, until ctx ends.
func (a *App) reverting(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-a.reverts:
			a.log.Error("a policy failed for most callers: the one before it is back", "reverted", r.from, "revision", r.to, "why", r.why)
			if err := a.policies.reverted(r); err != nil { // it protects, so it comes first
				a.log.Error("that a policy was reverted is not recorded", "err", err)
				a.trail.gap(1, fmt.Sprintf("policy %s was reverted to %s: %v", r.from, r.to, err))
			}
			told := "the engine went back: " + r.why
			a.rolling.reverted.Store(&told)
			a.policyTaken(r.from)
		}
	}
}

// reverted has what is said to be in force be what is, and records that the engine went back. Errors are
// the store's: it has happened all the same.
func (p *policies) reverted(r revert) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := decision.Change{Why: decision.Reverted, Detail: r.why, From: r.from, To: r.to}
	for _, v := range p.generations[recordsOf(r.to)] {
		if before := versionIn(p.generations[recordsOf(r.from)], v.Record.Level); before == nil || before.Name != v.Name {
			c.Records = append(c.Records, changedRecord(v, before))
		}
	}
	p.follow()
	return p.st.Update(func(tx *store.Tx) error { return p.change(tx, c) })
}

// versionIn is the record of a level, or nil.
func versionIn(all []*bundle.Verified, level string) *bundle.Verified {
	if i := slices.IndexFunc(all, func(v *bundle.Verified) bool { return v.Record.Level == level }); i >= 0 {
		return all[i]
	}
	return nil
}

// follow is for the time after the engine went back by itself: the records of the generation that it
// enforces are those in force. p.mu is held.
func (p *policies) follow() {
	if all := p.generations[recordsOf(p.engine.Revision())]; all != nil {
		p.active.Store(&all)
	}
}

// remember keeps the records of a generation for as long as the engine may enforce it. p.mu is held.
func (p *policies) remember(all []*bundle.Verified, revision string) {
	p.generations[recordsOf(revision)] = all
	before, now := recordsOf(p.engine.Before()), recordsOf(p.engine.Revision()) // in this order: it may go back in between
	maps.DeleteFunc(p.generations, func(name string, _ []*bundle.Verified) bool { return name != before && name != now })
}

// recordsOf is the part of a generation's name that says of which records it is made
// (policy.Engine.Revision): it has no stale modes.
func recordsOf(records string) string {
	for _, mode := range []string{policy.Freeze, policy.DenyNew} {
		records = strings.ReplaceAll(records, "~"+mode, "")
	}
	return records
}
