package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

func TestSamePolicyChangesNothing(t *testing.T) {
	e := newEngine(t, reference()...)
	lines := record(t, e, 700)
	r, err := Run(t.Context(), linesOf(lines), newEngine(t, reference()...), Options{})
	if err != nil || r.Read != 700 || r.Replayed != 700 || r.Changed != 0 || r.ByOthers != 0 || len(r.Groups) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// What the new policy changes is found, each time the same, however many workers there are.
func TestChanges(t *testing.T) {
	lines := record(t, newEngine(t, reference()...), 1000)
	changed := reference()
	src := changed[1].Modules["connect.rego"]
	src = strings.Replace(src, `input.service.name == "svc-7"`, `input.service.name == "svc-200"`, 1) // one service closed, another opened
	src += rule("allow", "also", `input.service.name == "svc-9"`)                                     // sorts before rule-9
	changed[1].Modules["connect.rego"] = src
	next := newEngine(t, changed...)
	var first []byte
	for _, workers := range []int{1, 2, 7} {
		r, err := Run(t.Context(), linesOf(lines), next, Options{Workers: workers, Examples: 2})
		if err != nil {
			t.Fatal(err)
		}
		r.Seconds, r.Rate = 0, 0
		got, _ := json.Marshal(r)
		if first == nil {
			first = got
		}
		if !bytes.Equal(got, first) {
			t.Errorf("%d workers:\n%s\nwant\n%s", workers, got, first)
		}
		if r.Changed != 9 || r.Opened != 4 || r.Closed != 5 || r.ByOthers != 5 || len(r.Groups) != 3 {
			t.Fatalf("%s", got)
		}
		closed := r.Groups[0]
		if closed.Was.Rule != "rule-7" || closed.Now.Rule != policy.RuleNoGrant || closed.Count != 5 || len(closed.Examples) != 2 ||
			closed.Examples[0].ID != id(t, lines[7]) || closed.Examples[1].ID != id(t, lines[247]) {
			t.Errorf("%+v", closed)
		}
		if opened := r.Groups[1]; opened.Now.Rule != "rule-7" || opened.Now.File != "regional/connect.rego" || opened.Now.Line == 0 || opened.Count != 4 {
			t.Errorf("%+v", opened)
		}
		if other := r.Groups[2]; other.Changed || other.Now.Rule != "also" || other.Count != 5 {
			t.Errorf("%+v", other)
		}
	}
}

func id(t *testing.T, line []byte) string {
	t.Helper()
	e, err := decision.ParseEvent(line)
	if err != nil {
		t.Fatal(err)
	}
	return e.DecisionID
}

// A grant that changed is a change, though the answer is allow both times.
func TestGrantsAreCompared(t *testing.T) {
	level := func(bytes int) policy.Level {
		return policy.Level{Name: policy.Global, Revision: "1", Delegation: policy.Delegation{All: true}, Modules: map[string]string{"state.rego": fmt.Sprintf(
			"package bailiwick.global.state_admit\n\nimport rego.v2\n\n%sgrant[\"own\"] := {\"prefix\": \"/node/n1/\", \"scope\": \"zone\", \"bytes\": %d, \"rate\": 5} if input.source\n", rule("allow", "own", "input.source"), bytes)}}
	}
	was := newEngine(t, level(100)).Decide(t.Context(), policy.Input{V: 1, Kind: policy.StateAdmit, Time: policy.Time{Unix: 1}, Source: &policy.Peer{SPIFFEID: "spiffe://east.dev.example/node/n1"}})
	if !was.Allow {
		t.Fatal(was.Explain())
	}
	line, _ := json.Marshal(decision.NewEvent(was, nil, was.At))
	for size, want := range map[int]int64{100: 0, 99: 1} {
		r, err := Run(t.Context(), linesOf([][]byte{line}), newEngine(t, level(size)), Options{})
		if err != nil || r.Changed != want || r.Opened+r.Closed != 0 {
			t.Errorf("%d bytes: %+v, %v", size, r, err)
		}
	}
}

func TestSkips(t *testing.T) {
	e := newEngine(t, reference()...)
	base, err := decision.ParseEvent(record(t, e, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	for why, change := range map[string]func(*decision.Event){
		SkipMasked:  func(e *decision.Event) { e.Erased = []string{"/input/source"} },
		SkipUnasked: func(e *decision.Event) { e.Result.Verdicts = nil },
		SkipInput:   func(e *decision.Event) { e.Input = json.RawMessage(`{"v":9,"kind":"connect"}`) },
	} {
		ev := base
		change(&ev)
		line, _ := json.Marshal(ev)
		r, err := Run(t.Context(), linesOf([][]byte{line}), e, Options{})
		if err != nil || r.Skipped[why] != 1 || r.Replayed != 0 || r.SkippedInAll() != 1 {
			t.Errorf("%s: %+v, %v", why, r, err)
		}
	}
	odd := bytes.Replace(record(t, e, 1)[0], []byte(`"unix":1795000000`), []byte(`"unix":"noon"`), 1)
	if r, err := Run(t.Context(), linesOf([][]byte{odd}), e, Options{}); err != nil || r.Skipped[SkipInput] != 1 {
		t.Errorf("an input of another version: %+v, %v", r, err)
	}
}

func TestWhatEndsAReplay(t *testing.T) {
	e := newEngine(t, reference()...)
	lines := record(t, e, 300)
	bad := slices.Clone(lines)
	bad[200] = []byte(`{"decision_id":`)
	if _, err := Run(t.Context(), linesOf(bad), e, Options{}); !errors.Is(err, decision.ErrEvent) || !strings.Contains(err.Error(), "decision 201") {
		t.Errorf("a line that is none: %v", err)
	}
	foreign := slices.Clone(lines)
	foreign[5] = []byte(`{"decision_id":"x","path":"system/main"}`)
	if _, err := Run(t.Context(), linesOf(foreign), e, Options{}); !errors.Is(err, decision.ErrEvent) {
		t.Errorf("another program's: %v", err)
	}
	disk := errors.New("the disk")
	var failing iter.Seq2[[]byte, error] = func(yield func([]byte, error) bool) {
		_ = yield(lines[0], nil) && yield(nil, disk)
	}
	if _, err := Run(t.Context(), failing, e, Options{}); !errors.Is(err, disk) {
		t.Errorf("a failing disk: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var seen int64
	_, err := Run(ctx, linesOf(lines), e, Options{Workers: 1, Progress: func(n int64) { seen = n; cancel() }})
	if !errors.Is(err, context.Canceled) || seen == 0 {
		t.Errorf("interrupted: %v after %d", err, seen)
	}
}
