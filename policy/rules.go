package policy

import (
	"cmp"
	"slices"
)

// LevelRule is a rule and the level it belongs to.
type LevelRule struct {
	Level  string `json:"level"`
	Denies bool   `json:"denies"` // it is a deny rule, not an allow
	*Rule
}

// Rules returns the deny and allow rules in force for a kind, by level and then in
// the order of their files. They are read only. Beside a Decision's verdicts they
// tell what was asked and did not hold.
func (e *Engine) Rules(kind Kind) (out []LevelRule) {
	g := e.gen.Load()
	if g == nil {
		return nil
	}
	for _, l := range g.levels {
		q := l.compiled.kinds[kind]
		if q == nil {
			continue
		}
		first := len(out)
		for id, r := range q.rules {
			out = append(out, LevelRule{Level: l.Name, Denies: !q.allows[id], Rule: r})
		}
		slices.SortFunc(out[first:], func(a, b LevelRule) int {
			return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
		})
	}
	return out
}
