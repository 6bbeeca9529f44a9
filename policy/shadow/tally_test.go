package shadow

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

var at = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func yes(rule string) policy.Decision {
	return policy.Decision{Allow: true, Level: policy.Regional, Rule: rule}
}

func no(rule string) policy.Decision { return policy.Decision{Level: policy.Regional, Rule: rule} }

func TestCompare(t *testing.T) {
	grants := func(rate float64) policy.Decision {
		d := yes("a")
		d.Grants = []policy.Grant{{ID: "a", Prefix: "/x", Rate: rate}}
		return d
	}
	thresholds := yes("a")
	thresholds.Thresholds = &policy.Thresholds{}
	for _, c := range []struct {
		name                string
		enforced, candidate policy.Decision
		want                Class
	}{
		{"the same allow", yes("a"), yes("a"), Same},
		{"the same denial", no("a"), no("a"), Same},
		{"a denial more", yes("a"), no("b"), Denies},
		{"an allow more", no("a"), yes("b"), Allows},
		{"another allow", yes("a"), yes("b"), Rule},
		{"another denial", no("a"), no("b"), Rule},
		{"another level", no("a"), policy.Decision{Level: policy.Global, Rule: "a"}, Rule},
		{"other grants", grants(1), grants(2), Values},
		{"the same grants", grants(1), grants(1), Same},
		{"thresholds", yes("a"), thresholds, Values},
		{"a failing candidate", yes("a"), no(policy.RuleError), Fails},
		{"that denies what was denied", no("a"), no(policy.RulePanic), Fails},
		{"both fail", no(policy.RuleError), no(policy.RuleError), Same},
		{"only the one in force fails", no(policy.RuleExpired), yes("a"), Allows},
		{"an allow that is named like a failure", yes("a"), yes(policy.RuleError), Rule},
		{"two that nobody filled in", policy.Decision{}, policy.Decision{}, Same},
	} {
		if got := Compare(c.enforced, c.candidate); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// What is masked is in no example; who is meant is told apart all the same.
func TestExamplesAreMasked(t *testing.T) {
	tally := Tally{Mask: func(d policy.Decision) policy.Decision {
		d.Source, d.Input, d.Reason = "", json.RawMessage(`{}`), "not shown"
		return d
	}}
	candidate := no("paused")
	candidate.Reason = "not for spiffe://a/secret"
	for i := range 9 {
		enforced := yes("granted")
		enforced.Source = fmt.Sprint("spiffe://a/secret", i%2)
		tally.Add(policy.Input{Kind: policy.Connect, Source: &policy.Peer{SPIFFEID: enforced.Source}}, enforced, candidate, at)
	}
	examples := tally.Groups()[0].Examples
	b, err := json.Marshal(examples)
	if err != nil || strings.Contains(string(b), "secret") || len(examples) != 2 {
		t.Errorf("%s, %v", b, err)
	}
}

func TestTallyGroupsWithExamples(t *testing.T) {
	var tally Tally
	for i := range 10 {
		enforced := yes("granted")
		enforced.ID, enforced.Source, enforced.Target = fmt.Sprint("d", i), fmt.Sprint("spiffe://a/", i%2), "web.east"
		tally.Add(policy.Input{Kind: policy.Connect}, enforced, no("paused"), at.Add(time.Duration(i)*time.Second))
	}
	tally.Add(policy.Input{Kind: policy.Connect}, no("paused"), yes("granted"), at)
	tally.Add(policy.Input{Kind: policy.Connect}, no(policy.RuleError), yes("granted"), at)
	tally.Add(policy.Input{Kind: policy.StateAdmit}, yes("a"), yes("a"), at)
	tally.Add(policy.Input{Kind: policy.StateAdmit}, yes("a"), yes("b"), at)
	if tally.Compared() != 14 || tally.Different() != 12 || tally.Denied != 1 || tally.Errors != 1 {
		t.Errorf("compared %d, different %d, denied %d, errors %d", tally.Compared(), tally.Different(), tally.Denied, tally.Errors)
	}
	groups := tally.Groups()
	if len(groups) != 4 || groups[0].Class != Allows || groups[2].Class != Denies || groups[3].Class != Rule {
		t.Fatalf("%+v", groups)
	}
	g := groups[2]
	if g.Count != 10 || !g.First.Equal(at) || !g.Last.Equal(at.Add(9*time.Second)) || g.Candidate.Rule != "paused" || len(g.Examples) != 2 {
		t.Errorf("%+v", g)
	}
	if g.Examples[1].Decision != "d1" || len(g.Examples[1].Input) == 0 {
		t.Errorf("%+v", g.Examples[1])
	}
	groups[2].Examples[0].Decision = "changed"
	if tally.Groups()[2].Examples[0].Decision != "d0" {
		t.Error("a report shares its examples with the tally")
	}
}

func TestTallyIsBounded(t *testing.T) {
	var tally Tally
	for i := range maxGroups + 50 {
		tally.Add(policy.Input{Kind: policy.Connect}, yes("a"), no(fmt.Sprint("r", i)), at)
	}
	if n := len(tally.Groups()); n != maxGroups || tally.Ungrouped != 50 || tally.Compared() != maxGroups+50 {
		t.Errorf("%d groups, %d without one, %d compared", n, tally.Ungrouped, tally.Compared())
	}
}
