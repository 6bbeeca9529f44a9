package collector

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
)

// receive starts the collector's receiver and returns where it listens.
func receive(t *testing.T) (endpoint string, got *consumertest.LogsSink) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	factory, got := otlpreceiver.NewFactory(), new(consumertest.LogsSink)
	cfg := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(map[string]any{"protocols": map[string]any{"http": map[string]any{"endpoint": address}}}).Unmarshal(cfg); err != nil {
		t.Fatal(err)
	}
	r, err := factory.CreateLogs(t.Context(), receivertest.NewNopSettings(factory.Type()), cfg, got)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context(), componenttest.NewNopHost()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Shutdown(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return "http://" + address + "/v1/logs", got
}

// records are all that came, by name and leaf or decision, in order.
func records(got *consumertest.LogsSink) (out []plog.LogRecord) {
	for _, logs := range got.AllLogs() {
		for _, resource := range logs.ResourceLogs().All() {
			for _, scope := range resource.ScopeLogs().All() {
				for _, r := range scope.LogRecords().All() {
					out = append(out, r)
				}
			}
		}
	}
	return out
}

// A node sends its trail and its decisions, as they grow, to a collector that many run: it takes every
// request, and each record has its name, time, body and where it is in the trail.
func TestCollector(t *testing.T) {
	endpoint, got := receive(t)
	dir, err := os.MkdirTemp("", "bw") // short: sockets go there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program := filepath.Join(dir, "bailiwick")
	build := exec.Command("go", "build", "-o", program, "./cmd/bailiwick")
	build.Dir, build.Env = "../../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	swtpm, err := filepath.Abs("../../../.cache/swtpm/root")
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(program, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "BAILIWICK_SWTPM_ROOT="+swtpm)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() {
		cmd := exec.Command(program, "dev", "clean")
		cmd.Dir = dir
		_ = cmd.Run() // the fleet may not have come up
	})
	run("dev", "--detach")
	conf := filepath.Join(dir, ".dev", "nodes", "east-n2", "node.yaml")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	with := strings.Replace(string(text), "\ntrail:", fmt.Sprintf("\ntrail:\n  otlp: {endpoint: %q, decisions: true}", endpoint), 1)
	if with == string(text) {
		t.Fatalf("no section trail in\n%s", text)
	}
	if err := os.WriteFile(conf, []byte(with), 0o600); err != nil {
		t.Fatal(err)
	}
	var process struct {
		PID int `json:"pid"`
	}
	b, err := os.ReadFile(filepath.Join(dir, ".dev", "run", "east-n2.pid"))
	if err == nil {
		err = json.Unmarshal(b, &process)
	}
	if err == nil {
		err = syscall.Kill(process.PID, syscall.SIGKILL) // it is started again, with its new file
	}
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"bailiwick.trail.genesis": true, "bailiwick.trail.segment": true, "bailiwick.decision": true}
	for deadline := time.Now().Add(2 * time.Minute); len(want) > 0; time.Sleep(100 * time.Millisecond) {
		for _, r := range records(got) {
			delete(want, r.EventName())
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d records came, and none of %v", got.LogRecordCount(), want)
		}
	}
	seen := map[string]bool{}
	for _, r := range records(got) {
		if r.Timestamp() == 0 || r.ObservedTimestamp() == 0 || r.SeverityNumber() == plog.SeverityNumberUnspecified || r.Body().AsString() == "" {
			t.Errorf("%s lacks something: %v", r.EventName(), r.Attributes().AsRaw())
		}
		if !strings.HasPrefix(r.EventName(), "bailiwick.trail.") {
			continue
		}
		origin, _ := r.Attributes().Get("bailiwick.trail.origin")
		index, _ := r.Attributes().Get("bailiwick.trail.index")
		leaf := origin.AsString() + " " + index.AsString()
		if !strings.HasPrefix(leaf, "east.dev.example/trail/east-n2/") || seen[leaf] {
			t.Errorf("%s is of leaf %q", r.EventName(), leaf)
		}
		seen[leaf] = true
	}
	run("dev", "stop")
}
