package sim

import (
	"errors"
	"fmt"
	"testing"
)

// Whatever befalls honest nodes makes none of them guilty, and whoever lies is found out by all.
// make sim runs a thousand, test/sim/run -schedules as many as are wanted.
func TestSchedules(t *testing.T) {
	tally, err := Schedules(1, 60)
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range append(upsets, liars...) {
		if tally.Did[what] == 0 {
			t.Errorf("no schedule has %s: %v", what, tally.Did)
		}
	}
	t.Logf("%+v", tally)
}

// The same nodes are harmed when they have no counters: they sign numbers twice, which is what the
// schedules would show if the product did.
func TestForgottenNumbersAreSeen(t *testing.T) {
	steps := "nodes 6\nwriters 6\nat 500ms write 12 every 100ms\nat 1s backup\nat 2s %s 60%%\nat 2s write 40 every 20ms\nrun 6s\nexpect harmed = 0"
	for step, want := range map[string]error{"restore": nil, "forget": ErrExpected} {
		s, err := Parse(fmt.Sprintf(steps, step))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Run(s); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", step, err, want)
		}
	}
}
