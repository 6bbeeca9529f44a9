package policy

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
)

// Outcome is what one level says.
type Outcome string

// The outcomes of a level.
const (
	Pass      Outcome = "pass" // neither denies nor allows
	Allowed   Outcome = "allow"
	Denied    Outcome = "deny"
	Missing   Outcome = "missing" // required and not active
	Expired   Outcome = "expired" // required and past its NotAfter
	Erroneous Outcome = "error"   // could not be evaluated
)

// Verdict is one level's part in a decision.
type Verdict struct {
	Level    string  `json:"level"`
	Revision string  `json:"revision,omitempty"`
	Outcome  Outcome `json:"outcome"`
	Rules    []*Rule `json:"rules,omitempty"` // those that held, by id; read only
	Reason   string  `json:"reason,omitempty"`

	failed     bool         // it took too many steps or panicked: see watchdog
	stale      string       // Level.Stale
	covered    bool         // the delegation covers the input and the level has not expired
	grants     []Grant      // of the allows of a state_admit, in the order of Rules
	thresholds []Thresholds // the same of a quarantine
}

// Grant is what an allow of state_admit lets an origin write. It depends on the origin and the
// generation, not on the single change: package admission keeps it and holds changes against it.
type Grant struct {
	ID     string   `json:"id"`
	Prefix string   `json:"prefix"`          // of keys; ends at a segment
	Kinds  []string `json:"kinds,omitempty"` // of keys; a trailing * stands for any rest; empty: every kind
	Scope  string   `json:"scope"`           // zone, region or global: the widest allowed
	Bytes  int      `json:"bytes"`           // of one value
	Rate   float64  `json:"rate"`            // changes a second, by the origin's own signed clock
}

// Thresholds are what an allow of quarantine says. A field at 0 is left to the node's own default;
// package quarantine keeps all of them within bounds that no policy moves.
type Thresholds struct {
	ID               string `json:"id"`
	HoldSeconds      int    `json:"hold_seconds,omitempty"`       // the first hold of a relay at fault; doubled each time
	HoldMaxSeconds   int    `json:"hold_max_seconds,omitempty"`   // the longest
	MildFaults       int    `json:"mild_faults,omitempty"`        // in a minute that make a hold
	CapPercent       int    `json:"cap_percent,omitempty"`        // of the region's nodes that may be cut off in 10 minutes without a proof
	CapProvenPercent int    `json:"cap_proven_percent,omitempty"` // the same with a proof
	Observers        int    `json:"observers,omitempty"`          // assigned to each node, for what cannot be proven
	QuorumPercent    int    `json:"quorum_percent,omitempty"`     // of them that quarantine it; never fewer than a majority
	Accusations      int    `json:"accusations,omitempty"`        // nodes that one observer has a say about at a time

	// SuspectOpen are the kinds of keys whose last good state local programs get also where its owner
	// is shut out; a trailing * stands for any rest. Of other kinds they get all but the value.
	SuspectOpen []string `json:"suspect_open,omitempty"`
}

// Decision is the answer, complete enough to be explained and replayed. Its zero value denies. What
// it points to may be shared with other decisions and is read only.
type Decision struct {
	Allow    bool      `json:"allow"`
	ID       string    `json:"id"`               // 16 random bytes, hex
	Cached   bool      `json:"cached,omitempty"` // not evaluated again: the same was asked before
	Kind     Kind      `json:"kind"`
	Source   string    `json:"source,omitempty"` // SPIFFE ID of who asked
	Target   string    `json:"target,omitempty"` // service, control or API call, key, node, EK hash or else method of attestation
	Level    string    `json:"level,omitempty"`  // that decided; empty where no level did
	Rule     string    `json:"rule"`             // id of the rule that decided, or one of the Rule constants
	Title    string    `json:"title,omitempty"`
	Owner    string    `json:"owner,omitempty"`
	File     string    `json:"file,omitempty"`
	Line     int       `json:"line,omitempty"`
	Reason   string    `json:"reason"`   // one sentence
	Revision string    `json:"revision"` // of the generation
	Verdicts []Verdict `json:"verdicts,omitempty"`
	Grants   []Grant   `json:"grants,omitempty"` // of an allowed state_admit: each lets through what it covers
	// Thresholds are of an allowed quarantine: those of the lowest level that may say so, first ID.
	Thresholds *Thresholds     `json:"thresholds,omitempty"`
	Input      json.RawMessage `json:"input,omitempty"` // what ParseInput reads
	At         time.Time       `json:"at"`              // Input.Time
}

// settled reports whether the same question will have the same answer: it does not where a level
// failed, which may be for want of time.
func (d *Decision) settled() bool {
	return len(d.Verdicts) > 0 && !slices.ContainsFunc(d.Verdicts, func(v Verdict) bool { return v.Outcome == Erroneous })
}

// Names in Decision.Rule of decisions that no author's rule made.
const (
	RuleNoGrant       = "no-grant"           // no level allows it
	RuleDelegation    = "outside-delegation" // a level allows what it may not
	RuleGrant         = "outside-grant"      // a change exceeds every grant (package admission)
	RuleMissing       = "level-missing"
	RuleExpired       = "level-expired"
	RuleError         = "level-error"
	RuleStale         = "level-stale" // allowed, but for Level.Stale: only what is new is refused
	RuleInput         = "input-not-valid"
	RuleEnded         = "facts-ended" // an SVID, or what else the facts rest on, has ended (Time.Until)
	RuleNoEngine      = "no-engine"   // the zero Engine
	RulePanic         = "panic"
	RuleControlPrefix = "control-" // followed by the control call: allowed
)

// Told is the reason, with the owner and the labels of the rule where an author's rule decided: what
// whoever asked is told, and whom to ask.
func (d Decision) Told() string {
	told := d.Reason
	if d.Owner != "" {
		told += ", owner " + d.Owner
	}
	if text := LabelsText(d.Labels()); text != "" {
		told += ", " + text
	}
	return told
}

// Labels are those of the rule that decided; nil where no author's rule did.
func (d Decision) Labels() map[string]string {
	if r := d.Decided(); r != nil {
		return r.Labels
	}
	return nil
}

// LabelsText is the labels of a rule, such as "runbook=https://wiki.example.org/maintenance", in the
// order of their names.
func LabelsText(labels map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, name+"="+labels[name])
	}
	return strings.Join(parts, " ")
}

// LogValue is a decision as log lines show it: by which rule, and whom to ask. It has nothing of the
// input, which only the decision log has, masked; so the reason is not here, which may quote it.
func (d Decision) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("decision", d.ID), slog.String("rule", d.Rule)}
	for _, a := range []slog.Attr{slog.String("level", d.Level), slog.String("title", d.Title), slog.String("owner", d.Owner), slog.String("labels", LabelsText(d.Labels()))} {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	if d.File != "" {
		attrs = append(attrs, slog.String("where", fmt.Sprintf("%s:%d", d.File, d.Line)))
	}
	return slog.GroupValue(attrs...)
}

// Explain tells what each level said: the decision on the first line, a line for each level.
func (d Decision) Explain() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", verb(d.Allow), d.Kind)
	if d.Source != "" {
		fmt.Fprintf(&b, " %s", d.Source)
	}
	if d.Target != "" {
		fmt.Fprintf(&b, " -> %s", d.Target)
	}
	fmt.Fprintf(&b, ": %s", d.Reason)
	if d.File != "" {
		fmt.Fprintf(&b, " (%s:%d, owner %s)", d.File, d.Line, d.Owner)
	}
	for _, v := range d.Verdicts {
		fmt.Fprintf(&b, "\n  %s", v.Level)
		if v.Revision != "" {
			fmt.Fprintf(&b, "@%s", v.Revision)
		}
		fmt.Fprintf(&b, ": %s", v.Outcome)
		if v.Reason != "" {
			fmt.Fprintf(&b, ": %s", v.Reason)
		}
		for _, r := range v.Rules {
			fmt.Fprintf(&b, "\n    %s: %s (%s:%d, owner %s)", r.ID, r.Title, r.File, r.Line, r.Owner)
		}
	}
	return b.String()
}

func verb(allow bool) string {
	if allow {
		return "ALLOW"
	}
	return "DENY"
}
