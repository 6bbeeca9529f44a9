package shipping

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/decision/export"
)

// segment is the file of a segment with so many decisions.
func segment(t *testing.T, n int) []byte {
	t.Helper()
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	enc := json.NewEncoder(z)
	lines := []any{decision.Header{Segment: 1, Node: testNode.String(), First: 1, Last: uint64(n), Count: n, From: at, To: at}}
	for i := range n {
		e := decision.NewEvent(policy.Decision{ID: fmt.Sprintf("%032x", i+1), Kind: policy.Connect, Rule: "r", Input: json.RawMessage(`{"v":1}`)}, map[string]string{"id": testNode.String()}, at)
		e.RequestID = uint64(i + 1)
		lines = append(lines, e)
	}
	for _, l := range lines {
		if err := enc.Encode(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Whom the token goes to, and what answers mean.
func TestCollector(t *testing.T) {
	var status int
	var got []string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.URL.Path+" "+r.Header.Get("Authorization"))
		if status == http.StatusTemporaryRedirect {
			http.Redirect(w, r, "/elsewhere", status)
			return
		}
		w.WriteHeader(status)
	}))
	defer srv.Close()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	roots := file("roots", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	c := Collector{URL: srv.URL + "/v1/logs", Roots: roots, TokenFile: file("token", "first-secret\n")}
	send, err := c.Sender()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		status int
		want   error
	}{{200, nil}, {503, export.ErrCollector}, {429, export.ErrCollector}, {401, export.ErrCollector}, {404, export.ErrCollector}, {307, export.ErrCollector}, {400, export.ErrRefused}, {413, export.ErrRefused}} {
		status, got = tt.status, nil
		err := send(t.Context(), []byte("{}"))
		if !errors.Is(err, tt.want) || errors.Is(err, export.ErrRefused) != (tt.want == export.ErrRefused) {
			t.Errorf("%d: %v, want %v", tt.status, err, tt.want)
		}
		if len(got) != 1 || got[0] != "/v1/logs Bearer first-secret" {
			t.Errorf("%d: it got %q", tt.status, got)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the token is in %q", err)
		}
	}
	status = 200
	file("token", "second-secret")
	if err := send(t.Context(), nil); err != nil || got[len(got)-1] != "/v1/logs Bearer second-secret" {
		t.Errorf("another token: %v, %v", got, err)
	}
	for _, bad := range []string{"", "two\nlines", "a b", "\x00", "\n"} {
		file("token", bad)
		before := len(got)
		if err := send(t.Context(), nil); !errors.Is(err, ErrToken) || len(got) != before {
			t.Errorf("token %q: %v", bad, err)
		}
	}
	if out := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(out, "secret") {
		t.Error("the token prints")
	}
	if _, err := (Collector{URL: srv.URL, Roots: file("roots", "none")}).Sender(); !errors.Is(err, ErrRoots) {
		t.Errorf("roots without a certificate: %v", err)
	}
	strangers, err := Collector{URL: srv.URL}.Sender()
	if err != nil {
		t.Fatal(err)
	}
	before := len(got)
	if err := strangers(t.Context(), nil); err == nil || len(got) != before {
		t.Errorf("a collector that nobody vouches for: %v", err)
	}
}
