package decision

import (
	"encoding/hex"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Reason says why the policy in force changes.
type Reason string

// Why the policy in force changes.
const (
	Started    Reason = "start"    // the node began with what it holds
	Published  Reason = "publish"  // a newer version came
	RolledBack Reason = "rollback" // a newer version came, with content that was held before under an older one
	Promoted   Reason = "rollout"  // the node's ring of a staged version began
	Reverted   Reason = "revert"   // a staged version was stopped here, or the engine gave it up: the one before is back
	Stale      Reason = "stale"    // the stale mode of a level began or ended
)

// KindChange is what stands in place of a kind of decision in the event of a Change.
const KindChange policy.Kind = "policy_change"

// Change is a change of the policy in force.
type Change struct {
	Why     Reason          `json:"why"`
	Detail  string          `json:"detail,omitempty"`  // of a revert: what went wrong
	From    string          `json:"from"`              // policy.Engine.Revision before
	To      string          `json:"to"`                // and after
	Records []ChangedRecord `json:"records,omitempty"` // of the levels whose record is another one
}

// ChangedRecord is the signed record that is to be in force at one level. Version 0: none.
type ChangedRecord struct {
	Level   string `json:"level"`
	Scope   string `json:"scope"`
	From    uint64 `json:"from_version"`
	Version uint64 `json:"version"`
	Record  string `json:"record,omitempty"` // SHA-256 of what was signed, in hex
	Digest  string `json:"digest,omitempty"` // SHA-256 of the content, in hex
	Author  string `json:"author,omitempty"` // as the record says
	Key     string `json:"key,omitempty"`    // SHA-256 of the public key that signed it, PKIX DER, in hex
	Change  string `json:"change,omitempty"` // what the author says of it
}

func (r ChangedRecord) String() string {
	return fmt.Sprintf("%s %s: %d -> %d", r.Level, r.Scope, r.From, r.Version)
}

// changeLeaf is the body of a policy.activate leaf.
type changeLeaf struct {
	Revision string   `cbor:"revision"`
	From     string   `cbor:"from"`
	Why      string   `cbor:"why"`
	Records  []string `cbor:"records,omitempty"` // the first 8 bytes of each name, in hex
	ID       string   `cbor:"id"`                // of the event
}

// Change records that other policy is about to be in force, in the transaction of the caller: an
// event, and a policy.activate leaf. The caller puts the policy in force once the transaction is
// durable, and not at all where it fails; only who went back to an older policy because the newer one
// failed does that first, and has a gap counted then (trail.AppendGap).
func (l *Log) Change(tx *store.Tx, c Change) error {
	e := changeEvent(c, l.cfg.Labels, time.Now()) // without a payload: see Event.seal
	if err := l.put(tx, &e); err != nil {
		return err
	}
	leaf := changeLeaf{Revision: c.To, From: c.From, Why: string(c.Why), ID: e.DecisionID}
	for _, r := range c.Records {
		leaf.Records = append(leaf.Records, r.Record[:min(len(r.Record), hex.EncodedLen(8))])
	}
	return trail.Append(tx, trail.PolicyActivate, leaf)
}

// changeEvent is the event of a change: an OPA decision event without an input.
func changeEvent(c Change, labels map[string]string, at time.Time) Event {
	id := policy.NewID()
	e := Event{
		Labels: maps.Clone(labels), DecisionID: id, TraceID: id, Path: pathPrefix + string(KindChange), Timestamp: at.UTC(), Change: &c,
		Result: Result{Allow: true, Rule: string(c.Why), Revision: c.To, Reason: c.text()},
	}
	for _, r := range c.Records {
		if r.Version == 0 {
			continue
		}
		if e.Bundles == nil {
			e.Bundles = map[string]BundleState{}
		}
		e.Bundles[r.Level] = BundleState{fmt.Sprint(r.Version)}
		e.RequestedBy = r.Author // the last: that of the lowest level
	}
	return e
}

// text says a change in a line.
func (c Change) text() string {
	parts := make([]string, len(c.Records))
	for i, r := range c.Records {
		parts[i] = r.String()
		if r.Author != "" {
			parts[i] += ", signed for " + r.Author
		}
	}
	text := strings.Join(parts, "; ")
	if text == "" {
		text = c.From + " -> " + c.To
	}
	if c.Detail != "" {
		text += ": " + c.Detail
	}
	return string(c.Why) + ": " + text
}
