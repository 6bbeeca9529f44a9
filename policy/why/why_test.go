package why

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

func rego(level, rules string) policy.Level {
	var b strings.Builder
	fmt.Fprintf(&b, "package bailiwick.%s.connect\n\nimport rego.v2\n\n", level)
	for _, r := range strings.Split(strings.TrimSpace(rules), "\n\n") {
		if strings.HasPrefix(r, "allow") || strings.HasPrefix(r, "deny") {
			b.WriteString("# METADATA\n# title: a title\n# labels:\n#   owner: mesh\n")
		}
		b.WriteString(r + "\n\n")
	}
	return policy.Level{Name: level, Revision: "1", Modules: map[string]string{"connect.rego": b.String()}, Delegation: policy.Delegation{All: level == policy.Global}}
}

func engine(t *testing.T, levels ...policy.Level) *policy.Engine {
	t.Helper()
	e := policy.New(policy.Config{})
	if err := e.Activate(levels...); err != nil {
		t.Fatal(err)
	}
	return e
}

func question() policy.Input {
	return policy.Input{V: 1, Kind: policy.Connect, Time: policy.Time{Unix: 1795000000, Trusted: true},
		Source:  &policy.Peer{SPIFFEID: "spiffe://west.dev.example/workload/intruder", Region: "west", Path: []string{"workload", "intruder"}, Standing: "ok", Attestation: &policy.Attestation{Kind: "tpm", OK: true, AgeSeconds: 90000}},
		Service: &policy.Service{Name: "web", Region: "east", Port: 443}, Action: &policy.Action{Name: policy.Accept}}
}

func explained(t *testing.T, e *policy.Engine, in policy.Input) Explanation {
	t.Helper()
	d := e.Decide(t.Context(), in)
	x, err := Explain(t.Context(), e.Aside(), decision.NewEvent(d, nil, d.At))
	if err != nil {
		t.Fatal(err)
	}
	if x.Allow != d.Allow || x.Rule != d.Rule || !x.Same {
		t.Errorf("explained %+v, decided %s", x, d.Explain())
	}
	// What is told works.
	if x.Flip.Found {
		b, _ := json.Marshal(in)
		changed, _ := object(b)
		for _, c := range x.Flip.Changes {
			set(changed, strings.Split(c.Path, "."), c.To)
		}
		b, _ = json.Marshal(changed)
		other, err := policy.ParseInput(b)
		if err != nil {
			t.Fatal(err)
		}
		if again := e.Decide(t.Context(), other); again.Allow == d.Allow || again.Rule != x.Flip.Rule {
			t.Errorf("the change %+v gives %s", x.Flip.Changes, again.Explain())
		}
	}
	return x
}

func TestSmallestChange(t *testing.T) {
	services := map[string]any{"services": map[string]any{"web.east": map[string]any{"callers": []any{"spiffe://east.dev.example/workload/shop"}}}}
	for _, tt := range []struct {
		name, rules string
		data        map[string]any
		change      func(*policy.Input)
		want        string // changes
	}{
		{name: "a text", rules: `allow contains "east" if input.source.region == "east"`, want: "source.region: west -> east"},
		{name: "from data", rules: `allow contains "listed" if input.source.spiffe_id in data.services[concat(".", [input.service.name, input.service.region])].callers`, data: services,
			want: "source.spiffe_id: spiffe://west.dev.example/workload/intruder -> spiffe://east.dev.example/workload/shop"},
		{name: "a number", rules: "allow contains \"all\" if input.source\n\ndeny contains \"old\" if input.source.attestation.age_seconds > 86400", want: "source.attestation.age_seconds: 90000 -> 86400"},
		{name: "a set", rules: "allow contains \"all\" if input.source\n\ndeny contains \"shut-out\" if input.source.standing in {\"held\", \"quarantined\"}",
			change: func(in *policy.Input) { in.Source.Standing = "held" }, want: "source.standing: held -> ok"},
		{name: "a negation", rules: "allow contains \"all\" if input.source\n\ndeny contains \"unattested\" if not input.source.attestation.ok",
			change: func(in *policy.Input) { in.Source.Attestation = nil }, want: "source.attestation.ok: <nil> -> true"},
		{name: "a place in a list", rules: `allow contains "shop" if input.source.path[1] == "shop"`, want: "source.path: [workload intruder] -> [workload shop]"},
		{name: "a role", rules: `allow contains "gateway" if "gateway" in input.source.roles`, want: "source.roles: <nil> -> [gateway]"},
		{name: "a helper", rules: "allow contains \"friend\" if friendly\n\nfriendly if input.service.name == \"db\"", want: "service.name: web -> db"},
		{name: "two", rules: "allow contains \"both\" if {\n\tinput.source.region == \"east\"\n\tinput.service.port == 80\n}", want: "source.region: west -> east, service.port: 443 -> 80"},
		{name: "an allow", rules: "allow contains \"west\" if input.source.region == \"west\"", want: "source.region: west -> <nil>"},
		{name: "a SPIFFE ID", rules: "deny contains \"spy\" if input.source.spiffe_id == \"spiffe://west.dev.example/workload/intruder\"\n\nallow contains \"all\" if data.services[input.service.name]",
			data: map[string]any{"services": map[string]any{"web": true}}, want: ""},
		{name: "none", rules: `allow contains "never" if { input.source.region == "east"; input.source.region == "north" }`, want: ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := rego(policy.Global, tt.rules)
			l.Data = tt.data
			in := question()
			if tt.change != nil {
				tt.change(&in)
			}
			x := explained(t, engine(t, l), in)
			var got []string
			for _, c := range x.Flip.Changes {
				got = append(got, fmt.Sprintf("%s: %v -> %v", c.Path, c.From, c.To))
			}
			if strings.Join(got, ", ") != tt.want || x.Flip.Found != (tt.want != "") || x.Flip.Tried == 0 {
				t.Errorf("%v after %d, want %s", got, x.Flip.Tried, tt.want)
			}
		})
	}
}

// A change that a delegation does not cover is none.
func TestDelegationsCount(t *testing.T) {
	l := rego(policy.Regional, `allow contains "east" if input.source.region == "east"`)
	l.Delegation = policy.Delegation{Kinds: []policy.Kind{policy.Connect}, Regions: []string{"north"}}
	x := explained(t, engine(t, rego(policy.Global, `deny contains "never" if input.service.port == 1`), l), question())
	if x.Flip.Found || x.Rule != policy.RuleNoGrant || len(x.Near) != 1 || x.Near[0].Failed().Facts[0].Value != `"west"` {
		t.Errorf("%+v", x)
	}
}

func TestNearestRulesFirst(t *testing.T) {
	var rules []string
	for i := range 9 {
		rules = append(rules, fmt.Sprintf("allow contains \"far-%d\" if {\n\tinput.service.name == \"x\"\n\tinput.service.port == %d\n}", i, i))
	}
	rules = append(rules, "allow contains \"near\" if {\n\tinput.service.name == \"web\"\n\tinput.source.region == \"east\"\n}")
	x := explained(t, engine(t, rego(policy.Global, strings.Join(rules, "\n\n"))), question())
	if len(x.Near) != maxNear || x.Near[0].ID != "near" || x.Others != 10-maxNear || x.Flip.Rule != "near" {
		t.Errorf("%+v", x)
	}
}

// The shipped policy: a stranger at the door of a service.
func TestShippedPolicy(t *testing.T) {
	in := question()
	in.Self = &policy.Peer{SPIFFEID: "spiffe://east.dev.example/node/east-n1", Region: "east", Standing: "ok"}
	in.Source.TrustDomain = "west.dev.example"
	in.Source.Attestation.AgeSeconds = 5
	x := explained(t, engine(t, builtin.Dev("east")...), in)
	if x.Allow || !x.Flip.Found || len(x.Flip.Changes) != 1 || x.Flip.Changes[0].Path != "source.spiffe_id" {
		t.Errorf("%+v", x.Flip)
	}
}

// What a neighbour asks about somebody on another node has neither standing nor attestation: two
// changes turn it round, however many words the policy has.
func TestShippedPolicyWithoutFacts(t *testing.T) {
	in := question()
	in.Self = &policy.Peer{SPIFFEID: "spiffe://east.dev.example/node/east-n1", Region: "east", Standing: "ok"}
	in.Source = &policy.Peer{SPIFFEID: "spiffe://east.dev.example/workload/shop", TrustDomain: "east.dev.example", Region: "east", Path: []string{"workload", "shop"}}
	x := explained(t, engine(t, builtin.Dev("east")...), in)
	var got []string
	for _, c := range x.Flip.Changes {
		got = append(got, fmt.Sprintf("%s: %v", c.Path, c.To))
	}
	slices.Sort(got)
	if x.Allow || !slices.Equal(got, []string{"source.attestation.ok: true", "source.standing: ok"}) {
		t.Errorf("%+v", x.Flip)
	}
}

func TestAnotherPolicy(t *testing.T) {
	old, next := rego(policy.Global, `deny contains "all" if input.source`), rego(policy.Global, `allow contains "all" if input.source`)
	d := engine(t, old).Decide(t.Context(), question())
	x, err := Explain(t.Context(), engine(t, next), decision.NewEvent(d, nil, d.At))
	if err != nil || x.Same || !x.Allow || x.Rule != "all" {
		t.Errorf("%+v, %v", x, err)
	}
}

func TestWhatNobodyCanExplain(t *testing.T) {
	e := engine(t, rego(policy.Global, `allow contains "all" if input.source`))
	d := e.Decide(t.Context(), question())
	for name, change := range map[string]func(*decision.Event){
		"the node refused": func(e *decision.Event) { e.Result.Verdicts = nil },
		"masked":           func(e *decision.Event) { e.Masked = []string{"/input/source"} },
		"without":          func(e *decision.Event) { e.Input = nil },
	} {
		ev := decision.NewEvent(d, nil, d.At)
		change(&ev)
		if _, err := Explain(t.Context(), e, ev); !errors.Is(err, ErrUnexplained) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ev := decision.NewEvent(d, nil, d.At)
	ev.Input = json.RawMessage(`{"v":7}`)
	if _, err := Explain(t.Context(), e, ev); !errors.Is(err, policy.ErrInput) {
		t.Errorf("another version: %v", err)
	}
}
