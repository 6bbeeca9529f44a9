package replay

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Report is what a replay found.
type Report struct {
	Read     int64            `json:"read"`     // decisions in the log
	Replayed int64            `json:"replayed"` // those that were asked again
	Skipped  map[string]int64 `json:"skipped"`  // the others, by reason
	Changed  int64            `json:"changed"`  // another answer
	Opened   int64            `json:"opened"`   // of these: denied then, allowed now
	Closed   int64            `json:"closed"`   // of these: allowed then, denied now
	ByOthers int64            `json:"by_others"`
	Groups   []Group          `json:"groups"` // changed ones first, then by how many
	Seconds  float64          `json:"seconds"`
	Rate     float64          `json:"rate"` // replayed in a second, by all workers

	groups map[groupKey]*Group
}

// Answer is what decided.
type Answer struct {
	Allow bool   `json:"allow"`
	Level string `json:"level,omitempty"` // empty where no level did
	Rule  string `json:"rule"`
	File  string `json:"file,omitempty"` // of the policy that was replayed
	Line  int    `json:"line,omitempty"`
}

// Group is the decisions that one answer gave way to another in.
type Group struct {
	Kind     policy.Kind `json:"kind"`
	Was      Answer      `json:"was"`
	Now      Answer      `json:"now"`
	Changed  bool        `json:"changed"` // false: the same answer by another rule
	Count    int64       `json:"count"`
	Examples []Example   `json:"examples"` // the first, in the order of the log
}

// Example is one recorded decision.
type Example struct {
	ID     string    `json:"id"`
	Source string    `json:"source,omitempty"`
	Target string    `json:"target,omitempty"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"` // of the new answer

	number int64
}

type groupKey struct {
	kind     policy.Kind
	was, now Answer
	changed  bool
}

func newReport() Report {
	return Report{Skipped: map[string]int64{}, groups: map[groupKey]*Group{}, Groups: []Group{}}
}

// compare takes in one decision that was asked again.
func (r *Report) compare(was *recorded, d *policy.Decision, number int64, examples int) {
	r.Replayed++
	then, now := Answer{Allow: was.Result.Allow, Level: was.Result.Level, Rule: was.Result.Rule},
		Answer{Allow: d.Allow, Level: d.Level, Rule: d.Rule, File: d.File, Line: d.Line}
	changed := then.Allow != now.Allow || then.Allow && !slices.EqualFunc(was.Result.Grants, d.Grants, sameGrant)
	switch {
	case !changed && then.Level == now.Level && then.Rule == now.Rule:
		return
	case !changed:
		r.ByOthers++
	default:
		r.Changed++
		if now.Allow && !then.Allow {
			r.Opened++
		} else if then.Allow && !now.Allow {
			r.Closed++
		}
	}
	key := groupKey{d.Kind, then, now, changed}
	g := r.groups[key]
	if g == nil {
		g = &Group{Kind: d.Kind, Was: then, Now: now, Changed: changed, Examples: []Example{}}
		r.groups[key] = g
	}
	g.Count++
	if last := len(g.Examples); last < examples || number < g.Examples[last-1].number {
		g.keep(Example{ID: was.DecisionID, Source: was.RequestedBy, Target: was.Result.Target, At: was.Timestamp, Reason: d.Reason, number: number}, examples)
	}
}

func sameGrant(a, b policy.Grant) bool {
	return a.ID == b.ID && a.Prefix == b.Prefix && a.Scope == b.Scope && a.Bytes == b.Bytes && a.Rate == b.Rate && slices.Equal(a.Kinds, b.Kinds)
}

// keep puts an example where its number belongs; the first ones stay.
func (g *Group) keep(e Example, most int) {
	i, _ := slices.BinarySearchFunc(g.Examples, e, func(a, b Example) int { return cmp.Compare(a.number, b.number) })
	g.Examples = slices.Insert(g.Examples, i, e)
	g.Examples = g.Examples[:min(len(g.Examples), most)]
}

// add takes in what another worker found.
func (r *Report) add(o Report, examples int) {
	r.Read, r.Replayed, r.Changed, r.ByOthers = r.Read+o.Read, r.Replayed+o.Replayed, r.Changed+o.Changed, r.ByOthers+o.ByOthers
	r.Opened, r.Closed = r.Opened+o.Opened, r.Closed+o.Closed
	for why, n := range o.Skipped {
		r.Skipped[why] += n
	}
	for key, g := range o.groups {
		mine := r.groups[key]
		if mine == nil {
			r.groups[key] = g
			continue
		}
		mine.Count += g.Count
		for _, e := range g.Examples {
			mine.keep(e, examples)
		}
	}
}

// finish puts the groups in their order.
func (r Report) finish(took time.Duration) Report {
	for _, g := range r.groups {
		r.Groups = append(r.Groups, *g)
	}
	slices.SortFunc(r.Groups, func(a, b Group) int {
		return cmp.Or(-compareBool(a.Changed, b.Changed), -cmp.Compare(a.Count, b.Count), cmp.Compare(a.Examples[0].number, b.Examples[0].number))
	})
	if r.Seconds = took.Seconds(); r.Seconds > 0 {
		r.Rate = float64(r.Replayed) / r.Seconds
	}
	return r
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// SkippedInAll is how many decisions were not asked again.
func (r Report) SkippedInAll() (n int64) {
	for v := range maps.Values(r.Skipped) {
		n += v
	}
	return n
}
