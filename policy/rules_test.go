package policy

import "testing"

func TestRules(t *testing.T) {
	if got := new(Engine).Rules(Connect); got != nil {
		t.Errorf("the zero engine has rules: %v", got)
	}
	e := engine(t, Config{}, level(Global, Connect, "allow contains \"yes\" if input.source\ndeny contains \"no\" if input.source.region == \"west\""))
	got := e.Rules(Connect)
	if len(got) != 2 || got[0].ID != "yes" || got[0].Denies || got[1].ID != "no" || !got[1].Denies || got[1].Level != Global || got[1].Title == "" {
		t.Errorf("%+v", got)
	}
	if got := e.Rules(AttestNode); len(got) != 0 {
		t.Errorf("rules of another kind: %v", got)
	}
}

// The labels of a rule and of its package go with what it decides.
func TestLabels(t *testing.T) {
	e := New(Config{})
	if err := e.Activate(Level{Name: Global, Delegation: Delegation{All: true}, Modules: map[string]string{"a.rego": `# METADATA
# title: All
# labels:
#   owner: us
#   team: shops
package bailiwick.global.connect

import rego.v2

# METADATA
# title: Never
# labels:
#   runbook: https://wiki.example.org/x
#   weight: 3
deny contains "no" if input.v == 1
`}}); err != nil {
		t.Fatal(err)
	}
	d := e.Decide(t.Context(), connect())
	r := d.Decided()
	if r == nil || r.Owner != "us" || len(r.Labels) != 2 || r.Labels["team"] != "shops" || r.Labels["runbook"] != "https://wiki.example.org/x" {
		t.Errorf("%+v", r)
	}
	if (Decision{}).Decided() != nil {
		t.Error("a rule decided nothing")
	}
}
