package policy

import (
	"slices"
	"testing"
)

func TestDescribe(t *testing.T) {
	l := level(Global, Connect, `deny contains "a" if {
	startswith(input.source.zone, "x")
	count([1 | startswith(input.source.node, "y")]) == 1
}

allow contains "b" if helper

helper if input.v == 1`)
	l.Data = map[string]any{"a": 1}
	l.Modules["connect_test.rego"] = "package bailiwick.global.connect_test\nimport rego.v2\ntest_x if upper(\"a\") == \"A\"\n"
	p, err := Describe(l)
	if err != nil {
		t.Fatal(err)
	}
	if p.Rules != 3 || p.Modules != 1 || p.Tests != 1 || p.Data != 7 || !slices.Equal(p.Kinds, []KindRules{{Connect, 1, 1}}) {
		t.Errorf("%+v", p)
	}
	if len(p.Functions) != 2 || p.Functions[0].Name != "count" || p.Functions[1].Name != "startswith" || p.Functions[1].Uses != 2 {
		t.Errorf("%+v", p.Functions)
	}
}

// What rules ask of data and is not there is told: a misspelt name denies nothing, without a word.
func TestDescribeAbsentData(t *testing.T) {
	l := level(Global, Connect, `deny contains "a" if input.source.spiffe_id in data.blokced

deny contains "b" if {
	input.source.zone in data.there
	not data.maintenance
	data.blokced
}`)
	l.Data = map[string]any{"there": []any{}}
	l.Modules["connect_test.rego"] = "package bailiwick.global.connect_test\nimport rego.v2\nimport data.bailiwick.global.connect\ntest_x if connect.deny == set() with data.mocked as 1\n"
	p, err := Describe(l)
	if err != nil {
		t.Fatal(err)
	}
	want := []AbsentData{{"blokced", "global/connect.rego:9"}, {"maintenance", "global/connect.rego:17"}}
	if !slices.Equal(p.Absent, want) {
		t.Errorf("%v, want %v", p.Absent, want)
	}
}
