package reach

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// wordy is up to how many services a drawing has room for rule ids in its cells; above, cells have
// the numbers that the list of rules gives them.
const wordy = 6

// glyphs tell verdicts apart without colour.
var glyphs = map[Verdict]string{Yes: "✓", No: "✕", Some: "◐", Half: "½"}

// meanings are the legend.
var meanings = []struct {
	Verdict       Verdict
	Glyph, Reader string
}{
	{Yes, glyphs[Yes], "both ends allow it"},
	{Some, glyphs[Some], "between some nodes only"},
	{Half, glyphs[Half], "one end allows it, the other is not known here"},
	{No, glyphs[No], "one end denies it"},
}

// sheet is a matrix in the words and numbers of a drawing.
type sheet struct {
	Title, Facts string
	Wordy        bool
	Columns      []column
	Rows         []line
	Rules        []ruled
	Legend       []tallied
}

type column struct{ Name, Region string }

type line struct {
	Caller, Domain, Nodes string
	Cells                 []square
}

type square struct {
	Verdict    Verdict
	Glyph      string
	Text, Tell string // what stands in the cell, and the whole story
}

type ruled struct {
	By
	Number, Cells int
}

type tallied struct {
	Verdict       Verdict
	Glyph, Reader string
	Cells         int
}

func newSheet(m Matrix) sheet {
	s := sheet{
		Title: "Who can reach what", Wordy: len(m.Services) <= wordy,
		Facts: strings.Join(facts(m), " · "),
	}
	for _, full := range m.Services {
		name, region, _ := strings.Cut(full, ".")
		s.Columns = append(s.Columns, column{name, region})
	}
	rules, numbers := rulesOf(m)
	s.Rules = rules
	counts := map[Verdict]int{}
	for _, r := range m.Rows {
		l := line{Caller: r.Caller}
		if domain, path, ok := strings.Cut(strings.TrimPrefix(r.Caller, "spiffe://"), "/"); ok {
			l.Domain, l.Caller = domain, "/"+path
		}
		if l.Nodes = counted(r.Nodes, "node"); r.Nodes == 0 {
			l.Nodes = "any node"
		}
		for _, c := range r.Cells {
			counts[c.Verdict]++
			q := square{Verdict: c.Verdict, Glyph: glyphs[c.Verdict], Tell: tell(r, c)}
			if b, ok := c.Decisive(); ok {
				if q.Text = fmt.Sprint(numbers[b.rule()]); s.Wordy {
					q.Text = b.Rule
				}
			}
			l.Cells = append(l.Cells, q)
		}
		s.Rows = append(s.Rows, l)
	}
	for _, x := range meanings {
		s.Legend = append(s.Legend, tallied{x.Verdict, x.Glyph, x.Reader, counts[x.Verdict]})
	}
	return s
}

func facts(m Matrix) []string {
	out := []string{counted(len(m.Rows), "caller") + ", " + counted(len(m.Services), "service"), "as of " + m.AsOf.Format(time.RFC3339)}
	if m.ViewOf != "" {
		out = append(out, "view of "+m.ViewOf)
	}
	return append(out, "policy "+strings.Join(m.Policies, ", "))
}

func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Decisive is the rule to show where there is room for one: of what denies where something does.
func (c Cell) Decisive() (By, bool) {
	for _, b := range c.By {
		if b.Allow == (c.Verdict == Yes || c.Verdict == Half) {
			return b, true
		}
	}
	if len(c.By) == 0 {
		return By{}, false
	}
	return c.By[0], true
}

// rule is what of a By names the rule, whatever cell it decides.
func (b By) rule() By {
	return By{Level: b.Level, Rule: b.Rule, Allow: b.Allow, File: b.File, Line: b.Line}
}

// rulesOf numbers the rules that decide, the most frequent first.
func rulesOf(m Matrix) ([]ruled, map[By]int) {
	found := map[By]*ruled{}
	var list []*ruled
	for _, r := range m.Rows {
		for _, c := range r.Cells {
			seen := map[By]bool{}
			for _, b := range c.By {
				k := b.rule()
				if found[k] == nil {
					found[k] = &ruled{By: b}
					list = append(list, found[k])
				}
				if !seen[k] {
					seen[k] = true
					found[k].Cells++
				}
			}
		}
	}
	slices.SortStableFunc(list, func(x, y *ruled) int { return cmp.Or(cmp.Compare(y.Cells, x.Cells), cmp.Compare(x.Rule, y.Rule)) })
	numbers := map[By]int{}
	var out []ruled
	for i, r := range list {
		r.Number = i + 1
		numbers[r.By.rule()] = r.Number
		out = append(out, *r)
	}
	return out, numbers
}

// tell is a cell as one reads it aloud.
func tell(r Row, c Cell) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s to %s: %s, %d of %d pairs of nodes", r.Caller, c.Service, c.Verdict, c.Allowed, c.Pairs)
	for _, by := range c.By {
		word := "denied"
		if by.Allow {
			word = "allowed"
		}
		fmt.Fprintf(&b, "\n%s at %s by %s", word, by.End, by.Rule)
		if by.Level != "" {
			fmt.Fprintf(&b, " (%s)", by.Level)
		}
		if by.Title != "" {
			fmt.Fprintf(&b, ": %s", by.Title)
		}
		if w := by.Where(); w != "" {
			fmt.Fprintf(&b, ", %s", w)
		}
		if len(c.By) > 1 {
			fmt.Fprintf(&b, ", %d pairs", by.Pairs)
		}
	}
	return b.String()
}
