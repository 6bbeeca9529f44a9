package policy

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// overruns decides fast, until the service is one that no measurement tries.
func overruns() Level { return overrunsAt("input.service.name") }

// overrunsAt decides fast, until a part of the input is the word trigger.
func overrunsAt(part string) Level {
	l := level(Global, Connect, "allow contains \"new\" if true\ndeny contains \"slow\" if {\n\t"+part+" == concat(\"\", [\"trig\", \"ger\"])\n\tsome a in data.n\n\tsome b in data.n\n\ta + b < 0\n}")
	var n []any
	for i := range 1000 {
		n = append(n, i)
	}
	l.Data = map[string]any{"n": n}
	return l
}

func TestWatchdogReverts(t *testing.T) {
	old := level(Global, Connect, `allow contains "old" if true`)
	var told []string
	e := engine(t, Config{Deadline: time.Minute, OnRevert: func(from, to, why string) { told = append(told, from, to, why) }}, old)
	before := e.Revision()
	if err := e.Activate(overruns()); err != nil {
		t.Fatal(err)
	}
	after := e.Revision()
	trigger := connect()
	trigger.Service.Name = "trigger"
	for i := range tooManyFailures {
		if e.Revision() != after {
			t.Fatalf("reverted after %d failures", i)
		}
		trigger.Source.SPIFFEID = fmt.Sprintf("spiffe://east.dev.example/workload/shop-%d", i%manyCallers)
		if d := e.Decide(t.Context(), trigger); d.Allow || d.Rule != RuleError || !strings.Contains(d.Reason, "steps") {
			t.Fatal(d.Explain())
		}
	}
	if d := e.Decide(t.Context(), trigger); !d.Allow || d.Rule != "old" || e.Revision() != before {
		t.Errorf("after the last straw: %s", d.Explain())
	}
	if len(told) != 3 || told[0] != after || told[1] != before || !strings.Contains(told[2], "global") {
		t.Errorf("told %q", told)
	}
	if err := e.Activate(overruns()); !errors.Is(err, ErrReverted) || e.Revision() != before {
		t.Errorf("tried again: %v", err)
	}
	better := overruns()
	better.Revision = "2"
	if err := e.Activate(better); err != nil {
		t.Errorf("a newer one: %v", err)
	}
}

// A policy that fails for one service, whoever asks, is not taken back by those who call that one: what it
// denies elsewhere would be open again. Where most of what the node is asked for fails, it is.
func TestWatchdogLooksAtAllServices(t *testing.T) {
	for _, tt := range []struct {
		others  []string // services that were asked for before
		fail    int      // of them, how many fail
		reverts bool
	}{{nil, 0, true}, {[]string{"web"}, 0, false}, {[]string{"web", "db"}, 1, true}, {[]string{"web", "db", "api"}, 1, false}, {[]string{"web", "db", "api", "mail"}, 2, true}} {
		e := engine(t, Config{Deadline: time.Minute}, level(Global, Connect, `allow contains "old" if true`))
		before := e.Revision()
		ask := func(service string, caller int) {
			in := connect()
			in.Service.Name, in.Source.SPIFFEID = service, fmt.Sprintf("spiffe://east.dev.example/workload/shop-%d", caller)
			e.Decide(t.Context(), in)
		}
		var failing []any
		for i, name := range tt.others {
			ask(name, 0)
			if i < tt.fail {
				failing = append(failing, name)
			}
		}
		next := overrunsAt("input.service.name")
		next.Modules["connect.rego"] = strings.Replace(next.Modules["connect.rego"], `input.service.name == concat("", ["trig", "ger"])`, "input.service.name in data.failing", 1)
		next.Data["failing"] = append(failing, "trigger")
		next.Measured = true // the measurement would find it out
		if err := e.Activate(next); err != nil {
			t.Fatal(err)
		}
		for i := range 2 * tooManyFailures {
			ask("trigger", i%manyCallers)
		}
		if reverted := e.Revision() == before; reverted != tt.reverts {
			t.Errorf("%d of %d other services fail: reverted %v", tt.fail, len(tt.others), reverted)
		}
	}
}

// A generation that has shown itself sound is not reverted: that would let whoever makes it fail
// bring back an older policy.
func TestWatchdogTrustsWhatIsProven(t *testing.T) {
	e := engine(t, Config{Deadline: time.Minute, Cache: -1}, level(Global, Connect, `allow contains "old" if true`))
	if err := e.Activate(overruns()); err != nil {
		t.Fatal(err)
	}
	proven := e.Revision()
	trigger := connect()
	trigger.Service.Name = "trigger"
	for range soundEnough {
		e.Decide(t.Context(), connect())
	}
	for i := range 2 * tooManyFailures {
		trigger.Source.SPIFFEID = fmt.Sprintf("spiffe://east.dev.example/workload/shop-%d", i)
		if d := e.Decide(t.Context(), trigger); d.Allow {
			t.Fatal(d.Explain())
		}
	}
	if e.Revision() != proven || e.gen.Load().watchdog.before.Load() != nil {
		t.Errorf("%s is in force", e.Revision())
	}
}

// A caller who gives up, and a rule that fails in a way its author wrote, are no overruns.
func TestWatchdogLooksAtOverrunsOnly(t *testing.T) {
	e := engine(t, Config{Deadline: time.Minute}, level(Global, Connect, `allow contains "old" if true`))
	if err := e.Activate(level(Global, Connect, `allow contains "new" if time.parse_rfc3339_ns(input.source.region) > 0`)); err != nil {
		t.Fatal(err)
	}
	now := e.Revision()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 * tooManyFailures {
		e.Decide(t.Context(), connect())
		e.Decide(gone, connect())
	}
	if e.Revision() != now {
		t.Error("reverted")
	}
	if err := e.Activate(level(Global, Connect, `allow contains "sound" if true`)); err != nil {
		t.Fatal(err)
	}
	now = e.Revision()
	in := connect()
	for i := range tooManyFailures { // a panic is one
		broken := *e.gen.Load().levels[0]
		broken.compiled = nil
		gen := &generation{levels: []*active{&broken}, revision: "broken"}
		if e.Revision() != "broken" {
			gen.watchdog.trial = newTrial()
			gen.watchdog.before.Store(e.gen.Load())
			e.gen.Store(gen)
		}
		in.Source.SPIFFEID = fmt.Sprintf("spiffe://east.dev.example/workload/shop-%d", i%manyCallers)
		e.Decide(t.Context(), in)
	}
	if e.Revision() != now {
		t.Errorf("after panics %s is in force", e.Revision())
	}
}

// One caller can make evaluations fail, with strings as long as an input lets them be. He gets
// denials, not the policy of before, on a node of few callers and many remembered answers too.
func TestNoCallerBringsAnOlderPolicyBack(t *testing.T) {
	e := engine(t, Config{Deadline: time.Minute}, level(Global, Connect, `allow contains "old" if true`))
	if err := e.Activate(overruns()); err != nil {
		t.Fatal(err)
	}
	now := e.Revision()
	attack := func() {
		t.Helper()
		for i := range 2 * tooManyFailures {
			in := connect()
			in.Source.SPIFFEID, in.Service.Name, in.Service.Port = "spiffe://east.dev.example/workload/mallory", "trigger", i+1
			if d := e.Decide(t.Context(), in); d.Allow || d.Rule != RuleError {
				t.Fatal(d.Explain())
			}
		}
		if e.Revision() != now {
			t.Fatalf("%s is back", e.Revision())
		}
	}
	attack()
	if e.Before() == "" {
		t.Error("not on probation any more")
	}
	for i := range soundEnough { // all but one of them remembered
		if in := connect(); i%2 == 0 || e.Recall(in) == nil {
			e.Decide(t.Context(), in)
		}
	}
	if before := e.Before(); before != "" {
		t.Errorf("after %d answers it would go back to %s", soundEnough, before)
	}
	attack()
}

// All callers there are act as one, with inputs that only they can bring. They get denials; who asks
// for the same without them gets an answer, and nothing is taken back. Nor is it where the generation
// before fails as well: that would mend nothing.
func TestColludersBringNoOlderPolicyBack(t *testing.T) {
	for name, test := range map[string]struct {
		before, after Level
		bring         func(*Input)
	}{
		"a zone":            {level(Global, Connect, `allow contains "old" if true`), overrunsAt("input.source.zone"), func(in *Input) { in.Source.Zone = "trigger" }},
		"a label":           {level(Global, Connect, `allow contains "old" if true`), overrunsAt("input.source.labels.x"), func(in *Input) { in.Source.Labels["x"] = "trigger" }},
		"the one before as": {overruns(), overruns(), func(in *Input) { in.Service.Name = "trigger" }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engine(t, Config{Deadline: time.Minute}, test.before)
				test.after.Revision = "2"
				if err := e.Activate(test.after, level(Regional, Connect, `allow contains "new" if false`)); err != nil {
					t.Fatal(err)
				}
				now := e.Revision()
				for i := range 10 * tooManyFailures {
					in := connect()
					in.Source.SPIFFEID = fmt.Sprintf("spiffe://east.dev.example/workload/mallory-%d", i%manyCallers)
					test.bring(&in)
					if d := e.Decide(t.Context(), in); d.Allow || d.Rule != RuleError {
						t.Fatal(d.Explain())
					}
					time.Sleep(doubtEvery / 4)
				}
				if e.Revision() != now {
					t.Errorf("%s is back", e.Revision())
				}
				if e.Before() == "" {
					t.Error("not on probation any more")
				}
			})
		})
	}
}

// What callers choose or bring along is no part of the node's own question, whatever an Input has.
func TestOwnQuestion(t *testing.T) {
	in := connect()
	in.Destination, in.Request = &Peer{SPIFFEID: "spiffe://east.dev.example/workload/other"}, &Request{Method: "BREW", Path: []string{"x"}, Headers: map[string]string{"a": "b"}}
	in.Call, in.Attest = &Call{API: "state", Name: "Put", Key: "x"}, &Attest{Method: "join_token", Untrusted: map[string]any{"a": 1}}
	in.Action, in.Resource, in.Roster = &Action{Name: Dial}, &Resource{Classes: []string{"a"}}, &Roster{Attested: 3}
	own, ok := in.ownQuestion()
	want := Input{V: in.V, Kind: in.Kind, Time: in.Time, Self: in.Self, Source: in.Self, Destination: in.Self, Service: in.Service, Action: in.Action,
		Request: &Request{Method: "GET"}, Resource: in.Resource, Roster: in.Roster, Call: &Call{API: "state", Name: "Put"}, Attest: &Attest{Method: "join_token"}}
	if !ok || !reflect.DeepEqual(own, want) {
		t.Errorf("%+v", own)
	}
	if fields := reflect.TypeFor[Input]().NumField(); fields != 14 {
		t.Errorf("an input has %d parts: say whether a caller chooses the new one", fields)
	}
	if _, ok := (Input{Source: in.Source}).ownQuestion(); ok {
		t.Error("a node asks that does not know who it is")
	}
}

func TestProbationEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := engine(t, Config{Deadline: time.Minute}, level(Global, Connect, `allow contains "old" if true`))
		old := e.Revision()
		if err := e.Activate(overruns()); err != nil {
			t.Fatal(err)
		}
		if e.Before() != old {
			t.Errorf("before is %q", e.Before())
		}
		time.Sleep(probation + 1)
		if e.Before() != "" {
			t.Errorf("it would go back to %s", e.Before())
		}
	})
}

// A stale mode is no policy to try: nothing takes it back but whoever set it.
func TestNoRevertUndoesAStaleMode(t *testing.T) {
	e := engine(t, Config{Deadline: time.Minute}, level(Global, Connect, `allow contains "old" if true`))
	fail := func() {
		t.Helper()
		for i := range 2 * tooManyFailures {
			in := connect()
			in.Source.SPIFFEID, in.Service.Name = fmt.Sprintf("spiffe://east.dev.example/workload/shop-%d", i), "trigger"
			e.Decide(t.Context(), in)
		}
	}
	old := e.Revision()
	now := overruns()
	if err := e.Activate(now); err != nil {
		t.Fatal(err)
	}
	now.Stale = DenyNew // on probation: that goes on
	if err := e.Activate(now); err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(old, "#", "~"+DenyNew+"#", 1)
	if e.Before() != want {
		t.Errorf("before is %s, want %s", e.Before(), want)
	}
	fail()
	if e.Revision() != want {
		t.Errorf("%s is in force, want %s", e.Revision(), want)
	}
	now.Stale = ""
	if err := e.Activate(now); !errors.Is(err, ErrReverted) {
		t.Errorf("tried again without the mode: %v", err)
	}

	e = engine(t, Config{Deadline: time.Minute}, overruns()) // the first: nothing to go back to
	if now.Stale = DenyNew; e.Activate(now) != nil || e.Before() != "" {
		t.Errorf("before is %q", e.Before())
	}
	if fail(); !strings.Contains(e.Revision(), "~"+DenyNew) {
		t.Errorf("%s is in force", e.Revision())
	}
}
