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
