package export

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func event(allow bool) decision.Event {
	e := decision.NewEvent(policy.Decision{
		Allow: allow, ID: "0123456789abcdef0123456789abcdef", Kind: policy.Connect, Source: "spiffe://west.dev.example/workload/intruder", Target: "web.east",
		Level: policy.Regional, Rule: "caller-not-granted", Title: "The service does not list this caller", Owner: "shops", File: "regional/connect.rego", Line: 18,
		Reason: "The service does not list this caller", Revision: "global@1+regional@7#5f1c09ab", Input: json.RawMessage(`{"v":1}`),
		Verdicts: []policy.Verdict{{Level: policy.Regional, Revision: "7", Outcome: policy.Denied}},
	}, map[string]string{"id": "spiffe://east.dev.example/node/n1", "version": "v1"}, noon)
	e.RequestID = 5
	return e
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

func only(t *testing.T, f Format, list ...decision.Event) map[string]any {
	t.Helper()
	var out bytes.Buffer
	if n, err := Write(&out, Lines(events(list...), f)); err != nil || n != 1 {
		t.Fatalf("%s: %d lines, %v", f, n, err)
	}
	var m map[string]any
	if err := json.Unmarshal(out.Bytes(), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func at(t *testing.T, m any, path string) any {
	t.Helper()
	for _, p := range strings.Split(path, ".") {
		switch in := m.(type) {
		case map[string]any:
			m = in[p]
		case []any:
			if p != "0" && p != "1" || len(in) < 2 && p == "1" || len(in) == 0 {
				t.Fatalf("%s: no entry %s", path, p)
			}
			m = in[p[0]-'0']
		default:
			return nil
		}
	}
	return m
}

func TestOPA(t *testing.T) {
	m := only(t, OPA, event(false))
	for path, want := range map[string]any{"decision_id": "0123456789abcdef0123456789abcdef", "trace_id": "0123456789abcdef0123456789abcdef",
		"labels.id": "spiffe://east.dev.example/node/n1", "path": "bailiwick/connect", "bundles.regional.revision": "7", "input.v": 1.0, "result.allow": false,
		"requested_by": "spiffe://west.dev.example/workload/intruder", "timestamp": "2026-11-21T12:00:00Z", "req_id": 5.0} {
		if got := at(t, m, path); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

func TestOCSF(t *testing.T) {
	for _, allow := range []bool{false, true} {
		want := map[string]any{"class_uid": 6003.0, "category_uid": 6.0, "activity_id": 99.0, "type_uid": 600399.0, "time": float64(noon.UnixMilli()),
			"metadata.version": "1.6.0", "metadata.uid": "0123456789abcdef0123456789abcdef", "metadata.product.vendor_name": "bailiwick", "metadata.profiles.0": "security_control",
			"actor.user.uid": "spiffe://west.dev.example/workload/intruder", "api.operation": "connect", "src_endpoint.uid": "spiffe://west.dev.example/workload/intruder",
			"dst_endpoint.svc_name": "web.east", "actor.authorizations.0.policy.uid": "caller-not-granted", "unmapped.rule_line": 18.0}
		if allow {
			want["severity_id"], want["status_id"], want["action_id"], want["disposition_id"], want["actor.authorizations.0.decision"] = 1.0, 1.0, 1.0, 1.0, "allowed"
		} else {
			want["severity_id"], want["status_id"], want["action_id"], want["disposition_id"], want["actor.authorizations.0.decision"] = 2.0, 2.0, 2.0, 2.0, "denied"
		}
		m := only(t, OCSF, event(allow))
		for path, v := range want {
			if got := at(t, m, path); got != v {
				t.Errorf("%s: %v, want %v", path, got, v)
			}
		}
	}
	// What the class requires is there, also where all was masked.
	bare := only(t, OCSF, decision.Event{DecisionID: "a", Path: "bailiwick/connect", Timestamp: noon})
	for _, path := range []string{"actor.user.name", "api.operation", "src_endpoint.uid", "metadata.product.name", "severity_id", "time"} {
		if at(t, bare, path) == nil {
			t.Errorf("%s is missing", path)
		}
	}
}

func TestOTLP(t *testing.T) {
	other := event(true)
	other.Labels = map[string]string{"id": "spiffe://east.dev.example/node/n2"}
	m := only(t, OTLP, event(false), event(false), other)
	const record = "resourceLogs.0.scopeLogs.0.logRecords.0."
	for path, want := range map[string]any{record + "timeUnixNano": "1795262400000000000", record + "severityNumber": 13.0, record + "traceId": "0123456789abcdef0123456789abcdef",
		record + "attributes.0.key": "bailiwick.decision.id", record + "attributes.0.value.stringValue": "0123456789abcdef0123456789abcdef",
		"resourceLogs.0.resource.attributes.0.value.stringValue": "bailiwick", "resourceLogs.1.resource.attributes.1.value.stringValue": "spiffe://east.dev.example/node/n2",
		"resourceLogs.1.scopeLogs.0.logRecords.0.severityNumber": 9.0} {
		if got := at(t, m, path); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	var body map[string]any
	if err := json.Unmarshal([]byte(at(t, m, record+"body.stringValue").(string)), &body); err != nil || body["class_uid"] != 6003.0 {
		t.Errorf("body %v, %v", body, err)
	}
	many := make([]decision.Event, BatchSize+1)
	for i := range many {
		many[i] = event(true)
	}
	if n, err := Write(io.Discard, Lines(events(many...), OTLP)); err != nil || n != 2 {
		t.Errorf("%d requests, %v", n, err)
	}
}

func TestWhatEndsAnExport(t *testing.T) {
	if _, err := Write(io.Discard, Lines(events(event(true)), "xml")); !errors.Is(err, ErrFormat) {
		t.Errorf("a format there is none of: %v", err)
	}
	disk := errors.New("the disk")
	failing := func(yield func(decision.Event, error) bool) {
		_ = yield(event(true), nil) && yield(decision.Event{}, disk)
	}
	if n, err := Write(io.Discard, Lines(failing, OPA)); !errors.Is(err, disk) || n != 1 {
		t.Errorf("a failing disk: %d, %v", n, err)
	}
}

func TestSend(t *testing.T) {
	var status int
	var answer, got, kind string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, kind = string(b), r.Header.Get("Content-Type")
		w.WriteHeader(status)
		io.WriteString(w, answer)
	}))
	defer srv.Close()
	for _, tt := range []struct {
		status int
		answer string
		ok     bool
	}{{200, "{}", true}, {200, `{"partialSuccess":{"rejectedLogRecords":"0"}}`, true}, {200, `{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}`, false},
		{200, `{"partialSuccess":{"rejectedLogRecords":3}}`, false}, {503, "later", false}, {202, "", false}} {
		status, answer = tt.status, tt.answer
		err := Send(t.Context(), srv.Client(), srv.URL, []byte(`{"resourceLogs":[]}`))
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrCollector) || got != `{"resourceLogs":[]}` || kind != "application/json" {
			t.Errorf("%d %s: %v; it got %q as %s", tt.status, tt.answer, err, got, kind)
		}
	}
}

func TestCloudEvents(t *testing.T) {
	m := only(t, CloudEvents, event(false))
	for path, want := range map[string]any{"specversion": "1.0", "id": "0123456789abcdef0123456789abcdef", "source": "spiffe://east.dev.example/node/n1",
		"type": "io.bailiwick.decision.connect", "subject": "spiffe://west.dev.example/workload/intruder", "time": "2026-11-21T12:00:00Z",
		"datacontenttype": "application/json", "data.result.rule": "caller-not-granted", "data.req_id": 5.0} {
		if got := at(t, m, path); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}
