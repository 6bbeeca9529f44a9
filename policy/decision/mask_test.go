package decision

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

func TestMasks(t *testing.T) {
	remove := func(path string) policy.Mask { return policy.Mask{Op: policy.MaskRemove, Path: path} }
	for _, tt := range []struct {
		name           string
		masks          []policy.Mask
		input          string // that is left
		by, target     string
		erased, masked []string
	}{
		{name: "none", input: `{"service":{"name":"db","region":"east"},"source":{"labels":{"a/b":"x~y"},"path":["workload","shop"],"spiffe_id":"spiffe://e/shop"}}`, by: "spiffe://e/shop", target: "db.east"},
		{name: "the caller", masks: []policy.Mask{remove("/input/source/spiffe_id"), remove("/input/source/path/1")},
			input: `{"service":{"name":"db","region":"east"},"source":{"labels":{"a/b":"x~y"},"path":["workload",null]}}`, target: "db.east", erased: []string{"/input/source/path/1", "/input/source/spiffe_id"}},
		{name: "the service", masks: []policy.Mask{{Op: policy.MaskUpsert, Path: "/input/service/name", Value: "***"}},
			input: `{"service":{"name":"***","region":"east"},"source":{"labels":{"a/b":"x~y"},"path":["workload","shop"],"spiffe_id":"spiffe://e/shop"}}`, by: "spiffe://e/shop", masked: []string{"/input/service/name"}},
		{name: "a label", masks: []policy.Mask{remove("/input/source/labels/a~1b"), remove("/input/source/nothing"), remove("/input/source/path/7"), remove("/input/source/path/x"), remove("/input/source/spiffe_id/x")},
			input: `{"service":{"name":"db","region":"east"},"source":{"labels":{},"path":["workload","shop"],"spiffe_id":"spiffe://e/shop"}}`, by: "spiffe://e/shop", target: "db.east", erased: []string{"/input/source/labels/a~1b"}},
		{name: "everything", masks: []policy.Mask{remove("/input")}, erased: []string{"/input"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := Event{Input: json.RawMessage(`{"source":{"spiffe_id":"spiffe://e/shop","path":["workload","shop"],"labels":{"a/b":"x~y"}},"service":{"name":"db","region":"east"}}`),
				RequestedBy: "spiffe://e/shop", Result: Result{Target: "db.east", Reason: "spiffe://e/shop may not", Verdicts: []policy.Verdict{{Reason: "shop: bad"}}}}
			e.mask(tt.masks)
			var got bytes.Buffer
			if len(e.Input) > 0 {
				var v any
				json.Unmarshal(e.Input, &v)
				b, _ := json.Marshal(v)
				got.Write(b)
			}
			if got.String() != tt.input || e.RequestedBy != tt.by || e.Result.Target != tt.target || !slices.Equal(e.Erased, tt.erased) || !slices.Equal(e.Masked, tt.masked) {
				t.Errorf("%s\nby %q, target %q, erased %v, masked %v", got.String(), e.RequestedBy, e.Result.Target, e.Erased, e.Masked)
			}
			if tt.by == "" && strings.Contains(e.Result.Reason, "shop") {
				t.Errorf("the reason still says %q", e.Result.Reason)
			}
		})
	}
}

// What is masked is nowhere on the disk: not in the store, its leaves, its journal or a segment.
func TestMaskedBeforeItIsWritten(t *testing.T) {
	for name, rules := range map[string]Rules{
		"masked": func(context.Context, policy.Decision) (policy.Recording, error) {
			return policy.Recording{Masks: []policy.Mask{{Op: policy.MaskRemove, Path: "/input/source/spiffe_id"}, {Op: policy.MaskUpsert, Path: "/input/service/name", Value: "hidden"}}}, nil
		},
		"the rules fail": func(context.Context, policy.Decision) (policy.Recording, error) {
			return policy.Recording{}, errors.New("they fail")
		},
	} {
		state := t.TempDir()
		s := open(t, filepath.Join(state, "db"))
		l := New(Config{Store: s, Engine: repeating{}, Rules: rules, Dir: filepath.Join(state, DirName)})
		d := l.Decide(t.Context(), ask("treasury"))
		if d.Allow || !strings.Contains(string(d.Input), "treasury") {
			t.Fatalf("the caller is told %+v", d)
		}
		e, err := l.Get(d.ID)
		if err != nil || e.Replayable() || len(e.Erased) == 0 {
			t.Fatalf("%s: %+v, %v", name, e, err)
		}
		var leaf denyLeaf
		if err := statement.Unmarshal(leaves(t, s, "decision.deny")[0].Body, &leaf); err != nil || leaf.Source != "" || leaf.Target != "" {
			t.Errorf("%s: leaf %+v, %v", name, leaf, err)
		}
		if err := l.Rotate(); err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		for line, err := range Lines(l.cfg.Dir) {
			if err != nil {
				t.Fatal(err)
			}
			text.Write(line)
		}
		files, _ := os.ReadDir(state)
		for _, f := range files {
			b, _ := os.ReadFile(filepath.Join(state, f.Name()))
			text.Write(b)
		}
		for _, secret := range []string{"treasury", "workload/shop"} {
			if bytes.Contains(text.Bytes(), []byte(secret)) {
				t.Errorf("%s: %q is on the disk", name, secret)
			}
		}
	}
}

// repeating denies, and says what it was asked in every field.
type repeating struct{}

func (repeating) Recall(policy.Input) *policy.Decision { return nil }

func (repeating) Decide(_ context.Context, in policy.Input) policy.Decision {
	b, _ := json.Marshal(in)
	return policy.Decision{ID: policy.NewID(), Kind: in.Kind, Source: in.Source.SPIFFEID, Target: in.Service.Name, Rule: "r",
		Reason: in.Source.SPIFFEID + " may not call " + in.Service.Name, Input: b,
		Verdicts: []policy.Verdict{{Level: policy.Global, Outcome: policy.Erroneous, Reason: "bad operand " + in.Service.Name}}}
}

// Copies of what is masked may be cut or escaped in a reason; without an input nobody can look for
// copies at all.
func TestMaskedTextIsInNoReason(t *testing.T) {
	masks := []policy.Mask{{Op: policy.MaskRemove, Path: "/input/source/spiffe_id"}, {Op: policy.MaskRemove, Path: "/input/request/path"}}
	for name, input := range map[string]string{
		"without an input": "",
		"escaped and cut":  `{"source":{"spiffe_id":"spiffe://x/workload/patient-smith"},"request":{"path":["a\"b-secret"]}}`,
	} {
		e := Event{RequestedBy: "spiffe://x/workload/patient-smith", Input: json.RawMessage(input), Result: Result{
			Rule: "question-not-valid", Target: "svc", Reason: `segment "a\"b-secret" of spiffe://x/workload/patient-smi`,
			Verdicts: []policy.Verdict{{Outcome: policy.Erroneous, Reason: `"a\"b-secr: bad`}, {Outcome: policy.Allowed, Reason: "it is outside the level's delegation"}}}}
		e.mask(masks)
		line, err := json.Marshal(e)
		if err != nil || strings.Contains(string(line), "secr") || strings.Contains(string(line), "patient") || len(e.Erased) == 0 || e.Replayable() {
			t.Errorf("%s: %s, %v", name, line, err)
		}
	}
	for _, r := range []Result{{Rule: policy.RuleNoGrant, Reason: "no level allows it"}, {Rule: "r", Title: "Shops only", Reason: "Shops only"}} {
		e := Event{Input: json.RawMessage(`{"source":{"spiffe_id":"spiffe://x/y"}}`), Result: r}
		if e.mask(masks); e.Result.Reason != r.Reason || len(e.Erased) != 1 {
			t.Errorf("what the policy says itself: %+v", e)
		}
	}
}

// Who shows a decision that is recorded nowhere hides the same.
func TestMasked(t *testing.T) {
	d := policy.Decision{ID: "1", Kind: policy.Connect, Source: "spiffe://x/workload/smith", Target: "web.east", Rule: "level-error", Reason: "smith failed", Input: json.RawMessage(`{"source":{"spiffe_id":"spiffe://x/workload/smith"}}`)}
	if got := Masked(d, policy.Recording{}, nil); !reflect.DeepEqual(got, d) {
		t.Errorf("without rules: %+v", got)
	}
	rules := policy.Recording{Masks: []policy.Mask{{Op: policy.MaskRemove, Path: "/input/source/spiffe_id"}}}
	for name, got := range map[string]policy.Decision{"rules": Masked(d, rules, nil), "failed rules": Masked(d, policy.Recording{}, policy.ErrRecording)} {
		if b, err := json.Marshal(got); err != nil || strings.Contains(string(b), "smith") || got.ID != d.ID {
			t.Errorf("%s: %s, %v", name, b, err)
		}
	}
}

// The leaf says no more of an event than the event does.
func TestLeafOfAnEventThatIsTooLong(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	l := New(Config{Store: s, Engine: repeating{}, Dir: t.TempDir()})
	d := policy.Decision{Kind: policy.Connect, Source: "spiffe://x/y", Target: "db", Rule: "r", Reason: strings.Repeat("x", MaxEvent), Input: json.RawMessage(`{"v":1}`)}
	d = l.Record(d)
	e, err := l.Get(d.ID)
	if err != nil || e.RequestedBy != "" || e.Result.Target != "" {
		t.Fatalf("%+v, %v", e, err)
	}
	var leaf denyLeaf
	nothing, _ := e.Commitment()
	if err := statement.Unmarshal(leaves(t, s, "decision.deny")[0].Body, &leaf); err != nil || leaf.Source != "" || leaf.Target != "" || !bytes.Equal(leaf.Commitment, nothing[:]) || len(e.Input) != 0 {
		t.Errorf("%+v, %v", leaf, err)
	}
}
