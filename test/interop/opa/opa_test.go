package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// build builds a command in a folder.
func build(t *testing.T, dir, pkg, out string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, b)
	}
}

// The command of OPA, built from its module: a bundle goes from bailiwick to stock opa and back, and one that stock opa built comes in; with
// another key neither takes the other's.
func TestStockOPA(t *testing.T) {
	dir := t.TempDir()
	bailiwick, stock := filepath.Join(dir, "bailiwick"), filepath.Join(dir, "opa")
	build(t, "../../..", "./cmd/bailiwick", bailiwick)
	build(t, ".", "github.com/open-policy-agent/opa", stock)
	run := func(ok bool, want, name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		b, err := cmd.CombinedOutput()
		if (err == nil) != ok || !strings.Contains(string(b), want) {
			t.Fatalf("%s %s: %v, want %q\n%s", filepath.Base(name), strings.Join(args, " "), err, want, b)
		}
	}
	const key, public, other = "mine/global.key.pem", "mine/global.pem", "other/global.pem"
	run(true, "", bailiwick, "trust", "init", "--global", "mine")
	run(true, "", bailiwick, "trust", "init", "--global", "other")

	run(true, "OPA bundle", bailiwick, "policy", "publish", "mine/policy", "--key", key, "--opa", "ours.tar.gz")
	verify := []string{"build", "--bundle", "ours.tar.gz", "--verification-key-id", "bailiwick", "--signing-alg", "ES256", "--signing-key", key, "--output", "theirs.tar.gz", "--verification-key"}
	run(true, "", stock, append(verify, public)...)
	run(false, "failed to verify", stock, append(verify, other)...)
	run(true, "PASS", stock, "test", "--bundle", "ours.tar.gz")
	if err := os.WriteFile(filepath.Join(dir, "input.json"), []byte(`{"v": 1, "kind": "connect", "source": {"standing": "quarantined"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	run(true, "source-standing", stock, "eval", "--bundle", "ours.tar.gz", "--input", "input.json", "data.bailiwick.global.connect.deny")

	run(true, "", stock, "build", "--bundle", "mine/policy", "--signing-key", key, "--signing-alg", "ES256", "--output", "fresh.tar.gz")
	for _, bundle := range []string{"theirs.tar.gz", "fresh.tar.gz"} {
		run(false, "not an OPA bundle that can be imported", bailiwick, "policy", "publish", bundle, "--opa-key", other, "--key", key, "--out", "refused.policy")
		run(true, "", bailiwick, "policy", "publish", bundle, "--opa-key", public, "--key", key, "--out", bundle+".policy")
		run(true, "verified: global policy", bailiwick, "policy", "publish", bundle+".policy", "--verify", "--global-key", public)
	}
}
