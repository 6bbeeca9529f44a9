package governing

import (
	"maps"
	"slices"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// Reverted is for when the engine went back from one generation to another by itself, and why: it has what is said to be in force be what is, and records that the engine went back. Errors are
// the store's: it has happened all the same.
func (p *Policies) Reverted(from, to, why string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := decision.Change{Why: decision.Reverted, Detail: why, From: from, To: to}
	for _, v := range p.generations[recordsOf(to)] {
		if before := versionIn(p.generations[recordsOf(from)], v.Record.Level); before == nil || before.Name != v.Name {
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
func (p *Policies) follow() {
	if all := p.generations[recordsOf(p.engine.Revision())]; all != nil {
		p.active.Store(&all)
	}
}

// remember keeps the records of a generation for as long as the engine may enforce it. p.mu is held.
func (p *Policies) remember(all []*bundle.Verified, revision string) {
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
