package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/local"
	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
)

// node answers one call.
type node struct {
	controlv1.UnimplementedControlHandler
	statev1.UnimplementedStateHandler
}

func (node) Status(context.Context, *controlv1.StatusRequest) (*controlv1.StatusResponse, error) {
	return &controlv1.StatusResponse{View: &controlv1.View{ViewOf: "spiffe://east.dev.example/node/n1"}}, nil
}

func all(ctx context.Context, _ Call) (context.Context, error) { return ctx, nil }

func serve(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "control.sock")
	s, err := Listen(path, "", all, node{}, node{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve() }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-ended); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket was left behind: %v", err)
		}
	})
	return path
}

func overSocket(path string) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		DisableKeepAlives: true,
		Protocols:         protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}
}

func TestConnectAndGRPCAnswer(t *testing.T) {
	path := serve(t)
	for name, options := range map[string][]connect.ClientOption{
		"connect": nil, "connect JSON": {connect.WithProtoJSON()}, "gRPC": {connect.WithGRPC()}, "gRPC-Web": {connect.WithGRPCWeb()},
	} {
		transport := overSocket(path)
		c := controlv1.NewControlClient(&http.Client{Transport: transport}, "http://bailiwick", options...)
		r, err := c.Status(t.Context(), &controlv1.StatusRequest{})
		if err != nil || r.View.GetViewOf() != "spiffe://east.dev.example/node/n1" {
			t.Errorf("%s: %v, %v", name, r, err)
		}
		if _, err := c.Why(t.Context(), &controlv1.WhyRequest{}); connect.CodeOf(err) != connect.CodeUnimplemented {
			t.Errorf("%s: got %v, want the handler's own error", name, err)
		}
		transport.CloseIdleConnections()
	}
}

func post(t *testing.T, path, method, body string) (int, string) {
	t.Helper()
	transport := overSocket(path)
	transport.Protocols = nil // HTTP/1, as curl speaks it
	resp, err := (&http.Client{Transport: transport}).Post("http://bailiwick/bailiwick.control.v1.Control/"+method, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestCurlGetsJSON(t *testing.T) {
	path := serve(t)
	tests := []struct {
		name, method, body string
		status             int
		want               string
	}{
		{"an answer", "Status", "{}", http.StatusOK, `"viewOf":"spiffe://east.dev.example/node/n1"`},
		{"not JSON", "Status", "{", http.StatusBadRequest, `"code":"invalid_argument"`},
		{"unknown field", "Status", `{"nonsense":1}`, http.StatusOK, `"viewOf"`}, // as protobuf has it: a newer client may ask
		{"unknown method", "Nonsense", "{}", http.StatusNotFound, ""},
		{"too large", "Why", `{"id":"` + strings.Repeat("k", MaxRequest) + `"}`, http.StatusTooManyRequests, `"code":"resource_exhausted"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, body := post(t, path, tt.method, tt.body)
			if status != tt.status || !strings.Contains(strings.ReplaceAll(body, `": `, `":`), tt.want) {
				t.Errorf("got %d %s, want %d with %s", status, body, tt.status, tt.want)
			}
		})
	}
}

func TestOnlyTheOwnerMayConnect(t *testing.T) {
	path := serve(t)
	for name, want := range map[string]os.FileMode{path: os.ModeSocket | 0o600, filepath.Dir(path): os.ModeDir | 0o700} {
		if info, err := os.Lstat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
}

func TestSocketInUseIsLeftAlone(t *testing.T) {
	path := serve(t)
	if _, err := Listen(path, "", all, node{}, node{}); !errors.Is(err, local.ErrSocketBusy) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want ErrSocketBusy with the path", err)
	}
	if status, _ := post(t, path, "Status", "{}"); status != http.StatusOK {
		t.Errorf("the first server answers %d afterwards", status)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	lis.SetUnlinkOnClose(false) // as a killed node leaves it
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Listen(path, "", all, node{}, node{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoSocketIsKept(t *testing.T) {
	dir := t.TempDir()
	file, folder := filepath.Join(dir, "file"), filepath.Join(dir, "folder")
	if err := errors.Join(os.WriteFile(file, []byte("precious"), 0o600), os.Mkdir(folder, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, folder} {
		if _, err := Listen(path, "", all, node{}, node{}); err == nil || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: got %v", path, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file is now %q, %v", b, err)
	}
}
