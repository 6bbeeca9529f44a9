package app

import (
	"context"
	"fmt"
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
			if err := a.policies.Reverted(r.from, r.to, r.why); err != nil { // it protects, so it comes first
				a.log.Error("that a policy was reverted is not recorded", "err", err)
				a.trail.gap(1, fmt.Sprintf("policy %s was reverted to %s: %v", r.from, r.to, err))
			}
			a.rolling.Reverted(r.why)
			a.policyTaken(r.from)
		}
	}
}
