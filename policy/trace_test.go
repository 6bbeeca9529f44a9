package policy

import (
	"fmt"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func traced(t *testing.T) (*Engine, Input) {
	t.Helper()
	l := level(Global, Connect, `
	deny contains "old" if input.source.attestation.age_seconds > 86400
	deny contains "unlisted" if {
		input.service.name
		not input.source.spiffe_id in data.services[input.service.name].callers
	}
	allow contains "friend" if {
		input.source.region == "east"
		friendly
		input.service.port == 443
	}
	friendly if { some r in input.source.roles; r == "gateway" }
	friendly if input.source.zone == "x"
	allow contains "region" if input.source.region == "north"`)
	l.Data = map[string]any{"services": map[string]any{"db": map[string]any{"callers": []any{"spiffe://x/y"}}}}
	in := connect()
	in.V, in.Kind = InputVersion, Connect
	return engine(t, Config{}, l), in
}

func TestTrace(t *testing.T) {
	e, in := traced(t)
	got, err := e.Trace(t.Context(), in)
	if err != nil || len(got) != 4 {
		t.Fatalf("%d rules, %v", len(got), err)
	}
	by := map[string]RuleTrace{}
	for _, r := range got {
		by[r.ID] = r
	}
	if r := by["unlisted"]; !r.Held || !r.Denies || len(r.Conditions) != 2 || r.Conditions[1].Text != "not input.source.spiffe_id in data.services[input.service.name].callers" ||
		!slices.Contains(r.Conditions[1].Facts, Fact{Path: "data.services[input.service.name].callers", Absent: true}) || r.Failed() != nil {
		t.Errorf("%+v", r)
	}
	if f := by["old"].Failed(); f == nil || f.Undefined || f.Facts[0].Value != "7" {
		t.Errorf("%+v", f)
	}
	friend := by["friend"]
	if f := friend.Failed(); f == nil || f.Text != "friendly" || friend.Left != 1 || !friend.Conditions[0].Holds || len(f.Within) != 2 || !f.Within[0].Undefined || f.Within[0].File != "global/connect.rego" {
		t.Errorf("%+v", friend)
	}
	if f := by["region"].Failed(); f == nil || f.Undefined || fmt.Sprint(f.Facts) != `[{input.source.region "east" false}]` {
		t.Errorf("%+v", f)
	}
	if none, err := New(Config{}).Trace(t.Context(), in); err != nil || none != nil {
		t.Errorf("without policy: %v, %v", none, err)
	}
}

// Who only asks changes nothing: no count, no memory, no observer.
func TestAside(t *testing.T) {
	l := level(Global, Connect, `allow contains "all" if input.source`)
	reg := prometheus.NewRegistry()
	e := engine(t, Config{Metrics: reg}, l)
	e.Observe(func(Input, Decision) { t.Error("observed") })
	in := connect()
	counts := func() string {
		all, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(all)
	}
	before := counts()
	if d := e.Aside().Decide(t.Context(), in); !d.Allow || d.Input != nil || d.Revision != e.Revision() {
		t.Errorf("%+v", d)
	}
	if after := counts(); after != before {
		t.Error("it was counted")
	}
	e.Observe(nil)
	if d := e.Decide(t.Context(), in); d.Cached {
		t.Error("it was remembered")
	}
}

func TestVocabulary(t *testing.T) {
	e, _ := traced(t)
	words := map[string][]any{}
	for _, w := range e.Vocabulary(Connect) {
		words[fmt.Sprint(w.Path)] = w.Values
	}
	if v := words["[source attestation age_seconds]"]; !slices.Equal(v, []any{int64(86400), int64(86401), int64(86399)}) {
		t.Errorf("age: %v", v)
	}
	if v := words["[source region]"]; !slices.Contains(v, any("north")) || v[0] != "east" {
		t.Errorf("region: %v", v)
	}
	if v := words["[source spiffe_id]"]; !slices.Contains(v, any("spiffe://x/y")) {
		t.Errorf("caller: %v", v)
	}
	if v := words["[service name]"]; !slices.Contains(v, any("db")) {
		t.Errorf("service: %v", v)
	}
	if v := words["[source roles]"]; !slices.Contains(v, any("gateway")) {
		t.Errorf("roles: %v", v)
	}
	if e.Vocabulary(Admin) != nil {
		t.Error("words of a kind without rules")
	}
}
