package schema_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/decision/export"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func event(allow bool) decision.Event {
	return decision.NewEvent(policy.Decision{
		Allow: allow, ID: "0123456789abcdef0123456789abcdef", Kind: policy.Connect, Source: "spiffe://west.dev.example/workload/intruder", Target: "web.east",
		Level: policy.Regional, Rule: "caller-not-granted", Title: "The service does not list this caller", Reason: "no", Revision: "global@1#00", Input: json.RawMessage(`{"v":1}`),
	}, map[string]string{"id": "spiffe://east.dev.example/node/n1", "version": "v1"}, noon)
}

func events(list ...decision.Event) iter.Seq2[decision.Event, error] {
	return func(yield func(decision.Event, error) bool) {
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// schemas are what other programs expect of a line; exports/README says where they are from.
var schemas = map[export.Format]string{
	export.OCSF:        "exports/ocsf-1.6.0-api_activity.schema.json",
	export.CloudEvents: "exports/cloudevents-1.0.schema.json",
}

func schemaOf(t *testing.T, f export.Format) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	s, err := c.Compile(schemas[f])
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// samples are events of every kind and sort: allowed, denied, masked, hidden, without a policy, and a
// change of policy.
func samples() (out []decision.Event) {
	for _, kind := range policy.Kinds {
		for _, allow := range []bool{true, false} {
			e := event(allow)
			e.Path = "bailiwick/" + string(kind)
			out = append(out, e)
		}
	}
	masked, hidden, bare := event(false), event(false), event(false)
	masked.Erased, masked.Masked, masked.Input = []string{"/input/source"}, []string{"/input/call/uid"}, json.RawMessage(`{"v":1,"call":{"uid":"***"}}`)
	hidden.Input, hidden.RequestedBy, hidden.Result.Target, hidden.Erased = nil, "", "", []string{"/input"}
	bare.Labels, bare.Result, bare.Input, bare.TraceID, bare.RequestID = nil, decision.Result{}, nil, "", 0
	change := event(true)
	change.Path, change.Input, change.Change = "bailiwick/"+string(decision.KindChange), nil, &decision.Change{Why: decision.Published, From: "a", To: "b"}
	return append(out, masked, hidden, bare, change, decision.Event{DecisionID: "a", Path: "bailiwick/connect", Timestamp: noon})
}

// What is exported for other programs is what their schemas want, of every sort of event.
func TestExports(t *testing.T) {
	for _, f := range slices.Sorted(maps.Keys(schemas)) {
		s, n := schemaOf(t, f), 0
		for line, err := range export.Lines(events(samples()...), f) {
			if err != nil {
				t.Fatal(err)
			}
			v, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Validate(v); err != nil {
				t.Errorf("%s: %v\n%s", f, err, line)
			}
			n++
		}
		if n != len(samples()) {
			t.Errorf("%s: %d lines of %d events", f, n, len(samples()))
		}
	}
}

// A schema that lets anything through would prove nothing: each of these changes is refused.
func TestExportsRefuses(t *testing.T) {
	set := func(path string, v any) func(map[string]any) {
		return func(m map[string]any) {
			parts := strings.Split(path, ".")
			for _, p := range parts[:len(parts)-1] {
				m = m[p].(map[string]any)
			}
			if last := parts[len(parts)-1]; v == nil {
				delete(m, last)
			} else {
				m[last] = v
			}
		}
	}
	broken := map[export.Format][]func(map[string]any){
		export.CloudEvents: {set("id", nil), set("source", nil), set("specversion", nil), set("type", nil), set("id", ""), set("time", "yesterday"), set("subject", "")},
		export.OCSF: {
			set("metadata.version", "1.5.0"), set("metadata.product.vendor_name", nil), set("policy.group", "regional"), set("surprise", 1), set("time", "noon"),
			set("type_uid", 600301), set("severity_id", 7), set("disposition_id", nil), set("actor.user", map[string]any{"type_id": 3}), set("api.operation", nil),
			set("src_endpoint", map[string]any{}), set("unmapped", "text"), set("class_uid", 6004),
		},
	}
	for _, required := range []string{"activity_id", "category_uid", "class_uid", "type_uid", "time", "severity_id", "metadata", "actor", "api", "src_endpoint"} {
		broken[export.OCSF] = append(broken[export.OCSF], set(required, nil))
	}
	for f, list := range broken {
		s := schemaOf(t, f)
		for i, breaks := range list {
			var m map[string]any
			for line, err := range export.Lines(events(event(false)), f) {
				if err := errors.Join(err, json.Unmarshal(line, &m)); err != nil {
					t.Fatal(err)
				}
			}
			breaks(m)
			b, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			if s.Validate(v) == nil {
				t.Errorf("%s: change %d is let through: %s", f, i, b)
			}
		}
	}
}
