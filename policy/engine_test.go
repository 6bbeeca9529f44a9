package policy

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

const head = "package bailiwick.%L.%K\n\nimport rego.v2\n\n"

// module writes a module for a level and kind, and puts METADATA above every deny and allow.
func module(level string, kind Kind, body string) string {
	h := strings.NewReplacer("%L", level, "%K", string(kind)).Replace(head)
	var b strings.Builder
	for line := range strings.Lines(body) {
		line = strings.TrimLeft(line, "\t")
		if strings.HasPrefix(line, "deny contains") || strings.HasPrefix(line, "allow contains") {
			b.WriteString("# METADATA\n# title: a title\n# labels:\n#   owner: someone\n")
		}
		b.WriteString(line)
	}
	return h + b.String()
}

func level(name string, kind Kind, body string) Level {
	return Level{Name: name, Revision: "1", Modules: map[string]string{string(kind) + ".rego": module(name, kind, body)},
		Delegation: Delegation{All: name == Global}}
}

var now = time.Unix(1_790_000_000, 0)

func connect() Input {
	return Input{
		V: 1, Kind: Connect, Time: Time{Unix: now.Unix(), Trusted: true},
		Self: &Peer{SPIFFEID: "spiffe://east.dev.example/node/east-n1", TrustDomain: "east.dev.example", Node: "east-n1", Region: "east"},
		Source: &Peer{SPIFFEID: "spiffe://east.dev.example/workload/shop", TrustDomain: "east.dev.example",
			Path: []string{"workload", "shop"}, Region: "east", Standing: "ok", Labels: map[string]string{"a": "b<>"},
			Attestation: &Attestation{Kind: "tpm", OK: true, AgeSeconds: 7}},
		Service: &Service{Name: "web", Region: "east", Protocol: "tcp", Port: 8080},
	}
}

func engine(t testing.TB, cfg Config, levels ...Level) *Engine {
	t.Helper()
	e := New(cfg)
	if err := e.Activate(levels...); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestCombine(t *testing.T) {
	global := func(body string) Level { return level(Global, Connect, body) }
	regional := func(body string) Level {
		l := level(Regional, Connect, body)
		l.Delegation = Delegation{Kinds: []Kind{Connect}, Regions: []string{"east"}, Services: []string{"web*"}}
		return l
	}
	const yes, no = "allow contains \"yes\" if true", "deny contains \"no\" if true"
	const reading = "deny contains \"zone\" if input.source.zone == \"x\"\ndeny contains \"roles\" if \"x\" in input.source.roles"
	const fails = "allow contains \"yes\" if true\ndeny contains \"broken\" if time.parse_rfc3339_ns(input.source.spiffe_id) > 0"
	stale := func(l Level, mode string) Level { l.Stale = mode; return l }
	expired := func(l Level, required bool) Level { l.NotAfter, l.Required = now.Add(-time.Second), required; return l }
	tests := []struct {
		name    string
		require []string
		levels  []Level
		edit    func(*Input)
		allow   bool
		level   string
		rule    string
	}{
		{name: "nothing active", rule: RuleMissing, level: Global},
		{name: "global allows", levels: []Level{global(yes)}, allow: true, level: Global, rule: "yes"},
		{name: "deny beats allow in one level", levels: []Level{global(yes + "\n" + no)}, level: Global, rule: "no"},
		{name: "lower deny beats global allow", levels: []Level{global(yes), regional(no)}, level: Regional, rule: "no"},
		{name: "higher deny is named first", levels: []Level{regional(no), global(no)}, level: Global, rule: "no"},
		{name: "nobody allows", levels: []Level{global("deny contains \"no\" if input.source.region == \"west\"")}, rule: RuleNoGrant},
		{name: "delegated allow", levels: []Level{global("deny contains \"no\" if false"), regional(yes)}, allow: true, level: Regional, rule: "yes"},
		{name: "allow outside the region", levels: []Level{global("deny contains \"no\" if false"), regional(yes)},
			edit: func(in *Input) { in.Service.Region = "west" }, level: Regional, rule: RuleDelegation},
		{name: "allow outside the services", levels: []Level{global("deny contains \"no\" if false"), regional(yes)},
			edit: func(in *Input) { in.Service.Name = "payments" }, level: Regional, rule: RuleDelegation},
		{name: "required level missing", require: []string{Regional}, levels: []Level{global(yes)}, level: Regional, rule: RuleMissing},
		{name: "global missing", levels: []Level{regional(yes)}, level: Global, rule: RuleMissing},
		{name: "required level expired", levels: []Level{expired(global(yes), true)}, level: Global, rule: RuleExpired},
		{name: "optional level expired: its allow is gone", levels: []Level{global("deny contains \"no\" if false"), expired(regional(yes), false)},
			level: Regional, rule: RuleDelegation},
		{name: "optional level expired: its deny is not", levels: []Level{global(yes), expired(regional(no), false)}, level: Regional, rule: "no"},
		{name: "error denies", levels: []Level{global(fails)}, level: Global, rule: RuleError},
		{name: "error of an optional level denies", levels: []Level{global(yes), regional(fails)}, level: Regional, rule: RuleError},
		{name: "a kind without a module passes", levels: []Level{level(Global, AttestNode, yes)}, rule: RuleNoGrant},
		{name: "frozen: its allow is gone", levels: []Level{global("deny contains \"no\" if false"), stale(regional(yes), Freeze)}, level: Regional, rule: RuleStale},
		{name: "frozen: its deny is not", levels: []Level{global(yes), stale(regional(no), Freeze)}, level: Regional, rule: "no"},
		{name: "frozen: another level allows", levels: []Level{global(yes), stale(regional(yes), Freeze)}, allow: true, level: Global, rule: "yes"},
		{name: "deny_new", levels: []Level{global(yes), stale(regional(yes), DenyNew)}, level: Regional, rule: RuleStale},
		{name: "deny_new: what nobody allows is refused for that", levels: []Level{global("deny contains \"no\" if false"), stale(regional(no), DenyNew)}, level: Regional, rule: "no"},
		{name: "deny_new is about connects", levels: []Level{stale(level(Global, AttestNode, yes), DenyNew)},
			edit: func(in *Input) {
				*in = Input{V: in.V, Kind: AttestNode, Time: in.Time, Self: in.Self, Attest: &Attest{}}
			}, allow: true, level: Global, rule: "yes"},
		{name: "deny_new: control call", levels: []Level{stale(global(yes), DenyNew)}, edit: control("policy_sync"), allow: true, rule: "control-policy_sync"},
		{name: "control call", levels: []Level{global("deny contains \"no\" if false"), regional(no)}, edit: control("policy_sync"),
			allow: true, rule: "control-policy_sync"},
		{name: "control call without any policy", edit: control("trust_sync"), allow: true, rule: "control-trust_sync"},
		{name: "control call past an error", levels: []Level{global(fails)}, edit: control("renew"), allow: true, rule: "control-renew"},
		{name: "control call denied by global", levels: []Level{global(no)}, edit: control("enrol"), level: Global, rule: "no"},
		{name: "an action that is no control call", levels: []Level{global("deny contains \"no\" if false")}, edit: control("format"), rule: RuleNoGrant},
		{name: "a service named with a control call", levels: []Level{global("deny contains \"no\" if false")},
			edit: func(in *Input) { in.Action = &Action{Name: "renew"} }, rule: RuleNoGrant},
		{name: "wrong version", levels: []Level{global(yes)}, edit: func(in *Input) { in.V = 2 }, rule: RuleInput},
		{name: "unknown kind", levels: []Level{global(yes)}, edit: func(in *Input) { in.Kind = "guess" }, rule: RuleInput},
		{name: "no time", levels: []Level{global(yes)}, edit: func(in *Input) { in.Time.Unix = 0 }, rule: RuleInput},
		{name: "long string", levels: []Level{global(yes + "\n" + reading)}, edit: func(in *Input) { in.Source.Zone = strings.Repeat("z", MaxString+1) }, rule: RuleInput},
		{name: "not UTF-8", levels: []Level{global(yes + "\n" + reading)}, edit: func(in *Input) { in.Source.Zone = "\xff" }, rule: RuleInput},
		{name: "too large", levels: []Level{global(yes + "\n" + reading)}, edit: func(in *Input) {
			for range MaxList {
				in.Source.Roles = append(in.Source.Roles, strings.Repeat("r", 300))
			}
		}, rule: RuleInput},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := engine(t, Config{Require: tt.require}, tt.levels...)
			in := connect()
			if tt.edit != nil {
				tt.edit(&in)
			}
			d := e.Decide(t.Context(), in)
			if d.Allow != tt.allow || d.Level != tt.level || d.Rule != tt.rule {
				t.Errorf("got allow=%v level=%q rule=%q, want %v %q %q\n%s", d.Allow, d.Level, d.Rule, tt.allow, tt.level, tt.rule, d.Explain())
			}
			if d.Reason == "" || len(d.ID) != 32 {
				t.Errorf("incomplete decision: %+v", d)
			}
		})
	}
}

func control(name string) func(*Input) {
	return func(in *Input) { in.Service, in.Action = nil, &Action{Name: name} }
}

func TestZeroValuesDeny(t *testing.T) {
	if (Decision{}).Allow {
		t.Error("the zero Decision allows")
	}
	var e Engine
	in := connect()
	control("renew")(&in)
	if d := e.Decide(t.Context(), in); d.Allow || d.Rule != RuleNoEngine {
		t.Errorf("the zero Engine: %+v", d)
	}
	if err := e.Activate(); err == nil {
		t.Error("the zero Engine activates")
	}
	var d Decision
	combine(&d, &in, []Verdict{{}})
	in = connect()
	if combine(&d, &in, []Verdict{{}}); d.Allow || d.Rule != RuleError {
		t.Errorf("the zero Verdict: %+v", d)
	}
	if (Delegation{}).Covers(&in) {
		t.Error("the zero Delegation covers something")
	}
}

func TestDecisionNamesTheRule(t *testing.T) {
	src := `package bailiwick.global.connect

import rego.v2

# METADATA
# title: The shop may call the web service
# labels:
#   owner: team-web
allow contains "shop-to-web" if {
	input.service.name == "web"
	input.source.spiffe_id == data.shop
}
`
	e := engine(t, Config{}, Level{Name: Global, Revision: "3", Modules: map[string]string{"teams/web/connect.rego": src},
		Data: map[string]any{"shop": "spiffe://east.dev.example/workload/shop"}, Delegation: Delegation{All: true}})
	d := e.Decide(t.Context(), connect())
	want := Decision{Allow: true, Level: Global, Rule: "shop-to-web", Title: "The shop may call the web service", Owner: "team-web",
		File: "global/teams/web/connect.rego", Line: 9}
	if d.Allow != want.Allow || d.Rule != want.Rule || d.Title != want.Title || d.Owner != want.Owner || d.File != want.File || d.Line != want.Line {
		t.Errorf("got %+v", d)
	}
	if !strings.HasPrefix(d.Revision, "global@3#") || d.Revision != e.Revision() {
		t.Errorf("revision %q", d.Revision)
	}
	if text := d.Explain(); !strings.Contains(text, "ALLOW connect spiffe://east.dev.example/workload/shop -> web.east: The shop may call the web service (global/teams/web/connect.rego:9, owner team-web)") {
		t.Error(text)
	}
}

// A decision replays from its recorded input.
func TestReplay(t *testing.T) {
	e := engine(t, Config{}, level(Global, Connect, `allow contains "fresh" if input.policy.levels.global.age_seconds < 60`))
	d := e.Decide(t.Context(), connect())
	in, err := ParseInput(d.Input)
	if err != nil {
		t.Fatal(err)
	}
	again := e.Decide(t.Context(), in)
	if !d.Allow || again.Allow != d.Allow || string(again.Input) != string(d.Input) {
		t.Errorf("%s\n%s", d.Input, again.Input)
	}
	for _, bad := range []string{`{"v":1,"kind":"connect","spifeid":1}`, string(d.Input) + "{}", "", strings.Repeat(" ", MaxInput+1)} {
		if _, err := ParseInput([]byte(bad)); !errors.Is(err, ErrInput) {
			t.Errorf("ParseInput(%.40q): %v", bad, err)
		}
	}
}

func TestStateAdmitGrants(t *testing.T) {
	const body = `
	allow contains "own" if input.source.node
	allow contains "wide" if input.source.labels.wide == "yes"
	grant["own"] := {"prefix": concat("/", ["", "node", input.source.node]), "kinds": ["x-*", "service"], "scope": "region", "bytes": 100, "rate": 5}
	grant["wide"] := {"prefix": "/x", "scope": "global", "bytes": 1000, "rate": 1} if input.source.labels.wide == "yes"
	`
	e := engine(t, Config{}, level(Global, StateAdmit, body))
	input := func(edit func(*Peer)) Input {
		in := connect()
		in.Kind, in.Service, in.Source.Node = StateAdmit, nil, "n1"
		if edit != nil {
			edit(in.Source)
		}
		return in
	}
	own := Grant{ID: "own", Prefix: "/node/n1", Kinds: []string{"service", "x-*"}, Scope: "region", Bytes: 100, Rate: 5}
	if d := e.Decide(t.Context(), input(nil)); !d.Allow || d.Rule != "own" || !reflect.DeepEqual(d.Grants, []Grant{own}) {
		t.Errorf("%+v", d)
	}
	d := e.Decide(t.Context(), input(func(p *Peer) { p.Labels = map[string]string{"wide": "yes"} }))
	if wide := (Grant{ID: "wide", Prefix: "/x", Scope: "global", Bytes: 1000, Rate: 1}); !reflect.DeepEqual(d.Grants, []Grant{own, wide}) {
		t.Errorf("both: %+v", d)
	}
	if d := e.Decide(t.Context(), input(func(p *Peer) { p.Node = "" })); d.Allow || d.Rule != RuleNoGrant || d.Grants != nil {
		t.Errorf("nobody's: %+v", d)
	}
	for _, bad := range []string{
		`grant["own"] := {"prefix": "/a", "scope": "region", "bytes": 100}`,
		`grant["own"] := {"prefix": "", "scope": "region", "bytes": 100, "rate": 5}`,
		`grant["own"] := {"prefix": "a", "scope": "region", "bytes": 100, "rate": 5}`,
		`grant["own"] := {"prefix": "/a", "scope": "galaxy", "bytes": 100, "rate": 5}`,
		`grant["own"] := {"prefix": "/a", "scope": "zone", "bytes": -1, "rate": 5}`,
		`grant["own"] := {"prefix": "/a", "scope": "zone", "bytes": 1, "rate": "5"}`,
		`grant["own"] := {"prefix": "/a", "scope": "zone", "bytes": 1, "rate": 5, "kinds": []}`,
		`grant["own"] := {"prefix": "/a", "scope": "zone", "bytes": 1, "rate": 5, "kinds": [1]}`,
		`grant["own"] := {"prefix": "/a", "scope": "zone", "bytes": 1, "rate": 5, "kinds": "x-a"}`,
		`grant["own"] := data.old`,
		`grant["own"] := {"prefix": "/a", "scope": "zone", "bytes": 1, "rate": 5} if false`,
	} {
		l := level(Global, StateAdmit, "allow contains \"own\" if true\n"+bad)
		l.Data = map[string]any{"old": map[string]any{"prefix": "/a", "scope": "zone", "max_bytes": 1, "rate": 5}}
		if d := engine(t, Config{}, l).Decide(t.Context(), input(nil)); d.Allow || d.Rule != RuleError || d.Grants != nil {
			t.Errorf("%s: %+v", bad, d)
		}
	}
	// What was a state_admit before is refused when it is loaded, not when it is needed.
	for old, want := range map[string]error{
		`grant["own"] := {"prefix": "/a", "scope": "zone", "max_bytes": 1, "rate": 5}`: ErrRule,
		"deny contains \"foreign\" if input.update.owner != input.update.origin":       ErrCompile,
	} {
		_, err := compile(new(level(Global, StateAdmit, old)))
		if !errors.Is(err, want) || !strings.Contains(err.Error(), ".rego:") {
			t.Errorf("%s: %v", old, err)
		}
	}
}

// A failed activation leaves the generation in force; a good one replaces it as a whole.
func TestActivateIsAtomic(t *testing.T) {
	e := engine(t, Config{}, level(Global, Connect, `allow contains "yes" if true`))
	before := e.Revision()
	err := e.Activate(level(Global, Connect, `deny contains "no" if true`), level(Regional, Connect, `deny contains "no" if nonsense(1)`))
	if !errors.Is(err, ErrCompile) {
		t.Errorf("got %v", err)
	}
	if d := e.Decide(t.Context(), connect()); !d.Allow || e.Revision() != before {
		t.Errorf("the old generation is gone: %s", d.Explain())
	}
	if err := e.Activate(level(Global, Connect, `allow contains "yes" if true`), level(Global, Connect, `allow contains "yes" if true`)); !errors.Is(err, ErrLevel) {
		t.Errorf("a level given twice: %v", err)
	}
	if err := e.Activate(); err != nil || e.Decide(t.Context(), connect()).Allow {
		t.Errorf("after an empty generation: %v", err)
	}
}

func TestDeadlineDenies(t *testing.T) {
	slow := `allow contains "yes" if true
	deny contains "slow" if {
		input.source.region == concat("", ["ea", "st"])
		some a in data.n
		some b in data.n
		some c in data.n
		some d in data.n
		a + b + c + d < 0
	}`
	l := level(Global, Connect, slow)
	var n []any
	for i := range 1000 {
		n = append(n, i)
	}
	l.Data = map[string]any{"n": n}
	e := engine(t, Config{Deadline: time.Nanosecond}, l)
	if d := e.Decide(t.Context(), connect()); d.Allow || d.Rule != RuleError || !strings.Contains(d.Reason, "deadline") {
		t.Errorf("got %s", d.Explain())
	}
	e = engine(t, Config{}, level(Global, Connect, `allow contains "yes" if true`))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if d := e.Decide(ctx, connect()); d.Allow {
		t.Errorf("a cancelled caller is allowed: %s", d.Explain())
	}
}

func TestPanicDenies(t *testing.T) {
	e := engine(t, Config{}, level(Global, Connect, `allow contains "yes" if true`))
	broken := *e.gen.Load().levels[0]
	broken.compiled = nil
	e.gen.Store(&generation{levels: []*active{&broken}})
	if d := e.Decide(t.Context(), connect()); d.Allow || d.Rule != RuleError || !strings.Contains(d.Reason, "panic") {
		t.Errorf("got %s", d.Explain())
	}
}

// What Rego sees is what the record holds.
func TestValueEqualsJSON(t *testing.T) {
	in := connect()
	in.Kind, in.Source, in.Service = AttestNode, nil, nil
	in.Attest = &Attest{Method: "bailiwick_tpm", EK: EK{Maker: "id:1"}, PCRs: map[string]string{"8": "ab"}, Starts: 1 << 63,
		Boot: &Boot{SecureBoot: true, CommandLines: []string{"/vmlinuz quiet"}, Digests: map[string][]string{"7": {"aa"}, "9": nil}, Explained: []int{7}},
		Untrusted: map[string]any{"s": "x", "n": nil, "i": 7, "f": float64(8), "b": true, "l": []any{"a", map[string]any{"k": []string{"v"}}},
			"nil": []any(nil), "m": map[string]string{"a": "b"}, "e": []string{}}}
	in.Policy.Levels = map[string]LevelState{"global": {Revision: "1", AgeSeconds: 3}}
	v, err := in.value()
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(in)
	want := parseValue(t, b)
	if v.Compare(want) != 0 {
		t.Errorf("got  %v\nwant %v", v, want)
	}
	if err := validate(schemaDoc(), b); err != nil {
		t.Errorf("the schema refuses it: %v", err)
	}
	for _, bad := range []any{1.5, func() {}, map[string]any{"a": map[string]any{"a": map[string]any{"a": map[string]any{"a": map[string]any{"a": map[string]any{"a": 1}}}}}}} {
		in.Attest.Untrusted = map[string]any{"x": bad}
		if _, err := in.value(); !errors.Is(err, ErrInput) {
			t.Errorf("%T: %v", bad, err)
		}
	}
}

func TestObserve(t *testing.T) {
	e := engine(t, Config{}, level(Global, Connect, `allow contains "open" if true`))
	var seen []Decision
	e.Observe(func(in Input, d Decision) {
		if in.Kind != Connect {
			t.Errorf("told of %s", in.Kind)
		}
		seen = append(seen, d)
	})
	d := e.Decide(t.Context(), connect())
	bad := connect()
	bad.V = 99
	e.Decide(t.Context(), bad) // a refused input is a decision too
	if len(seen) != 2 || seen[0].ID != d.ID || !seen[0].Allow || seen[1].Allow || seen[1].Rule != RuleInput {
		t.Errorf("%+v", seen)
	}
	e.Observe(nil)
	if e.Decide(t.Context(), connect()); len(seen) != 2 {
		t.Errorf("told %d times", len(seen))
	}
}
