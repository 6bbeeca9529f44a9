package policy

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

func logLevel(name, rules string) Level {
	l := level(name, Connect, `deny contains "never" if input.service.port == 1`)
	l.Modules["log.rego"] = "package bailiwick." + name + ".log\n\nimport rego.v2\n\n" + rules
	return l
}

func recorded(t *testing.T) Decision {
	t.Helper()
	in := connect()
	in.V, in.Kind = InputVersion, Connect
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	return Decision{Kind: Connect, Input: b}
}

func TestRecording(t *testing.T) {
	d := recorded(t)
	if r, err := engine(t, Config{}).Recording(t.Context(), d); err != nil || r.Masks != nil || r.SampleEvery != 0 {
		t.Errorf("without rules: %+v, %v", r, err)
	}
	e := engine(t, Config{},
		logLevel(Global, "mask contains \"/input/source/path\" if input.kind == \"connect\"\nmask contains \"/input/self\" if input.kind == \"attest\"\nsample := 500\n"),
		logLevel(Regional, "mask contains {\"op\": \"upsert\", \"path\": \"/input/service/name\", \"value\": \"***\"}\nsample := 7 if port > 0\nport := input.service.port\n"))
	r, err := e.Recording(t.Context(), d)
	if err != nil || r.SampleEvery != 7 && r.SampleEvery != 500 {
		t.Fatalf("%+v, %v", r, err)
	}
	want := []Mask{{Op: MaskRemove, Path: "/input/source/path"}, {Op: MaskUpsert, Path: "/input/service/name", Value: "***"}}
	if !slices.Equal(r.Masks, want) {
		t.Errorf("masks %+v, want %+v", r.Masks, want)
	}
}

func TestRecordingThatFails(t *testing.T) {
	for _, rules := range []string{
		`mask contains p if p := concat("/", ["", "data", input.kind])`,
		`mask contains {"op": "drop", "path": "/input/source"}`,
		`mask contains input.time.unix`,
		`mask contains {"path": "/input/source"}`,
		`sample := 0`,
		`sample := 1.5`,
		`sample := "ten"`,
		"sample := 1 if input.kind == \"connect\"\nsample := 2 if input.v == 1",
	} {
		e := engine(t, Config{}, logLevel(Global, rules))
		if r, err := e.Recording(t.Context(), recorded(t)); !errors.Is(err, ErrRecording) || r.Masks != nil {
			t.Errorf("%s: %+v, %v", rules, r, err)
		}
	}
}

func TestRecordingThatIsRefused(t *testing.T) {
	for rules, want := range map[string]string{
		`masks contains "/input/source"`:               "did you mean mask?",
		`mask contains "/data/source"`:                 "not below /input",
		`mask := "/input/source"`:                      "another form",
		`mask contains "/input/surce" if input.surce`:  "surce",
		`deny contains "x" if input.kind == "connect"`: "used by no mask or sample",
	} {
		err := Check(logLevel(Global, rules))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", rules, err, want)
		}
	}
}

// No rule can be asked what to mask of a decision without an input: all of it is.
func TestRecordingWithoutInput(t *testing.T) {
	refused := Decision{Kind: Connect, Rule: RuleInput, Reason: "x"}
	for rules, want := range map[string]int{"sample := 10": 0, `mask contains "/input/source/path"`: 1} {
		r, err := engine(t, Config{}, logLevel(Global, rules)).Recording(t.Context(), refused)
		if err != nil || len(r.Masks) != want || want == 1 && r.Masks[0].Path != "/input" {
			t.Errorf("%s: %+v, %v", rules, r, err)
		}
	}
}
