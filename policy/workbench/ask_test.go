package workbench

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

var noon = time.Unix(1790000000, 0)

func TestAsk(t *testing.T) {
	tree := example(t, "zero-trust")
	in, err := tree.Ask(Asking{Source: "spiffe://east.example.org/zone/de-1/workload/shop", Target: "web"}, noon)
	if err != nil || in.Kind != policy.Connect || in.Source.Region != "east" || in.Source.Zone != "de-1" || in.Service.Region != "east" ||
		in.Action.Name != policy.Accept || !in.Source.Attestation.OK || in.Time.Unix != noon.Unix() {
		t.Errorf("%+v %v", in, err)
	}
	in, err = tree.Ask(Asking{Source: "spiffe://west.example.org/workload/shop", Target: "web.east.mesh", Action: policy.Dial,
		Set: []string{"source.standing=held", `source.labels={"a":"b"}`, "input.time.trusted=false", "source.attestation=null"}}, noon)
	if err != nil || in.Source.Region != "west" || in.Source.Standing != "held" || in.Source.Labels["a"] != "b" || in.Time.Trusted ||
		in.Source.Attestation != nil || in.Action.Name != policy.Dial {
		t.Errorf("%+v %v", in, err)
	}
	for _, kind := range policy.Kinds {
		a := Asking{Kind: kind, Source: "spiffe://east.example.org/node/n1", Target: "web.east"}
		switch kind {
		case policy.Replicate:
			a.Target, a.Set = "spiffe://east.example.org/node/n2", []string{`resource.classes=["a"]`}
		case policy.AttestNode, policy.Quarantine:
			a.Source, a.Target = "", ""
		}
		if in, err := tree.Ask(a, noon); err != nil || in.Kind != kind {
			t.Errorf("%s: %v", kind, err)
		}
	}
	_, err = tree.Ask(Asking{Source: "spiffe://east.example.org/node/n1", Set: []string{"source.standing=quarantine"}}, noon)
	if !errors.Is(err, ErrAsk) || !strings.Contains(err.Error(), "want one of ok, released, watch, held, quarantined, revoked; did you mean quarantined?") {
		t.Errorf("a standing that is none: %v", err)
	}
	for text, a := range map[string]Asking{
		"no SPIFFE ID":             {Source: "shop", Target: "web"},
		"did you mean standing?":   {Source: "spiffe://east.example.org/workload/shop", Target: "web", Set: []string{"source.standng=x"}},
		"PATH=VALUE":               {Source: "spiffe://east.example.org/workload/shop", Target: "web", Set: []string{"source.standing"}},
		"source.zone is no object": {Source: "spiffe://east.example.org/zone/a/workload/shop", Target: "web", Set: []string{"source.zone.x=y"}},
		"needs source":             {Target: "web"},
		"is not one of":            {Kind: "conect", Source: "spiffe://east.example.org/workload/shop"},
	} {
		if _, err := tree.Ask(a, noon); !errors.Is(err, ErrAsk) || errors.Is(err, policy.ErrInput) || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %v, want %q", a, err, text)
		}
	}
}

func FuzzSet(f *testing.F) {
	f.Add("source.standing=held")
	f.Add(`source.labels={"a":"b"}`)
	f.Add("a.b.c=null")
	f.Add("=")
	tree := &Tree{Plan: Plan{Region: "east"}}
	in, err := tree.Ask(Asking{Source: "spiffe://east.example.org/workload/shop", Target: "web"}, noon)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, one string) {
		out, err := Set(in, []string{one})
		if err != nil {
			return
		}
		b, err := json.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := policy.ParseInput(b); err != nil {
			t.Errorf("%q makes an input that is none: %v", one, err)
		}
	})
}

func TestRead(t *testing.T) {
	tree := example(t, "zero-trust")
	var from []string
	for q, err := range tree.Inputs() {
		if err != nil {
			t.Fatal(err)
		}
		from = append(from, q.From)
	}
	if len(from) != 2 || !strings.HasSuffix(from[0], "shop.json") {
		t.Errorf("%v", from)
	}
	log := write(t, "log.ndjson", strings.Join([]string{event(t, "01", true, ""), event(t, "02", false, ""), event(t, "03", false, "/input/source")}, ""))
	var ids []string
	for q, err := range Read(log + "/log.ndjson") {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, q.From)
	}
	if !slices.Equal(ids, []string{"01", "02"}) { // 03 was masked
		t.Errorf("%v", ids)
	}
	for name, text := range map[string]string{"a.json": "{\"v\":1,\n\"knd\":\"connect\"}", "b.json": "", "l.json": "{\"v\":1,\n\n\"kind\":\"request\",\"time\":{\"unix\":1}, \"source\": {}}", "k.json": "{\"v\":1,\n\n\"kind\":\"conect\",\"time\":{\"unix\":1}}", "c.ndjson": "{}", "d.ndjson": event(t, "03", true, "/input")} {
		err := error(nil)
		for _, err = range Read(write(t, name, text) + "/" + name) {
			if err != nil {
				break
			}
		}
		if err == nil || errors.Is(err, policy.ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "k.json" && !strings.Contains(fmt.Sprint(err), "k.json:3: policy input is not valid: kind is \"conect\"") {
			t.Errorf("%s: %v", name, err)
		}
		if name == "l.json" && !strings.HasSuffix(fmt.Sprint(err), "l.json:3: policy input is not valid: kind request needs service and request\n   3 | \"kind\":\"request\",\"time\":{\"unix\":1}, \"source\": {}}\n     | ^^^^^^") {
			t.Errorf("%s: %v", name, err)
		}
		if name == "a.json" && !strings.HasSuffix(fmt.Sprint(err), "a.json:2: policy input is not valid: it has no field knd; did you mean kind?\n   2 | \"knd\":\"connect\"}\n     | ^^^^^") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// event is a line of a decision log.
func event(t *testing.T, id string, allow bool, erased string) string {
	t.Helper()
	tree := &Tree{Plan: Plan{Region: "east"}}
	in, err := tree.Ask(Asking{Source: "spiffe://east.example.org/workload/shop", Target: "web"}, noon)
	if err != nil {
		t.Fatal(err)
	}
	e := map[string]any{"decision_id": id, "path": "bailiwick/connect", "input": in, "result": map[string]any{"allow": allow, "rule": "old-rule"}, "timestamp": noon}
	if erased != "" {
		e["erased"] = []string{erased}
	}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

// A tree's own inputs that are wrong are told, all of them, beside what is wrong in its rules; before,
// they and those after them were left out without a word.
func TestWrongInputsOfATreeAreTold(t *testing.T) {
	dir := write(t, "regional/connect.rego", opening+"deny contains \"no\" if nothing_of_it\n",
		"inputs/a.json", "{\"v\":1,\n\"knd\":\"connect\"}", "inputs/b.json", "{\"v\":1,\"kind\":\"request\",\"time\":{\"unix\":1}}")
	tree, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tree.Check(t.Context())
	var places []string
	for _, m := range policy.Mistakes(err) {
		places = append(places, fmt.Sprintf("%s:%d", filepath.Base(m.File), m.Line))
	}
	for _, want := range []string{"a.json:2", "b.json:1", "connect.rego:"} {
		if !slices.ContainsFunc(places, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("nothing of %s in %v", want, places)
		}
	}
	failed := false
	for _, err := range tree.Inputs() {
		failed = failed || errors.Is(err, ErrInputs)
	}
	if !failed {
		t.Error("the first wrong input ends the questions without a word")
	}
}
