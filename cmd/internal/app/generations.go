package app

import (
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/governing"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
	"github.com/bailiwick-mesh/bailiwick/policy/travel"
)

// policyKey is the name of the key of kind generation.
const policyKey = "policy"

const (
	maxReason   = 300 // bytes of why a record was refused
	maxRefusals = 4
	maxPhase    = 16
)

// generationRecord is the value of /<node>/generation/policy: the policy that is in force
// on a node, and what it refused.
type generationRecord struct {
	Revision string        `cbor:"1,keyasint"` // of the engine
	Levels   []levelWire   `cbor:"2,keyasint"`
	Refused  []refusalWire `cbor:"3,keyasint,omitempty"` // records that verified and are not in force
	Rollouts []rolloutWire `cbor:"4,keyasint,omitempty"` // how far the node is with staged records
}

type levelWire struct {
	Level   string  `cbor:"1,keyasint"`
	Scope   string  `cbor:"2,keyasint"`
	Version uint64  `cbor:"3,keyasint"`
	Name    [8]byte `cbor:"4,keyasint"` // of the record
	Stale   string  `cbor:"5,keyasint,omitempty"`
}

// rolloutWire is rollout.State of one record.
type rolloutWire struct {
	Name   [8]byte `cbor:"1,keyasint"` // of the record
	Phase  string  `cbor:"2,keyasint"`
	Since  int64   `cbor:"3,keyasint"` // Unix milliseconds
	Reason string  `cbor:"4,keyasint,omitempty"`
	Soaked bool    `cbor:"5,keyasint,omitempty"` // in force for the plan's soak time, by the node's steady clock
}

func (w rolloutWire) state() *rollout.State {
	return &rollout.State{Phase: rollout.Phase(w.Phase), Since: time.UnixMilli(w.Since), Reason: w.Reason}
}

// rolloutOnWire is what this node tells others of a staged record.
func rolloutOnWire(x governing.Rolled) rolloutWire {
	reason := x.Outlook.State.Reason
	return rolloutWire{Name: [8]byte(x.Record.Name[:]), Phase: string(x.Outlook.State.Phase), Since: x.Outlook.State.Since.UnixMilli(), Reason: clipReason(reason),
		Soaked: x.Record.Record.Rollout.Soaked(x.Outlook.State)}
}

type refusalWire struct {
	Level   string `cbor:"1,keyasint"`
	Scope   string `cbor:"2,keyasint"`
	Version uint64 `cbor:"3,keyasint"`
	Reason  string `cbor:"4,keyasint"`
}

func parseGeneration(name string, b []byte) (g generationRecord, err error) {
	if name != policyKey {
		return g, fmt.Errorf("the policy in force is named %q, not %q", policyKey, name)
	}
	if err := statement.Unmarshal(b, &g); err != nil {
		return g, err
	}
	if len(g.Revision) > 256 || len(g.Levels) > 3 || len(g.Refused) > maxRefusals || len(g.Rollouts) > 3 {
		return g, fmt.Errorf("revision of %d bytes, %d levels, %d refusals and %d rollouts; at most 256, 3, %d and 3", len(g.Revision), len(g.Levels), len(g.Refused), len(g.Rollouts), maxRefusals)
	}
	for _, w := range g.Rollouts {
		if len(w.Phase) > maxPhase || len(w.Reason) > maxReason {
			return g, fmt.Errorf("a rollout with a phase of %d bytes and a reason of %d; at most %d and %d", len(w.Phase), len(w.Reason), maxPhase, maxReason)
		}
	}
	return g, nil
}

// clipReason shortens a reason to what a record may carry, which is whole characters.
func clipReason(s string) string { return bounded.Text(s, maxReason) }

func (g generationRecord) effective() (out []travel.Effective) {
	for _, l := range g.Levels {
		out = append(out, travel.Effective{Slot: travel.Slot{Level: l.Level, Scope: l.Scope}, Version: l.Version, Name: l.Name})
	}
	return out
}

// generation is what this node says of its policy.
func (a *App) generation() generationRecord {
	g := generationRecord{Revision: a.engine.Revision()}
	for _, v := range a.policies.InForce() {
		g.Levels = append(g.Levels, levelWire{Level: v.Record.Level, Scope: v.Record.Scope, Version: v.Record.Version, Name: [8]byte(v.Name[:]), Stale: a.policies.StaleAt(v.Record.Level)})
	}
	for _, x := range a.rolling.Progress() {
		g.Rollouts = append(g.Rollouts, rolloutOnWire(x))
	}
	for _, r := range a.refusedPolicies() {
		if len(g.Refused) == maxRefusals {
			break
		}
		reason := r.Err.Error()
		g.Refused = append(g.Refused, refusalWire{r.Record.Level, r.Record.Scope, r.Record.Version, clipReason(reason)})
	}
	return g
}

// nodePolicy is a node's policy beside what it should be.
type nodePolicy struct {
	id    spiffeid.ID
	known bool // it said what is in force
	said  generationRecord
	gaps  []travel.Gap
}

// behind reports whether the node counts for drift.
func (n nodePolicy) behind() bool { return !n.known || len(n.gaps) > 0 }

// desiredPolicy is what should be in force, by the records that came here.
func (a *App) desiredPolicy(now time.Time) travel.Desired {
	d := travel.Desired{}
	for _, k := range a.policies.Kept() {
		d.Want(&k.Record, k.Name, now)
	}
	for _, n := range a.desk.Newest() {
		d.Want(&n.Record, n.Name, now)
	}
	return d
}

// nodePolicies are the policies of the region's nodes, this one's first.
func (a *App) nodePolicies(now time.Time) []nodePolicy {
	desired := a.desiredPolicy(now)
	ids := []spiffeid.ID{a.cfg.Node}
	for _, n := range a.dir.neighbours() {
		ids = append(ids, n.id)
	}
	out := make([]nodePolicy, 0, len(ids))
	for _, id := range ids {
		n := nodePolicy{id: id}
		if n.said, n.known = a.dir.policy(id); id == a.cfg.Node {
			n.said, n.known = a.generation(), true
		}
		n.gaps = desired.Gaps(governing.SlotsOf(id), n.said.effective())
		out = append(out, n)
	}
	return out
}

// policyDrift counts the nodes of the region, and those that do not enforce what they should.
func (a *App) policyDrift(now time.Time) (nodes, behind int) {
	all := a.nodePolicies(now)
	for _, n := range all {
		if n.behind() {
			behind++
		}
	}
	return len(all), behind
}

// policy is what a node said of its policy.
func (d *directory) policy(id spiffeid.ID) (generationRecord, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	g, ok := d.policies[id]
	g.Levels, g.Refused = slices.Clone(g.Levels), slices.Clone(g.Refused)
	return g, ok
}
