package app

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// askAgain is how long thresholds are used before policy is asked anew although nothing that
// this node knows of has changed: a level may have ended.
const askAgain = time.Minute

// thresholds keeps the numbers of containment at what policy says (kind quarantine): asked
// anew for another generation and another size of the region. Whatever is not an allow leaves
// the safe defaults in force, and is on record and in the log, once for an answer.
type thresholds struct {
	engine   interface{ Revision() string }
	decide   func(context.Context, policy.Input) policy.Decision
	record   func(policy.Decision) policy.Decision
	self     func() *policy.Peer
	use      func(quarantine.Thresholds)
	open     func(kinds []string) // of keys, whose suspect state programs get
	log      *slog.Logger
	now      func() time.Time
	mu       sync.Mutex // held while policy is asked; guards what follows
	revision string
	roster   policy.Roster
	asked    time.Time
	answer   string // what was said last, for people
}

// at makes the thresholds those for a region of this size.
func (t *thresholds) at(r quarantine.Roster) {
	t.mu.Lock()
	defer t.mu.Unlock()
	roster, revision, now := policy.Roster{Attested: r.Attested, Unattested: r.Unattested}, t.engine.Revision(), t.now()
	if revision == t.revision && roster == t.roster && now.Sub(t.asked) < askAgain {
		return
	}
	t.revision, t.roster, t.asked = revision, roster, now
	d := t.decide(context.Background(), policy.Input{
		V: policy.InputVersion, Kind: policy.Quarantine, Time: policy.Time{Unix: now.Unix(), Trusted: true}, Self: t.self(), Roster: &roster,
	})
	answer := d.Rule + " of " + d.Revision + ": " + d.Reason
	news := answer != t.answer
	if news {
		if d = t.record(d); d.Rule == decision.RuleNotRecorded {
			answer = "" // to be recorded next time
		}
	}
	t.answer = answer
	if !d.Allow || d.Thresholds == nil {
		if news {
			t.log.Warn("policy gives no thresholds of quarantine; the defaults are in force", "reason", d.Reason, slog.Any("", d))
		}
		t.use(quarantine.Defaults())
		t.open(nil)
		return
	}
	bounded, moved := quarantine.Thresholds{
		Hold: time.Duration(d.Thresholds.HoldSeconds) * time.Second, HoldMax: time.Duration(d.Thresholds.HoldMaxSeconds) * time.Second,
		MildFaults: d.Thresholds.MildFaults, Cap: d.Thresholds.CapPercent, CapProven: d.Thresholds.CapProvenPercent,
		Observers: d.Thresholds.Observers, Quorum: d.Thresholds.QuorumPercent, Budget: d.Thresholds.Accusations,
	}.Bounded()
	if news {
		t.log.Info("thresholds of quarantine", "rule", d.Rule, "hold", bounded.Hold, "hold_max", bounded.HoldMax,
			"mild_faults", bounded.MildFaults, "cap_percent", bounded.Cap, "cap_proven_percent", bounded.CapProven,
			"observers", bounded.Observers, "quorum_percent", bounded.Quorum, "accusations", bounded.Budget, "suspect_open", d.Thresholds.SuspectOpen)
		if len(moved) > 0 {
			t.log.Warn("the policy's thresholds of quarantine are outside their bounds", "moved", moved)
		}
	}
	t.use(bounded)
	t.open(d.Thresholds.SuspectOpen)
}
