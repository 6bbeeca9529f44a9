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
