package main

import (
	"os"
	"strings"
	"testing"
)

// TestMarkers keeps the markers in the code and the attacks in step, and sees that every
// check can be taken out.
func TestMarkers(t *testing.T) {
	t.Chdir("../../..")
	checks, err := scan(".")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := attackTests(attacks...)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range attacks {
		if some, err := attackTests(dir); err != nil || len(some) == 0 {
			t.Fatalf("no attacks in %s: this test looks in the wrong place; %v", dir, err)
		}
	}
	for _, wrong := range inStep(checks, tests) {
		t.Error(wrong)
	}
	for _, c := range checks {
		if _, err := c.without(); err != nil {
			t.Error(err)
		}
	}
	makefile, err := os.ReadFile("Makefile")
	if err != nil || !strings.Contains(string(makefile), "./test/attack/mutate") {
		t.Errorf("make mutate does not run this: %v", err)
	}
}

func TestTakeOut(t *testing.T) {
	const src = `package p

func f(a, b bool) int {
	//bailiwick:check TestOne TestTwo/sub
	if g(); a && b {
		return 1
	}
	//bailiwick:check TestOne
	if a {
		g()
	} else {
		return 2
	}
	switch {
	//bailiwick:check TestThree
	case a:
		return 2
	}
	//bailiwick:check TestFour
	g()
	//bailiwick:check TestFive
	x := a
	_ = x
	//bailiwick:check TestSix instead return 5
	return 3
}
`
	checks, err := marked("p.go", []byte(src))
	if err != nil || len(checks) != 6 {
		t.Fatalf("%d checks, %v", len(checks), err)
	}
	for i, want := range []string{"if false { if g(); a && b {", "if false && (a) {", "case false && (a):", "if false { g() }"} {
		out, err := takenOut(checks[i], []byte(src))
		if err != nil || strings.Count(string(out), want) != 1 || len(out) == len(src) || strings.Count(string(out), "\n") != strings.Count(src, "\n") {
			t.Errorf("%s: %v\n%s", checks[i], err, out)
		}
	}
	if out, err := takenOut(checks[5], []byte(src)); err != nil || !strings.Contains(string(out), "	return 5\n}") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := takenOut(checks[4], []byte(src)); err == nil {
		t.Error("a definition was taken out")
	}
	tests := map[string]attack{"TestOne": {}, "TestTwo": {texts: map[string]bool{"other": true}}, "TestFour": {}, "TestFive": {}, "TestSix": {}, "TestSeven": {}}
	got := strings.Join(inStep(checks, tests), "\n")
	for _, want := range []string{"TestTwo has no subtest sub", "no TestThree", "marked with TestSeven"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not said in\n%s", want, got)
		}
	}
}
