package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/policy"
	explaining "github.com/bailiwick-mesh/bailiwick/policy/why"
)

// explanationText tells people why, what is missing and what would change it.
func explanationText(w io.Writer, r *controlv1.WhyResponse, x *explaining.Explanation) {
	if x == nil {
		fmt.Fprintf(w, "\n  not explained further: %s\n", r.Unexplained)
		return
	}
	if !x.Same {
		fmt.Fprintf(w, "\n  explained by the policy %s, which is not the one that decided: it %s this now (%s)\n", x.Revision, verdictWord(x.Allow), x.Rule)
	}
	for _, t := range x.Held {
		word := "allow"
		if t.Denies {
			word = "deny"
		}
		fmt.Fprintf(w, "\n  this rule holds: %s %s %s, %s (%s:%d, owner %s)\n", t.Level, word, t.ID, t.Title, t.File, t.Line, t.Owner)
		if len(t.Labels) > 0 {
			fmt.Fprintf(w, "    labels   %s\n", policy.LabelsText(t.Labels))
		}
		for _, c := range t.Conditions {
			conditionText(w, "    ", "yes", c)
		}
	}
	if len(x.Near) > 0 {
		fmt.Fprint(w, "\n  these would allow it, and do not hold")
		if x.Others > 0 {
			fmt.Fprintf(w, " (the nearest %d of %d)", len(x.Near), len(x.Near)+x.Others)
		}
		fmt.Fprintln(w)
	}
	for _, t := range x.Near {
		fmt.Fprintf(w, "    %s allow %s, %s (%s:%d, owner %s)\n", t.Level, t.ID, t.Title, t.File, t.Line, t.Owner)
		for _, c := range t.Conditions {
			if c.Holds {
				conditionText(w, "      ", "yes", c)
			} else if c.Undefined {
				conditionText(w, "      ", "undefined", c)
			} else {
				conditionText(w, "      ", "no", c)
			}
		}
		if t.Left > 0 {
			fmt.Fprintf(w, "      and %d more conditions that were not asked\n", t.Left)
		}
	}
	flipText(w, x)
}

func verdictWord(allow bool) string {
	if allow {
		return "allows"
	}
	return "denies"
}

func conditionText(w io.Writer, indent, answer string, c policy.Condition) {
	fmt.Fprintf(w, "%s%-9s  line %d: %s\n", indent, answer, c.Line, c.Text)
	for _, f := range c.Facts {
		if f.Absent {
			fmt.Fprintf(w, "%s             %s is not there\n", indent, f.Path)
		} else {
			fmt.Fprintf(w, "%s             %s is %s\n", indent, f.Path, f.Value)
		}
	}
	for _, in := range c.Within {
		answer := "no"
		if in.Undefined {
			answer = "undefined"
		}
		conditionText(w, indent+"  ", answer, in)
	}
}

func flipText(w io.Writer, x *explaining.Explanation) {
	want := "allowed"
	if x.Allow {
		want = "denied"
	}
	f := x.Flip
	if !f.Found {
		fmt.Fprintf(w, "\n  no change of one or two parts of the input was found with which it would be %s (%d tried)\n", want, f.Tried)
	} else {
		by := f.Rule
		if f.Level != "" {
			by = f.Level + " " + f.Rule
		}
		fmt.Fprintf(w, "\n  it would be %s (by %s) with the smallest change found:\n", want, by)
		for _, c := range f.Changes {
			switch {
			case c.To == nil:
				fmt.Fprintf(w, "    without %s, which is %s\n", c.Path, jsonText(c.From))
			case c.From == nil:
				fmt.Fprintf(w, "    %s: %s, where there is none\n", c.Path, jsonText(c.To))
			default:
				fmt.Fprintf(w, "    %s: %s instead of %s\n", c.Path, jsonText(c.To), jsonText(c.From))
			}
		}
	}
	if !x.Allow {
		fmt.Fprintf(w, "\n  what to do: %s\n", advice(x))
	}
}

func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// advice names who can change it. What a caller is was verified and cannot be chosen.
func advice(x *explaining.Explanation) string {
	var whom []string
	for _, t := range x.Held {
		if t.Denies {
			whom = append(whom, fmt.Sprintf("%s, who owns the rule that denies it (%s:%d)", t.Owner, t.File, t.Line))
			break
		}
	}
	if len(whom) == 0 && len(x.Near) > 0 {
		t := x.Near[0]
		whom = append(whom, fmt.Sprintf("%s, who owns the rule nearest to allowing it (%s:%d)", t.Owner, t.File, t.Line))
	}
	if len(whom) == 0 {
		return "no rule is about this; whoever writes the policy can add one (bailiwick policy init makes a tree to begin with)"
	}
	return "if it should be allowed, tell " + strings.Join(whom, "; ") + ". What would change is tried out with bailiwick policy try --decision"
}
