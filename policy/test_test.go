package policy

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

const tested = `package bailiwick.global.connect

import rego.v2

# METADATA
# title: No
# labels:
#   owner: us
deny contains "no" if {
	input.source.zone == "dark"
	bad
}

# METADATA
# title: Never
# labels:
#   owner: us
deny contains "never" if input.time.unix == 1

bad if input.source.node == "a"

bad if input.source.node == "b"
`

const tests = `package bailiwick.global.connect_test

import rego.v2

import data.bailiwick.global.connect

ask(zone) := {"v": 1, "kind": "connect", "time": {"unix": 5, "trusted": true}, "source": {"zone": zone, "node": "a"}, "action": {"name": "link"}, "policy": {}}

test_dark if connect.deny == {"no"} with input as ask("dark")

test_light if {
	print("in the light")
	connect.deny == {"no"} with input as ask("light")
}

test_number if count(connect.deny) == 2 with input as ask("dark")

test_misspelt if connect.deny == set() with input as {"sorce": {"zone": "dark"}}

test_broken if {
	x := net.cidr_contains("nonsense", "1.2.3.4")
	x
}

todo_later if false
`

// Of a table each case that fails is named, and what is still to be written is no pass.
func TestTables(t *testing.T) {
	const table = `package bailiwick.global.connect_test

import rego.v2

import data.bailiwick.global.connect

ask(zone) := {"v": 1, "kind": "connect", "time": {"unix": 5, "trusted": true}, "source": {"zone": zone, "node": "a"}, "action": {"name": "link"}, "policy": {}}

cases := {"dark": {"no"}, "light": {"no"}, "dim": {"no"}, "bright": set()}

test_zones[zone] if {
	some zone, want in cases
	connect.deny == want with input as ask(zone)
}

test_good[zone] if {
	some zone, want in {"dark": {"no"}, "bright": set()}
	connect.deny == want with input as ask(zone)
}

todo_test_later if false
`
	l := Level{Name: Global, Delegation: Delegation{All: true}, Modules: map[string]string{"connect.rego": tested, "connect_test.rego": table}}
	for _, coverage := range []bool{false, true} {
		rep, err := Test(t.Context(), l, TestOptions{Coverage: coverage})
		if err != nil || len(rep.Results) != 3 {
			t.Fatal(rep, err)
		}
		if r := rep.Results[0]; r.Pass || !slices.Equal(r.Cases, []string{"dim", "light"}) {
			t.Errorf("%+v", r)
		}
		if r := rep.Results[1]; !r.Pass || len(r.Cases) > 0 {
			t.Errorf("%+v", r)
		}
		if r := rep.Results[2]; r.Pass || !strings.Contains(r.Error, "todo_") {
			t.Errorf("%+v", r)
		}
	}
}

func TestTest(t *testing.T) {
	l := Level{Name: Global, Delegation: Delegation{All: true}, Modules: map[string]string{"connect.rego": tested, "connect_test.rego": tests}}
	rep, err := Test(t.Context(), l, TestOptions{Coverage: true})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]TestResult{}
	for _, r := range rep.Results {
		got[r.Name[strings.LastIndex(r.Name, ".")+1:]] = r
	}
	if len(got) != 5 {
		t.Errorf("%d tests", len(got))
	}
	if r := got["test_dark"]; !r.Pass || r.File != "global/connect_test.rego" || r.Line != 9 {
		t.Errorf("%+v", r)
	}
	if r := got["test_light"]; r.Pass || r.FailedLine != 13 || !strings.HasPrefix(r.Failed, "connect.deny == ") ||
		!slices.Equal(r.Difference, []string{`only on the right: {"no"}`}) || !strings.Contains(r.Output, "in the light") {
		t.Errorf("%+v", r)
	}
	if r := got["test_number"]; r.Pass || !slices.Equal(r.Difference, []string{"left:  1", "right: 2"}) {
		t.Errorf("%+v", r)
	}
	if r := got["test_misspelt"]; r.Pass || !strings.Contains(r.Error, `no node sends: it has no field sorce; did you mean source?`) {
		t.Errorf("%+v", r)
	}
	if r := got["test_broken"]; r.Pass || !strings.Contains(r.Error, "cidr") {
		t.Errorf("%+v", r)
	}
	if len(rep.Inputs) != 2 || rep.Inputs[0].Source.Node != "a" {
		t.Errorf("inputs %+v", rep.Inputs)
	}
	if len(rep.Modules) != 1 {
		t.Fatalf("coverage %+v", rep.Modules)
	}
	c := rep.Modules[0]
	held := map[string]bool{}
	for _, r := range c.Rules {
		held[r.ID] = r.Held
	}
	if c.File != "global/connect.rego" || !held["no"] || held["never"] || c.Percent < 60 || c.Percent > 90 ||
		!slices.Contains(c.Missed, LineRange{From: 18, To: 18}) || !slices.Contains(c.Missed, LineRange{From: 22, To: 22}) {
		t.Errorf("coverage %+v %v", c, held)
	}
	rep, err = Test(t.Context(), l, TestOptions{Run: regexp.MustCompile("_dark$")})
	if err != nil || len(rep.Results) != 1 || rep.Modules != nil {
		t.Errorf("%+v, %v", rep, err)
	}
}

// What a test may use, a policy still may not.
func TestTestsKeepTheSandbox(t *testing.T) {
	l := Level{Name: Global, Delegation: Delegation{All: true}, Modules: map[string]string{"connect.rego": tested,
		"connect_test.rego": strings.Replace(tests, "todo_later if false", `test_net if http.send({"url": "http://x", "method": "get"})`, 1)}}
	if _, err := Test(t.Context(), l, TestOptions{}); err == nil || !strings.Contains(err.Error(), "connect_test.rego:25: http.send is not among") {
		t.Errorf("%v", err)
	}
}
