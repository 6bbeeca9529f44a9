package shadow

import (
	"fmt"
	"slices"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// However often and whatever one source asks, it is one caller.
func TestCallersAreCountedOnce(t *testing.T) {
	var tally Tally
	ask := func(kind policy.Kind, source, target string, enforced, candidate policy.Decision) {
		enforced.Source, enforced.Target = source, target
		tally.Add(policy.Input{Kind: kind}, enforced, candidate, at)
	}
	for range 60 {
		ask(policy.Connect, "mallory", "web", yes("a"), no("revoked"))
	}
	for i := range 40 {
		ask(policy.Connect, "mallory", fmt.Sprint("x", i), yes("a"), no(policy.RuleError))
	}
	ask(policy.Connect, "w1", "web", yes("a"), yes("a"))
	ask(policy.Connect, "w2", "web", no(policy.RuleError), yes("a"))
	ask(policy.StateAdmit, "mallory", "web", yes("a"), yes("a"))
	want := []Callers{{Kind: policy.Connect, Sources: 3, Denies: 1, Allows: 1, Fails: 1, Errors: 1}, {Kind: policy.StateAdmit, Sources: 1}}
	if got := tally.Callers(); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if tally.Compared() != 103 || tally.Questions() != 44 || tally.Uncounted() != 0 {
		t.Errorf("%d compared, %d different questions, %d not counted", tally.Compared(), tally.Questions(), tally.Uncounted())
	}
}

// What there is no room for is not held, and the tally says so. Who was there before still counts.
func TestCallersAreBounded(t *testing.T) {
	var tally Tally
	ask := func(source string, candidate policy.Decision) {
		d := yes("a")
		d.Source = source
		tally.Add(policy.Input{Kind: policy.Connect}, d, candidate, at)
	}
	for i := range maxSources + 50 {
		ask(fmt.Sprint("w", i), yes("a"))
	}
	ask("w1", no("b"))
	if len(tally.asked.sources) != maxSources || len(tally.asked.questions) != maxQuestions {
		t.Errorf("%d sources and %d questions are held", len(tally.asked.sources), len(tally.asked.questions))
	}
	if c := tally.Callers(); len(c) != 1 || c[0].Sources != maxSources || c[0].Denies != 1 || tally.Uncounted() != 50 || tally.Questions() != maxQuestions+51 {
		t.Errorf("%+v, %d not counted, %d questions", c, tally.Uncounted(), tally.Questions())
	}
}
