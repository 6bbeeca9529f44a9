package authz_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/authz"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/authz/authztest"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/local"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// decider notes what it is asked and lets shop GET.
type decider struct {
	mu   sync.Mutex
	last authz.Question
	uid  int64
}

const shop = "spiffe://east.dev.example/workload/shop"

func (d *decider) Decide(_ context.Context, from *local.Caller, q authz.Question) policy.Decision {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = q
	d.uid, _ = from.User()
	allow := q.Err == nil && q.Subject.String() == shop && (q.Request == nil || q.Request.Method == "GET")
	out := policy.Decision{Allow: allow, ID: "0123456789abcdef", Rule: "a-rule", Level: policy.Global, Reason: "secret reason"}
	if !allow {
		out.Title, out.Owner = "Read only", "web"
		out.Verdicts = []policy.Verdict{{Level: out.Level, Rules: []*policy.Rule{{ID: out.Rule, Labels: map[string]string{"runbook": "r-1"}}}}}
	}
	if q.Service == "early.east.mesh" {
		out = policy.Decision{ID: out.ID, Rule: authz.RuleNotReady, Reason: authz.ErrNotReady.Error() + ": because"}
	}
	if q.Err != nil {
		out.Rule, out.Level, out.Reason, out.Title, out.Owner = authz.RuleQuestion, "", q.Err.Error(), "", ""
		out.Verdicts = nil
	}
	return out
}

func serve(t *testing.T, s interface {
	Serve(context.Context, net.Listener) error
}, lis net.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, lis) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Title, owner and labels are for the proxy, not for whoever it answers.
func TestEnvoyIsToldWhoToAsk(t *testing.T) {
	e := &authz.Envoy{Decider: &decider{}, Service: "web.east.mesh"}
	for method, want := range map[string]string{"GET": "", "PUT": "Read only/web/r-1"} {
		r, err := e.Check(t.Context(), authztest.Check{Principal: shop, Method: method, Path: "/"}.Proto())
		if err != nil {
			t.Fatal(err)
		}
		meta := r.GetDynamicMetadata().GetFields()
		if got := strings.Trim(meta["title"].GetStringValue()+"/"+meta["owner"].GetStringValue()+"/"+meta["labels"].GetStructValue().GetFields()["runbook"].GetStringValue(), "/"); got != want {
			t.Errorf("%s: %q, want %q", method, got, want)
		}
		if body := r.GetDeniedResponse().GetBody(); strings.Contains(body, "Read only") || strings.Contains(r.GetStatus().GetMessage(), "secret") {
			t.Errorf("%s: %q, %q", method, body, r.GetStatus().GetMessage())
		}
	}
}

func TestEnvoyAsks(t *testing.T) {
	d := &decider{uid: -2}
	path := filepath.Join(t.TempDir(), "e.sock")
	lis, err := local.Unix(path, "")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, &authz.Envoy{Decider: d, Service: "web.east.mesh", Headers: []string{"x-tenant", config.ForwardedCert}}, lis)
	get := authztest.Check{Principal: shop, Method: "GET", Host: "Web.Example:8443", Path: "/v1/a%20b/?q=/../",
		Headers: map[string]string{"x-tenant": "t", "cookie": "c", config.ForwardedCert: "URI=spiffe://east.dev.example/workload/admin"}}
	with := func(edit func(*authztest.Check)) authztest.Check { c := get; edit(&c); return c }
	for name, tt := range map[string]struct {
		ask   authztest.Check
		allow bool
		err   string
	}{
		"a request":       {get, true, ""},
		"another method":  {with(func(c *authztest.Check) { c.Method = "POST" }), false, ""},
		"no HTTP":         {authztest.Check{Principal: shop}, true, ""},
		"nobody":          {with(func(c *authztest.Check) { c.Principal = "" }), false, ""},
		"no SPIFFE ID":    {with(func(c *authztest.Check) { c.Principal = "CN=shop" }), false, "no SPIFFE ID"},
		"dots":            {with(func(c *authztest.Check) { c.Path = "/v1/../admin" }), false, "more than one reading"},
		"a semicolon":     {with(func(c *authztest.Check) { c.Path = "/reset/s3cr3t-token;x" }), false, "path segment 2: "},
		"a bare percent":  {with(func(c *authztest.Check) { c.Path = "/reset/s3cr3t-token%" }), false, "path segment 2: "},
		"a method":        {with(func(c *authztest.Check) { c.Method = "s3cr3t" }), false, "the method"},
		"a named service": {with(func(c *authztest.Check) { c.Service = "api.east.mesh" }), true, ""},
	} {
		allow, status, id, err := authztest.Ask(t.Context(), "unix:"+path, tt.ask)
		if err != nil || allow != tt.allow || id == "" || (status == http.StatusForbidden) == allow {
			t.Errorf("%s: %v, %d, %q, %v", name, allow, status, id, err)
		}
		q := d.last
		if (q.Err != nil) != (tt.err != "") || q.Err != nil && (!errors.Is(q.Err, authz.ErrQuestion) || !strings.Contains(q.Err.Error(), tt.err)) {
			t.Errorf("%s: asked with %v", name, q.Err)
		}
		if q.Err != nil && strings.Contains(q.Err.Error(), "s3cr3t") {
			t.Errorf("%s: what is recorded quotes the caller: %v", name, q.Err)
		}
		if r := q.Request; q.Err == nil && r != nil && (strings.Join(r.Path, "|") != "v1|a b" || r.Host != "web.example" || len(r.Headers) != 1 || r.Headers["x-tenant"] != "t") {
			t.Errorf("%s: asked about %+v", name, r)
		}
		if want := map[bool]string{true: tt.ask.Service, false: "web.east.mesh"}[tt.ask.Service != ""]; q.Err == nil && q.Service != want {
			t.Errorf("%s: asked about %s, want %s", name, q.Service, want)
		}
		if d.uid < 0 {
			t.Errorf("%s: the asker is nobody", name)
		}
	}
	early := with(func(c *authztest.Check) { c.Service = "early.east.mesh" })
	if allow, status, id, err := authztest.Ask(t.Context(), "unix:"+path, early); err != nil || allow || id == "" || status != http.StatusServiceUnavailable {
		t.Errorf("too early: %v, %d, %q, %v", allow, status, id, err)
	}
	large := with(func(c *authztest.Check) { c.Headers = map[string]string{"x": strings.Repeat("x", 1<<20)} })
	if _, _, _, err := authztest.Ask(t.Context(), "unix:"+path, large); err == nil {
		t.Error("a message above 1 MiB is read")
	}
}

// What is decided has one reading, and one spelling.
func TestOneReading(t *testing.T) {
	d := &decider{}
	e := &authz.Envoy{Decider: d, Service: "web.east.mesh"}
	ask := func(host, path string) authz.Question {
		t.Helper()
		if _, err := e.Check(t.Context(), authztest.Check{Principal: shop, Method: "GET", Host: host, Path: path}.Proto()); err != nil {
			t.Fatal(err)
		}
		return d.last
	}
	for _, path := range []string{
		"/public#/../../admin", "/public%23/x", "/a%3fb", "/.%20/x", "/..%20/x", "/%20/x", "/.../x", "/a%2fb", "/a%5cb", "/%2e%2e%3bx/y", "//x",
	} {
		if q := ask("", path); !errors.Is(q.Err, authz.ErrQuestion) || !strings.Contains(q.Err.Error(), "more than one reading") {
			t.Errorf("%s: asked about %+v, %v", path, q.Request, q.Err)
		}
	}
	for host, want := range map[string]string{
		"Admin.Example.": "admin.example", "admin.example.:443": "admin.example", "[::1]:80": "::1", "admin.example": "admin.example", "": "",
		strings.Repeat("h", 255) + ".:8443": strings.Repeat("h", 255),
	} {
		if q := ask(host, "/a.b/?x#y"); q.Err != nil || q.Request.Host != want {
			t.Errorf("%s: asked about %+v, %v", host, q.Request, q.Err)
		}
	}
	if q := ask(strings.Repeat("h", 256), "/"); !errors.Is(q.Err, authz.ErrQuestion) {
		t.Errorf("a host of 256 bytes: %v", q.Err)
	}
}

// Envoy may send headers as bytes, several of one name.
func TestRawHeaders(t *testing.T) {
	d := &decider{}
	e := &authz.Envoy{Decider: d, Service: "web.east.mesh", Headers: []string{"x-tenant"}}
	req := authztest.Check{Principal: shop, Method: "GET", Path: "/"}.Proto()
	req.Attributes.Request.Http.HeaderMap = &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
		{Key: "x-tenant", RawValue: []byte("a")}, {Key: "X-Tenant", Value: "b"}, {Key: "x-other", Value: "c"}}}
	if _, err := e.Check(t.Context(), req); err != nil || d.last.Request.Headers["x-tenant"] != "a, b" || len(d.last.Request.Headers) != 1 {
		t.Errorf("%v, %+v", err, d.last.Request)
	}
}

func TestAuthZEN(t *testing.T) {
	d := &decider{uid: -2}
	lis, err := local.TCP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	serve(t, &authz.AuthZEN{Decider: d, Headers: []string{"x-tenant"}}, lis)
	const subject = `"subject": {"type": "spiffe", "id": "` + shop + `"}`
	const resource = `"resource": {"type": "service", "id": "web.east.mesh", "properties": {"path": "/v1"}}`
	get := `{` + subject + `, "action": {"name": "GET"}, ` + resource + `, "context": {"headers": {"X-Tenant": "t", "Cookie": "c"}}}`
	for name, tt := range map[string]struct {
		api, body string
		status    int
		want      string // in the body
	}{
		"yes":                 {"evaluation", get, 200, `{"decision":true,"context":{"decision_id":"0123456789abcdef"}}`},
		"no":                  {"evaluation", strings.Replace(get, "GET", "PUT", 1), 200, `{"decision":false,"context":{"reason":"policy","title":"Read only","owner":"web","labels":{"runbook":"r-1"},"decision_id":"0123456789abcdef"}}`},
		"connect":             {"evaluation", strings.Replace(get, "GET", "connect", 1), 200, `"decision":true`},
		"properties and more": {"evaluation", strings.Replace(get, `"name": "GET"`, `"name": "GET", "properties": {"x": 1}, "new": true`, 1), 200, `"decision":true`},
		"no subject":          {"evaluation", `{"action": {"name": "GET"}, ` + resource + `}`, 200, `"decision":false`},
		"a user":              {"evaluation", strings.Replace(get, "spiffe\"", "user\"", 1), 200, `want type spiffe`},
		"another resource":    {"evaluation", strings.Replace(get, "service\"", "document\"", 1), 200, `resource: want`},
		"no action":           {"evaluation", `{` + subject + `, ` + resource + `}`, 200, `action: want`},
		"two readings":        {"evaluation", strings.Replace(get, "/v1", "/v1//x", 1), 200, `more than one reading`},
		"a header twice":      {"evaluation", strings.Replace(get, `"Cookie"`, `"x-tenant"`, 1), 400, `"x-tenant" is there twice`},
		"a name twice":        {"evaluation", strings.Replace(get, `"path": "/v1"`, `"path": "/v1", "path": "/admin"`, 1), 400, `"path" is there twice`},
		"another case":        {"evaluation", strings.Replace(get, `"path": "/v1"`, `"path": "/v1", "Path": "/admin"`, 1), 400, `want "path"`},
		"in a batch":          {"evaluations", `{"evaluations": [{"action": {"name": "GET", "Name": "PUT"}}]}`, 400, `want "name"`},
		"default and batch":   {"evaluations", `{"action": {"name": "GET"}, "Action": {"name": "PUT"}, "evaluations": [{}]}`, 400, `want "action"`},
		"case of what is new": {"evaluation", strings.Replace(get, `"name": "GET"`, `"name": "GET", "properties": {"Name": 1, "name": 2}`, 1), 200, `"decision":true`},
		"too early":           {"evaluation", strings.Replace(get, "web.east", "early.east", 1), 200, `{"decision":false,"context":{"reason":"the node cannot decide yet: because",`},
		"too deep":            {"evaluation", `{"context": ` + strings.Repeat(`{"x": `, 40) + "1" + strings.Repeat("}", 41), 400, `nested`},
		"not JSON":            {"evaluation", `{`, 400, `not a request`},
		"two documents":       {"evaluation", get + get, 400, `after the end`},
		"wrong type":          {"evaluation", strings.Replace(get, `"GET"`, `7`, 1), 400, `not a request`},
		"too large":           {"evaluation", `{"x": "` + strings.Repeat("x", authz.MaxBody) + `"}`, 413, `256 KiB`},
		"defaults":            {"evaluations", `{` + subject + `, ` + resource + `, "evaluations": [{"action": {"name": "GET"}}, {"action": {"name": "PUT"}}, {"action": {"name": "GET"}}]}`, 200, `[true false true]`},
		"until a deny":        {"evaluations", `{` + subject + `, ` + resource + `, "options": {"evaluations_semantic": "deny_on_first_deny"}, "evaluations": [{"action": {"name": "GET"}}, {"action": {"name": "PUT"}}, {"action": {"name": "GET"}}]}`, 200, `[true false]`},
		"until a permit":      {"evaluations", `{` + subject + `, ` + resource + `, "options": {"evaluations_semantic": "permit_on_first_permit"}, "evaluations": [{"action": {"name": "PUT"}}, {"action": {"name": "GET"}}, {"action": {"name": "GET"}}]}`, 200, `[false true]`},
		"no evaluations":      {"evaluations", get, 200, `{"decision":true`},
		"unknown semantic":    {"evaluations", `{"options": {"evaluations_semantic": "majority"}, "evaluations": [{}]}`, 400, `execute_all`},
		"too many":            {"evaluations", `{"evaluations": [` + strings.Repeat("{},", authz.MaxEvaluations) + `{}]}`, 400, `at most 256`},
	} {
		resp, err := http.Post("http://"+lis.Addr().String()+"/access/v1/"+tt.api, "application/json", strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		said := string(bytes.TrimSpace(b))
		var all struct {
			Evaluations []struct {
				Decision bool `json:"decision"`
			} `json:"evaluations"`
		}
		if json.Unmarshal(b, &all) == nil && all.Evaluations != nil {
			var list []string
			for _, e := range all.Evaluations {
				list = append(list, map[bool]string{true: "true", false: "false"}[e.Decision])
			}
			said = "[" + strings.Join(list, " ") + "]"
		}
		if err != nil || resp.StatusCode != tt.status || !strings.Contains(said, tt.want) || strings.Contains(said, "secret") {
			t.Errorf("%s: %d %s, %v; want %d %s", name, resp.StatusCode, said, err, tt.status, tt.want)
		}
		if name == "yes" && (d.uid < 0 || len(d.last.Request.Headers) != 1 || d.last.Request.Headers["x-tenant"] != "t") {
			t.Errorf("asked by user %d about %+v", d.uid, d.last.Request)
		}
	}
	for kind, want := range map[string]int{"text/plain": 415, "": 415, "application/json; charset=utf-8": 200} {
		resp, err := http.Post("http://"+lis.Addr().String()+"/access/v1/evaluation", kind, strings.NewReader(get))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("content of type %q: %d, want %d", kind, resp.StatusCode, want)
		}
	}
	resp, err := http.Get("http://" + lis.Addr().String() + "/access/v1/evaluation")
	if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %v, %v", resp, err)
	}
	resp.Body.Close()
}

// FuzzEnvoy: whatever bytes are a CheckRequest, the answer is yes or no, and what is decided has
// one reading.
func FuzzEnvoy(f *testing.F) {
	for _, path := range []string{"/", "/a/b", "/a%2fb", "//", "/a/../b", "/%c0%ae", "/a;b", "*", "/a?b#c"} {
		b, err := proto.Marshal(authztest.Check{Principal: shop, Method: "GET", Path: path, Headers: map[string]string{"x-tenant": "t"}}.Proto())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var req authv3.CheckRequest
		if proto.Unmarshal(b, &req) != nil {
			return
		}
		d := &decider{}
		e := &authz.Envoy{Decider: d, Service: "web.east.mesh", Headers: []string{"x-tenant"}}
		r, err := e.Check(t.Context(), &req)
		if err != nil || (r.GetOkResponse() == nil) == (r.GetDeniedResponse() == nil) {
			t.Fatalf("%v, %v", r, err)
		}
		judge(t, d.last)
	})
}

// FuzzAuthZEN: the same of JSON.
func FuzzAuthZEN(f *testing.F) {
	f.Add(`{"subject": {"type": "spiffe", "id": "` + shop + `"}, "action": {"name": "GET"}, "resource": {"type": "service", "id": "web.east.mesh", "properties": {"path": "/v1"}}}`)
	f.Add(`{"evaluations": [{}, {"action": {"name": "connect"}}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		d := &decider{}
		for _, api := range []string{"evaluation", "evaluations"} {
			status, said := authz.ServeOnce(t.Context(), &authz.AuthZEN{Decider: d, Headers: []string{"x-tenant"}}, api, body)
			if status == http.StatusOK && !json.Valid([]byte(said)) || status >= 500 {
				t.Fatalf("%d %s", status, said)
			}
			judge(t, d.last)
		}
	})
}

func judge(t *testing.T, q authz.Question) {
	if q.Err != nil || q.Request == nil {
		return
	}
	for _, s := range q.Request.Path {
		if s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\\;%?#\x00") {
			t.Fatalf("decided about %q", q.Request.Path)
		}
	}
}
