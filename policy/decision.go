package policy

import (
	"encoding/json"
	"fmt"
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

	covered bool              // the delegation covers the input and the level has not expired
	grants  map[string]*Grant // of the allows of a state_admit
}

// Grant bounds what the allowed origin may write. It depends on the origin and the kind of key and
// not on the single update, so that a caller may keep it for later updates of the same origin
// under the same revision. Decide has checked the prefix, the scope and the size of the update it
// was asked about; keeping to the rate is the caller's part.
type Grant struct {
	ID       string  `json:"id"`
	Prefix   string  `json:"prefix"`    // of keys; ends at a segment
	Scope    string  `json:"scope"`     // zone, region or global: the widest allowed
	MaxBytes int     `json:"max_bytes"` // of one value
	Rate     float64 `json:"rate"`      // updates a second
}

// Decision is the answer, complete enough to be explained and replayed. Its zero value denies.
type Decision struct {
	Allow    bool            `json:"allow"`
	ID       string          `json:"id"` // 16 random bytes, hex
	Kind     Kind            `json:"kind"`
	Source   string          `json:"source,omitempty"` // SPIFFE ID of who asked
	Target   string          `json:"target,omitempty"` // service, control call, key or EK hash that was asked for
	Level    string          `json:"level,omitempty"`  // that decided; empty where no level did
	Rule     string          `json:"rule"`             // id of the rule that decided, or one of the Rule constants
	Title    string          `json:"title,omitempty"`
	Owner    string          `json:"owner,omitempty"`
	File     string          `json:"file,omitempty"`
	Line     int             `json:"line,omitempty"`
	Reason   string          `json:"reason"`   // one sentence
	Revision string          `json:"revision"` // of the generation
	Verdicts []Verdict       `json:"verdicts,omitempty"`
	Grant    *Grant          `json:"grant,omitempty"` // of an allowed state_admit; read only
	Input    json.RawMessage `json:"input,omitempty"` // what ParseInput reads
	At       time.Time       `json:"at"`              // Input.Time
}

// Names in Decision.Rule of decisions that no author's rule made.
const (
	RuleNoGrant       = "no-grant"           // no level allows it
	RuleDelegation    = "outside-delegation" // a level allows what it may not
	RuleGrant         = "outside-grant"      // the update exceeds every grant
	RuleMissing       = "level-missing"
	RuleExpired       = "level-expired"
	RuleError         = "level-error"
	RuleInput         = "input-not-valid"
	RuleNoEngine      = "no-engine" // the zero Engine
	RulePanic         = "panic"
	RuleControlPrefix = "control-" // followed by the control call: allowed
)

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
