package decision

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail/payload"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Event is a decision as it is written: an event of OPA's decision log (its format EventV1), so
// that whatever reads OPA's logs reads ours. What OPA has no field for is in Result.
type Event struct {
	Labels      map[string]string      `json:"labels,omitempty"` // whose decision: id is the node's SPIFFE ID
	DecisionID  string                 `json:"decision_id"`      // 16 bytes, hex
	TraceID     string                 `json:"trace_id,omitempty"`
	Bundles     map[string]BundleState `json:"bundles,omitempty"` // by level
	Path        string                 `json:"path"`              // bailiwick/<kind>
	Input       json.RawMessage        `json:"input,omitempty"`   // what policy.ParseInput reads, unless Erased or Masked
	Result      Result                 `json:"result"`
	Erased      []string               `json:"erased,omitempty"` // what masking rules took out
	Masked      []string               `json:"masked,omitempty"` // what they replaced
	RequestedBy string                 `json:"requested_by,omitempty"`
	Timestamp   time.Time              `json:"timestamp"` // when it was recorded
	Metrics     map[string]int64       `json:"metrics,omitempty"`
	RequestID   uint64                 `json:"req_id,omitempty"` // the log's sequence: each is one more than the one before
	RuleLabels  []map[string]string    `json:"rule_labels,omitempty"`
	Change      *Change                `json:"policy_change,omitempty"` // of an event of KindChange
	Salt        string                 `json:"salt,omitempty"`          // hex: of Commitment
	Erasure     *payload.Erasure       `json:"erasure,omitempty"`       // Input and the like were erased
	Sealed      *payload.Box           `json:"sealed,omitempty"`        // they are in it, and its key is not here

	box      *payload.Box // they are in it as well
	unsealed error        // why there is no box: such an event cannot be recorded
}

// BundleState is the revision of one level.
type BundleState struct {
	Revision string `json:"revision,omitempty"`
}

// Result is the answer. Its fields are those of policy.Decision.
type Result struct {
	Allow    bool             `json:"allow"`
	Level    string           `json:"level,omitempty"`
	Rule     string           `json:"rule"`
	Title    string           `json:"title,omitempty"`
	Owner    string           `json:"owner,omitempty"`
	File     string           `json:"file,omitempty"`
	Line     int              `json:"line,omitempty"`
	Reason   string           `json:"reason"`
	Target   string           `json:"target,omitempty"`
	Revision string           `json:"revision"`
	Verdicts []policy.Verdict `json:"verdicts,omitempty"`
	Grants   []policy.Grant   `json:"grants,omitempty"`
}

const (
	pathPrefix = "bailiwick/"
	evalMetric = "timer_rego_query_eval_ns" // as OPA names it
)

// NewEvent is the event of a decision that was recorded at a time. Nothing is masked yet.
func NewEvent(d policy.Decision, labels map[string]string, at time.Time) Event {
	e := Event{
		Labels: labels, DecisionID: d.ID, TraceID: d.ID, Path: pathPrefix + string(d.Kind), Input: d.Input,
		RequestedBy: d.Source, Timestamp: at.UTC(),
		Result: Result{
			Allow: d.Allow, Level: d.Level, Rule: d.Rule, Title: d.Title, Owner: d.Owner, File: d.File, Line: d.Line,
			Reason: d.Reason, Target: d.Target, Revision: d.Revision, Verdicts: d.Verdicts, Grants: d.Grants,
		},
	}
	for _, v := range d.Verdicts {
		if v.Revision != "" {
			if e.Bundles == nil {
				e.Bundles = make(map[string]BundleState, len(d.Verdicts))
			}
			e.Bundles[v.Level] = BundleState{v.Revision}
		}
	}
	if d.Owner != "" {
		labels := map[string]string{"owner": d.Owner}
		maps.Copy(labels, d.Labels())
		e.RuleLabels = []map[string]string{labels}
	}
	return e
}

// Decision is the decision of an event. Its At is when it was recorded; the time the policy
// was told is in the input.
func (e Event) Decision() policy.Decision {
	r := e.Result
	return policy.Decision{
		Allow: r.Allow, ID: e.DecisionID, Kind: e.Kind(), Source: e.RequestedBy, Target: r.Target, Level: r.Level, Rule: r.Rule,
		Title: r.Title, Owner: r.Owner, File: r.File, Line: r.Line, Reason: r.Reason, Revision: r.Revision,
		Verdicts: r.Verdicts, Grants: r.Grants, Input: e.Input, At: e.Timestamp,
	}
}

// Kind is what was decided.
func (e Event) Kind() policy.Kind { return policy.Kind(strings.TrimPrefix(e.Path, pathPrefix)) }

// Replayable reports whether the event holds the whole input: there was one, and no masking rule
// changed it.
func (e Event) Replayable() bool {
	return len(e.Input) > 0 && len(e.Erased) == 0 && len(e.Masked) == 0
}

// MaxEvent is the longest event, in bytes of JSON: the largest input, and room for what was said of it.
const MaxEvent = policy.MaxInput + 192<<10

// ErrEvent means that bytes are no event of a decision log: damaged, or of another program.
var ErrEvent = errors.New("not an event of a decision log")

// ParseEvent reads one event. Fields it does not know are skipped: an export may have passed
// through other programs. Errors wrap ErrEvent.
func ParseEvent(line []byte) (e Event, err error) {
	if len(line) > MaxEvent {
		return e, fmt.Errorf("%w: %d bytes, at most %d", ErrEvent, len(line), MaxEvent)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	if err := d.Decode(&e); err != nil {
		return Event{}, fmt.Errorf("%w: %v", ErrEvent, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Event{}, fmt.Errorf("%w: bytes after the end", ErrEvent)
	}
	if e.DecisionID == "" || !strings.HasPrefix(e.Path, pathPrefix) {
		return Event{}, fmt.Errorf("%w: want a decision_id, and a path that begins with %s; got %q", ErrEvent, pathPrefix, e.Path)
	}
	return e, nil
}
