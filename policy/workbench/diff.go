package workbench

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"iter"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/shadow"
)

// What happened to a rule between two trees.
const (
	Added    = "added"
	Removed  = "removed"
	Changed  = "changed"  // its condition, grant or thresholds
	Indirect = "indirect" // only helpers that it needs
	Renamed  = "renamed"  // only its title or owner
)

// RuleChange is a rule that is not the same in both trees.
type RuleChange struct {
	Level  string       `json:"level"`
	Kind   policy.Kind  `json:"kind"`
	ID     string       `json:"id"`
	Denies bool         `json:"denies"`
	How    string       `json:"how"`
	Before *policy.Rule `json:"before,omitempty"` // with the path of its file
	After  *policy.Rule `json:"after,omitempty"`
}

// DataChange is a key at the top of a level's data that is not the same in both trees.
type DataChange struct {
	Level string `json:"level"`
	Key   string `json:"key"`
	How   string `json:"how"` // Added, Removed or Changed
}

// Difference is what changes from one tree to another.
type Difference struct {
	Rules []RuleChange `json:"rules"`
	Data  []DataChange `json:"data"`
	// Asked is how many questions were put to both, Same how many got the same answer by the same
	// rule. Groups are the others, by the rules that decided.
	Asked  uint64         `json:"asked"`
	Same   uint64         `json:"same"`
	Groups []shadow.Group `json:"groups"`
}

// Diff compares tree a with its successor b: by their rules and data, and by what they answer to
// questions. Errors are those of Engine, of either tree, and those of the questions.
func Diff(ctx context.Context, a, b *Tree, questions iter.Seq2[Question, error]) (d Difference, err error) {
	before, err := a.Engine()
	if err != nil {
		return d, err
	}
	after, err := b.Engine()
	if err != nil {
		return d, err
	}
	if d.Rules, err = ruleChanges(a, b); err != nil {
		return d, err
	}
	d.Data = dataChanges(a, b)
	d.Groups = []shadow.Group{}
	var tally shadow.Tally
	for q, err := range questions {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return d, err
		}
		was := before.Decide(ctx, q.Input)
		was.ID = q.From
		tally.Add(q.Input, was, after.Decide(ctx, q.Input), time.Unix(q.Input.Time.Unix, 0).UTC())
	}
	d.Asked, d.Same, d.Groups = tally.Compared(), tally.Counts[shadow.Same], append(d.Groups, tally.Groups()...)
	return d, nil
}

type ruleName struct {
	level string
	kind  policy.Kind
	id    string
}

// prints are the fingerprints of a tree's rules, their files by path, without those of levels that
// ship with both trees.
func (t *Tree) prints(other *Tree) (map[ruleName]policy.Fingerprint, error) {
	out := map[ruleName]policy.Fingerprint{}
	for _, l := range t.Levels {
		if l.Shipped() && !other.writes(l.Name) {
			continue
		}
		list, err := policy.Fingerprints(l.Level)
		if err != nil {
			return nil, err
		}
		for _, f := range list {
			here := *f.Rule
			here.File = t.Path(here.File)
			f.Rule = &here
			out[ruleName{l.Name, f.Kind, f.ID}] = f
		}
	}
	return out, nil
}

func (t *Tree) writes(level string) bool {
	return slices.ContainsFunc(t.Written(), func(l Level) bool { return l.Name == level })
}

func ruleChanges(a, b *Tree) (out []RuleChange, err error) {
	before, err := a.prints(b)
	if err != nil {
		return nil, err
	}
	after, err := b.prints(a)
	if err != nil {
		return nil, err
	}
	out = []RuleChange{}
	for name, was := range before {
		now, there := after[name]
		c := RuleChange{Level: name.level, Kind: name.kind, ID: name.id, Denies: was.Denies, Before: was.Rule, After: now.Rule}
		switch {
		case !there:
			c.How = Removed
		case was.Denies != now.Denies || was.Own != now.Own:
			c.How, c.Denies = Changed, now.Denies
		case was.Uses != now.Uses:
			c.How = Indirect
		case was.Title != now.Title || was.Owner != now.Owner:
			c.How = Renamed
		default:
			continue
		}
		out = append(out, c)
	}
	for name, now := range after {
		if _, was := before[name]; !was {
			out = append(out, RuleChange{Level: name.level, Kind: name.kind, ID: name.id, Denies: now.Denies, How: Added, After: now.Rule})
		}
	}
	slices.SortFunc(out, func(x, y RuleChange) int {
		return cmp.Or(cmp.Compare(slices.Index(LevelNames, x.Level), slices.Index(LevelNames, y.Level)), cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.ID, y.ID))
	})
	return out, nil
}

func dataChanges(a, b *Tree) []DataChange {
	out := []DataChange{}
	for _, level := range LevelNames {
		was, now := a.data(level), b.data(level)
		keys := maps.Clone(was)
		maps.Copy(keys, now)
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			_, before := was[key]
			_, after := now[key]
			switch {
			case !before:
				out = append(out, DataChange{level, key, Added})
			case !after:
				out = append(out, DataChange{level, key, Removed})
			case !sameData(was[key], now[key]):
				out = append(out, DataChange{level, key, Changed})
			}
		}
	}
	return out
}

func (t *Tree) data(level string) map[string]any {
	for _, l := range t.Levels {
		if l.Name == level && l.Data != nil {
			return l.Data
		}
	}
	return map[string]any{}
}

func sameData(a, b any) bool {
	if reflect.DeepEqual(a, b) {
		return true
	}
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
