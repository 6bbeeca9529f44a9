package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

// told lets a test wait for words in what a command prints.
type told struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (t *told) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer func() {
		select {
		case t.more <- struct{}{}:
		default:
		}
	}()
	return t.text.Write(b)
}

func (t *told) wait(ctx context.Context, words string) bool {
	for {
		t.mu.Lock()
		there := strings.Contains(t.text.String(), words)
		t.mu.Unlock()
		if there {
			return true
		}
		select {
		case <-t.more:
		case <-ctx.Done():
			return false
		}
	}
}

// --watch runs the tests again when a file changes, survives a tree that does not compile, and ends
// with its context.
func TestPolicyTestWatches(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	if _, err := workbench.Init(dir, "zero-trust", "east", "east.example.org"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out := &told{more: make(chan struct{}, 1)}
	errs := &told{more: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	run := testRun{options: &options{format: output.Table, out: out, err: errs}}
	watching, stop := context.WithCancel(ctx)
	go func() { ended <- run.again(watching, dir, policy.TestOptions{}) }()
	if !errs.wait(ctx, "all passed") {
		t.Fatal("the first run did not pass")
	}
	file := filepath.Join(dir, "regional", "connect.rego")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	change := func(old, with string) {
		if err := os.WriteFile(file, bytes.Replace(before, []byte(old), []byte(with), 1), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change("spiffe_id", "spifeid")
	if !errs.wait(ctx, "did you mean spiffe_id?") {
		t.Error("the mistake was not shown")
	}
	change("not granted", "granted")
	if !out.wait(ctx, "FAIL connect: intruder") {
		t.Error("the failure was not shown")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
