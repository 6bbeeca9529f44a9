package sim

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

func TestScenarios(t *testing.T) {
	files, err := Files("testdata/small")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			s, err := Read(path)
			if err != nil {
				t.Fatal(err)
			}
			s.Name = "test/sim/" + s.Name
			r, err := Run(s)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%v", r.Values)
		})
	}
}

// Large ones are run by `make sim`; here they only have to be understood.
func TestLargeParse(t *testing.T) {
	files, err := Files("testdata/large")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, path := range files {
		if _, err := Read(path); err != nil {
			t.Error(err)
		}
	}
}

// everything is a scenario in which all that may hang on chance or order happens.
const everything = `
nodes 24
writers 6
loss 1% 20ms
adversary dropper 4
adversary liar 1
adversary equivocator 1
at 500ms write 20 every 30ms
at 2s cut 30%
at 3s write 20 every 30ms
at 4s kill 10%
at 14s heal
at 15s revive
run 17s
`

func TestDeterministic(t *testing.T) {
	trace := func(seed uint64) string {
		t.Helper()
		s, err := Parse(everything)
		if err != nil {
			t.Fatal(err)
		}
		s.Seed = seed
		r, err := Run(s)
		if err != nil {
			t.Fatal(err)
		}
		return r.Trace
	}
	first := trace(1)
	for range 2 { // maps are ordered otherwise each time
		if again := trace(1); again != first {
			t.Fatalf("trace %s, then %s with the same seed", first, again)
		}
	}
	if other := trace(2); other == first {
		t.Errorf("trace %s with two seeds", first)
	}
}

// What fails must say why, for what, and how to see it again.
func TestStory(t *testing.T) {
	s, err := Parse("nodes 20\nwriters 2\nadversary equivocator 1\nat 1s write 5 every 20ms\nat 2s cut 10%\nat 2s write 5 every 20ms\nrun 3s\nexpect undelivered = 0\nexpect p50 <= 1us")
	if err != nil {
		t.Fatal(err)
	}
	s.Name = "some/file.txt"
	_, err = Run(s)
	if !errors.Is(err, ErrExpected) {
		t.Fatalf("error %v, want %v", err, ErrExpected)
	}
	for _, want := range []string{
		"undelivered is", "p50 is", "go run ./test/sim/run -seed 1 some/file.txt", "is put at n", "have it", "cut off", "signs two records", "is guilty of", "up to",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the story lacks %q:\n%v", want, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"nodes 1":                            "at least 2",
		"nodes 5\nwriters 6":                 "6 writers",
		"nodes 5\nfoo 3":                     "line 2",
		"nodes 5\nexpect p77 <= 1":           "no such value",
		"nodes 5\nexpect p99 < 1":            "want <= or =",
		"nodes 5\nadversary saint 1":         "no such adversary",
		"nodes 5\nat 1s dance":               "no such step",
		"nodes 5\nat 1s cut 0.5":             "is no share",
		"nodes 5\nat 1s write 5 each 1s":     `"each" instead of "every"`,
		"nodes 5\nlatency 1ms":               "too short",
		"nodes 5\nseed 1 2":                  "too much",
		"nodes 5\nfoo\nat 1s heal\ncost x 1": "line 4",
	} {
		if _, err := Parse(text); !errors.Is(err, ErrScenario) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

func TestDeliver(t *testing.T) {
	r, err := Deliver(Options{Nodes: 60, Updates: 10, Writers: 4})
	if err != nil {
		t.Fatal(err)
	}
	if r.Undelivered > 0 || r.P50 <= 0 || r.P50 > r.P99 || r.P99 > r.Last || r.Last > 25 || r.Copies < 1 || r.Copies > 6 || r.Bytes < 500 || r.Idle <= 0 {
		t.Errorf("%+v", r)
	}
}

// Silent droppers change delivery by little: floods go around them.
func TestDroppersCostLittle(t *testing.T) {
	deliver := func(droppers float64) Result {
		t.Helper()
		r, err := Deliver(Options{Nodes: 100, Updates: 8, Writers: 4, Droppers: droppers})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	without, with := deliver(0), deliver(0.2)
	if with.P99 > 1.2*without.P99 || with.Undelivered > 0 {
		t.Errorf("p99 is %.2f ms with a fifth of droppers and %.2f without; %d updates did not come", with.P99, without.P99, with.Undelivered)
	}
}
