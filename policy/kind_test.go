package policy

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// example is an input of a kind with every part that the kind has.
func example(kind Kind) Input {
	in := Input{V: InputVersion, Kind: kind, Time: connect().Time}
	all := connect()
	shape := shapes[kind]
	for s, set := range map[section]func(){
		hasSelf:        func() { in.Self = all.Self },
		hasSource:      func() { in.Source = all.Source },
		hasDestination: func() { in.Destination = all.Self },
		hasService:     func() { in.Service = all.Service },
		hasAction:      func() { in.Action = &Action{Name: Accept} },
		hasRequest: func() {
			in.Request = &Request{Method: "GET", Host: "web.east.mesh", Path: []string{"v1"}, Headers: map[string]string{"x-a": "1"}}
		},
		hasResource: func() { in.Resource = &Resource{Classes: []string{"gdpr"}} },
		hasAttest:   func() { in.Attest = &Attest{Method: "bailiwick_tpm"} },
		hasRoster:   func() { in.Roster = &Roster{Attested: 40, Unattested: 2} },
		hasCall:     func() { in.Call = &Call{API: "control", Name: "Release", UID: 1000, GID: 100, Owner: true} },
	} {
		if (shape.must|shape.may)&s != 0 {
			set()
		}
	}
	return in
}

// Every kind is decided, recorded and replayed; its published schema takes what is recorded, and
// takes no other kind's.
func TestEveryKindReplays(t *testing.T) {
	schemas := map[Kind]map[string]any{}
	for _, kind := range Kinds {
		b, err := KindSchema(kind)
		if err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatal(err)
		}
		schemas[kind] = doc
	}
	for _, kind := range Kinds {
		l := level(Global, kind, `allow contains "yes" if input.v == 1`)
		if value := valueRules[kind]; value != "" {
			l = level(Global, kind, "allow contains \"yes\" if input.v == 1\n"+value+`["yes"] := {"prefix": "/a", "scope": "zone", "bytes": 1, "rate": 1}`)
			if kind == Quarantine {
				l = level(Global, kind, "allow contains \"yes\" if input.v == 1\nthresholds[\"yes\"] := {\"cap_percent\": count(\"abcde\")}")
			}
		}
		e := engine(t, Config{}, l)
		d := e.Decide(t.Context(), example(kind))
		if !d.Allow || d.Rule != "yes" || d.Target == "" && kind != StateAdmit && kind != Quarantine {
			t.Fatalf("%s: %s", kind, d.Explain())
		}
		again, err := ParseInput(d.Input)
		if err != nil {
			t.Fatal(err)
		}
		if r := e.Decide(t.Context(), again); !r.Allow || string(r.Input) != string(d.Input) {
			t.Errorf("%s does not replay: %s", kind, r.Explain())
		}
		for of, schema := range schemas {
			if err := validate(schema, d.Input); (err == nil) != (of == kind) {
				t.Errorf("the schema of %s about an input of %s: %v", of, kind, err)
			}
		}
		with := example(kind)
		for _, other := range Kinds {
			if foreign := shapes[other].must &^ (shapes[kind].must | shapes[kind].may); foreign != 0 {
				mixed := example(other)
				mixed.Kind = kind
				if d := e.Decide(t.Context(), mixed); d.Allow || d.Rule != RuleInput {
					t.Errorf("%s takes an input of %s: %s", kind, other, d.Explain())
				}
			}
		}
		with.V = 2
		if err := with.check(); !errors.Is(err, ErrInput) {
			t.Errorf("%s of version 2: %v", kind, err)
		}
	}
}

// A library is judged by each kind that needs it, and by none that does not.
func TestLibraryIsJudgedByKind(t *testing.T) {
	lib := "package bailiwick.global.lib\n\nimport rego.v2\n\nmine if input.service.region == \"east\"\n\nnear if input.source.region == \"east\"\n"
	use := func(kind Kind, rule string) Level {
		l := level(Global, kind, "allow contains \"yes\" if data.bailiwick.global.lib."+rule)
		l.Modules["lib.rego"] = lib
		if kind == StateAdmit {
			l.Modules["state_admit.rego"] += "\ngrant[\"yes\"] := {\"prefix\": \"/a\", \"scope\": \"zone\", \"bytes\": 1, \"rate\": 1}"
		}
		return l
	}
	for _, l := range []Level{use(Connect, "mine"), use(StateAdmit, "near")} {
		if err := New(Config{}).Activate(l); err != nil {
			t.Error(err)
		}
	}
	err := New(Config{}).Activate(use(StateAdmit, "mine"))
	if !errors.Is(err, ErrCompile) || !strings.Contains(err.Error(), `global/lib.rego:5: the input of kind state_admit has no field service`) {
		t.Errorf("got %v", err)
	}
}

// The lowest level that may say so gives the thresholds; another one's are not heard.
func TestThresholdsOfTheLowestDelegated(t *testing.T) {
	of := func(name, percent string) Level {
		return level(name, Quarantine, "allow contains \"t\" if input.roster.attested > 1\nthresholds[\"t\"] := {\"cap_percent\": "+percent+"}")
	}
	regional := of(Regional, "8")
	may := Delegation{Kinds: []Kind{Quarantine}, Regions: []string{"east"}}
	for _, tt := range []struct {
		delegation Delegation
		regional   string
		want       int
		rule       string
	}{
		{may, "8", 8, "t"},
		{Delegation{Kinds: []Kind{Connect}, Regions: []string{"east"}}, "8", 5, "t"},
		{Delegation{Kinds: []Kind{Quarantine}, Regions: []string{"west"}}, "8", 5, "t"},
		{may, "7.5", 0, RuleError},
		{may, "0", 0, RuleError},
		{may, `"8"`, 0, RuleError},
	} {
		regional = of(Regional, tt.regional)
		regional.Delegation = tt.delegation
		d := engine(t, Config{}, of(Global, "5"), regional).Decide(t.Context(), example(Quarantine))
		got := 0
		if d.Thresholds != nil {
			got = d.Thresholds.CapPercent
		}
		if got != tt.want || d.Rule != tt.rule || d.Allow != (tt.want > 0) {
			t.Errorf("%s under %+v: %d by %s", tt.regional, tt.delegation, got, d.Explain())
		}
	}
}

// What mends a node stays open to its owner; nothing else does, and nobody else may.
func TestRepairCalls(t *testing.T) {
	suicidal := level(Local, Admin, `deny contains "no" if true`)
	for _, tt := range []struct {
		name   string
		owner  bool
		levels []Level
		allow  bool
	}{
		{"Status", true, nil, true},
		{"Status", true, []Level{level(Global, Admin, `allow contains "yes" if input.call.name == "x"`), suicidal}, true},
		{"Status", false, []Level{level(Global, Admin, `allow contains "yes" if true`), suicidal}, false},
		{"Release", true, []Level{level(Global, Admin, `allow contains "yes" if true`), suicidal}, false},
		{"Status", true, []Level{level(Global, Admin, `deny contains "no" if input.call.owner`)}, false},
	} {
		e := New(Config{})
		if err := e.Activate(tt.levels...); err != nil {
			t.Fatal(err)
		}
		in := example(Admin)
		in.Call.Name, in.Call.Owner = tt.name, tt.owner
		if d := e.Decide(t.Context(), in); d.Allow != tt.allow {
			t.Errorf("%s, owner %v: %s", tt.name, tt.owner, d.Explain())
		}
	}
}
