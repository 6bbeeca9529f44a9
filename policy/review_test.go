package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// The rules say what belongs into the data, however they get at it.
func TestReview(t *testing.T) {
	const head = "package bailiwick.regional.connect\n\nimport rego.v2\n\n# METADATA\n# title: T\n# labels:\n#   owner: us\n"
	callers := head + "deny contains \"no\" if not granted\n\ngranted if input.source.spiffe_id in data.services[name].callers\n\nname := concat(\".\", [input.service.name, input.service.region])\n"
	standing := head + "deny contains \"no\" if not input.source.standing in data.good\n"
	deep := head + `deny contains "no" if {
	some w in windows
	open(w)
	every z in w.zones { z != input.source.zone }
	service := data.services[input.service.name]
	region(service)
	count(service.list) == 0
	exempt[input.source.region]
	object.get(data.limits, "most", 1) == 1
}

windows := data.maintenance[input.service.name]

open(x) if {
	input.time.unix >= x.from
	y := x
	input.time.unix < y.until.hard
}

region(s) if s.region == "east"

region(s) if s.everywhere

exempt contains r if some r in data.exempt
`
	for _, tt := range []struct {
		name, rules, data string
		want              []string // line: message; fix
	}{
		{"right", callers, `{"services": {"web.east": {"callers": ["spiffe://east.example.org/workload/shop"], "_note": 1}}, "_why": "x"}`, nil},
		{"nothing", callers, `{}`, nil},
		{"empty", callers, `{"services": {"web.east": {"callers": []}, "api.east": {}, "old.east": null}}`, nil},
		{"top", callers, "{\n\"servces\": {}}", []string{"2:1: no rule reads data.servces; did you mean services?"}},
		{"field", callers, "{\"services\": {\"web.east\":\n{\"callres\": []}}}", []string{`2:2: no rule reads data.services["web.east"].callres; did you mean callers?`}},
		{"unknown", callers, `{"services": {"web.east": {"x": 1, "y": 2}}}`, []string{`1:28: no rule reads data.services["web.east"].x; want one of callers`, `1:36: no rule reads data.services["web.east"].y; want one of callers`}},
		{"no list", callers, `{"services": {"web.east": {"callers": "spiffe://east.example.org/workload/shop"}}}`, []string{`1:39: rules look for something in data.services["web.east"].callers, and it is no list; write [...]`}},
		{"no object", callers, `{"services": {"web.east": "x"}}`, []string{`1:27: rules read fields of data.services["web.east"], and it has none; write {...}`}},
		{"no SPIFFE ID", callers, `{"services": {"web.east": {"callers": ["spiffe:/east.example.org/x"]}}}`, []string{`1:40: "spiffe:/east.example.org/x" is no SPIFFE ID: scheme is missing or invalid; want spiffe://trust-domain/path`}},
		{"standing", standing, `{"good": ["ok", "wach"]}`, []string{`1:17: input.source.standing is never "wach"; did you mean watch?`}},
		{"deep", deep, `{"maintenance": {"web": [{"from": 1, "until": {"hard": 2}, "zones": ["a"]}]}, "services": {"web": {"region": "east", "list": [{"x": 1}], "everywhere": true}},
			"exempt": ["east"], "limits": {"anything": 1}}`, nil},
		{"deep typos", deep, `{"maintenance": {"web": [
{"form": 1, "until": {"hrad": 2}, "zone": ["a"]}]},
"services": {"web": {"regoin": "east", "everywere": true}}}`, []string{
			"2:2: no rule reads data.maintenance.web[0].form; did you mean from?", "2:23: no rule reads data.maintenance.web[0].until.hrad; did you mean hard?",
			"2:35: no rule reads data.maintenance.web[0].zone; did you mean zones?",
			"3:22: no rule reads data.services.web.regoin; did you mean region?", "3:40: no rule reads data.services.web.everywere; did you mean everywhere?"}},
		{"rule", head + "deny contains \"no\" if input.source.standing == \"quarantine\"\n", ``, []string{`9:48: input.source.standing is never "quarantine"; did you mean quarantined?`}},
		{"rule with a set", head + "deny contains \"no\" if not input.source.attestation.kind in {\"tpm\", \"devId\"}\n", ``, []string{`9:68: input.source.attestation.kind is never "devId"; did you mean devid?`}},
		{"no reader", head + "deny contains \"no\" if input.source.standing != \"ok\"\n", `{"services": {}}`, []string{"1:2: no rule reads data.services; no rule of this level reads data: take it out"}},
		{"in an object", head + "deny contains \"no\" if {\n\tx := {\"a\": data.a.b}\n\tx.a == input.source.zone\n}\n", `{"a": {"b": {"c": [1]}}}`, nil},
		{"all of it", head + "deny contains \"no\" if contains(concat(\",\", object.keys(data.x)), \"a\")\n", `{"x": {"b": {"c": 1}}}`, nil},
	} {
		l := Level{Name: Regional, Modules: map[string]string{"connect.rego": tt.rules}}
		var source []byte
		if tt.data != "" {
			source = []byte(tt.data)
			if err := json.Unmarshal(source, &l.Data); err != nil {
				t.Fatal(tt.name, err)
			}
		}
		var got []string
		for _, m := range Mistakes(Review(l, source)) {
			if !errors.Is(m, ErrIdle) || m.Snippet() == "" {
				t.Errorf("%s: %v\n%s", tt.name, m, m.Snippet())
			}
			got = append(got, fmt.Sprintf("%d:%d: %s; %s", m.Line, m.Column, m.Message, m.Fix))
		}
		if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
		if got, want := len(Mistakes(Review(l, nil))), len(tt.want); got != want {
			t.Errorf("%s: %d mistakes without the source, want %d", tt.name, got, want)
		}
	}
}

// Whatever a level and its data are, a review ends.
func FuzzReview(f *testing.F) {
	f.Add("deny contains \"no\" if data.a[input.source.region][_].b == data.c", `{"a": {"x": [{"b": 1}]}, "c": [[], {}]}`)
	f.Add("deny contains \"no\" if f(data.a)\nf(x) if x.y\nf(x) if x[_] == g(x)\ng(x) := x.z", `{"a": {"z": {"y": null}}}`)
	f.Fuzz(func(t *testing.T, rules, data string) {
		l := Level{Name: Regional, Modules: map[string]string{"connect.rego": "package bailiwick.regional.connect\nimport rego.v2\n# METADATA\n# title: T\n# labels:\n#   owner: us\n" + rules}}
		if json.Unmarshal([]byte(data), &l.Data) != nil {
			return
		}
		for _, m := range Mistakes(Review(l, []byte(data))) {
			_ = m.Error() + m.Snippet()
		}
	})
}
