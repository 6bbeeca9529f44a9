package shadow

import (
	"cmp"
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Class is how two decisions differ.
type Class string

// The classes; see the package doc.
const (
	Same   Class = "same"
	Denies Class = "denies"
	Allows Class = "allows"
	Fails  Class = "fails"
	Values Class = "values"
	Rule   Class = "rule"
)

// Classes are those of differences, the gravest first.
var Classes = []Class{Allows, Denies, Fails, Values, Rule}

// failures are the rules of decisions that no author made.
var failures = []string{policy.RuleError, policy.RuleMissing, policy.RuleExpired, policy.RuleInput, policy.RuleNoEngine, policy.RulePanic}

// Failed reports whether a decision is a denial because policy could not be asked.
func Failed(d policy.Decision) bool { return !d.Allow && slices.Contains(failures, d.Rule) }

// Compare tells how the answer of a candidate differs from the one in force.
func Compare(enforced, candidate policy.Decision) Class {
	switch {
	case Failed(candidate) && !Failed(enforced):
		return Fails
	case enforced.Allow && !candidate.Allow:
		return Denies
	case !enforced.Allow && candidate.Allow:
		return Allows
	case enforced.Allow && !sameValues(enforced, candidate):
		return Values
	case enforced.Level != candidate.Level || enforced.Rule != candidate.Rule:
		return Rule
	}
	return Same
}

func sameValues(a, b policy.Decision) bool {
	return reflect.DeepEqual(a.Grants, b.Grants) && reflect.DeepEqual(a.Thresholds, b.Thresholds)
}

// Bounds of a Tally.
const (
	maxGroups   = 200
	maxExamples = 3 // of a group
)

// By is a deciding rule.
type By struct {
	Level string `json:"level,omitempty"`
	Rule  string `json:"rule"`
	Title string `json:"title,omitempty"`
	Owner string `json:"owner,omitempty"`
	File  string `json:"file,omitempty"`
	Line  int    `json:"line,omitempty"`
}

func by(d policy.Decision) By { return By{d.Level, d.Rule, d.Title, d.Owner, d.File, d.Line} }

// Group is all differences that one pair of rules made.
type Group struct {
	Class     Class       `json:"class"`
	Kind      policy.Kind `json:"kind"`
	Enforced  By          `json:"enforced"`
	Candidate By          `json:"candidate"`
	Count     uint64      `json:"count"`
	First     time.Time   `json:"first"`
	Last      time.Time   `json:"last"`
	Examples  []Example   `json:"examples"`
}

// Example is one difference in full. No two of a group have the same source and target.
type Example struct {
	Decision string          `json:"decision"` // ID of the one in force
	At       time.Time       `json:"at"`
	Source   string          `json:"source,omitempty"`
	Target   string          `json:"target,omitempty"`
	Reason   string          `json:"reason"` // the candidate's
	Input    json.RawMessage `json:"input,omitempty"`

	source, target string // as they are
}

type groupKey struct {
	class               Class
	kind                policy.Kind
	enforced, candidate By
}

// Tally counts. Its zero value has counted nothing.
type Tally struct {
	Counts map[Class]uint64
	// Denied and Errors are what the policy in force said: denials of authors, and failures.
	Denied, Errors uint64
	Ungrouped      uint64 // differences for which there was no room in groups
	// Mask takes out of a decision what may not be shown, before it becomes an example. Nil: nothing.
	Mask func(policy.Decision) policy.Decision

	groups map[groupKey]*Group
	asked  asked
}

// Add counts one question that both answered, and returns how the answers differ.
func (t *Tally) Add(in policy.Input, enforced, candidate policy.Decision, now time.Time) Class {
	if t.Counts == nil {
		t.Counts, t.groups = map[Class]uint64{}, map[groupKey]*Group{}
	}
	class := Compare(enforced, candidate)
	t.Counts[class]++
	t.asked.add(in.Kind, enforced, candidate, class)
	switch {
	case Failed(enforced):
		t.Errors++
	case !enforced.Allow:
		t.Denied++
	}
	if class == Same {
		return class
	}
	key := groupKey{class, in.Kind, by(enforced), by(candidate)}
	g := t.groups[key]
	if g == nil {
		if len(t.groups) >= maxGroups {
			t.Ungrouped++
			return class
		}
		g = &Group{Class: class, Kind: in.Kind, Enforced: key.enforced, Candidate: key.candidate, First: now}
		t.groups[key] = g
	}
	g.Count++
	g.Last = now
	known := func(e Example) bool { return e.source == enforced.Source && e.target == enforced.Target }
	if len(g.Examples) < maxExamples && !slices.ContainsFunc(g.Examples, known) {
		g.Examples = append(g.Examples, t.example(in, enforced, candidate))
	}
	return class
}

func (t *Tally) example(in policy.Input, enforced, candidate policy.Decision) Example {
	d := candidate
	d.ID, d.At, d.Source, d.Target, d.Input = enforced.ID, enforced.At, enforced.Source, enforced.Target, enforced.Input
	if len(d.Input) == 0 {
		d.Input, _ = json.Marshal(in) // strings and numbers only
	}
	if t.Mask != nil {
		d = t.Mask(d)
	}
	return Example{Decision: d.ID, At: d.At, Source: d.Source, Target: d.Target, Reason: d.Reason, Input: d.Input, source: enforced.Source, target: enforced.Target}
}

// Compared is how many questions both answered.
func (t *Tally) Compared() (n uint64) {
	for _, c := range t.Counts {
		n += c
	}
	return n
}

// Different is how many of them got another answer: every class but Rule.
func (t *Tally) Different() uint64 { return t.Compared() - t.Counts[Same] - t.Counts[Rule] }

// Groups returns the differences, the gravest class first and in each the most frequent.
func (t *Tally) Groups() []Group {
	out := make([]Group, 0, len(t.groups))
	for _, g := range t.groups {
		c := *g
		c.Examples = slices.Clone(g.Examples)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Group) int {
		return cmp.Or(
			cmp.Compare(slices.Index(Classes, a.Class), slices.Index(Classes, b.Class)), cmp.Compare(b.Count, a.Count),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Enforced.Rule, b.Enforced.Rule), cmp.Compare(a.Candidate.Rule, b.Candidate.Rule))
	})
	return out
}
