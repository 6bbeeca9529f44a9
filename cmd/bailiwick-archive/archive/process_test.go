package archive

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// program builds the command once for a test.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bailiwick-archive")
	if out, err := exec.Command("go", "build", "-o", path, "..").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func command(t *testing.T, path, secret string, args ...string) *exec.Cmd {
	c := exec.CommandContext(t.Context(), path, append(args, "--endpoint", one.endpoint, "--prefix", "site")...)
	c.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+testAccess, "AWS_SECRET_ACCESS_KEY="+secret, "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	return c
}

// Killed in the middle of an upload, and run again, the program leaves a whole archive, which it verifies.
func TestKilledProcess(t *testing.T) {
	s, b := newSite(t), opened(t, "killed")
	s.grow(20_000)
	path := program(t)
	kills := 0
	for there := 0; kills < 5; kills++ {
		c := command(t, path, testSecret, "push", s.state, "--bucket", "killed", "--retain-days", "1")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		for before := there; there < before+15; there = len(versions(t, b, "")) { // some more have come
		}
		_ = c.Process.Kill()
		if err := c.Wait(); err == nil {
			t.Fatal("it ended before it was killed: the trail is too small for this test")
		}
		if _, err := Fetch(t.Context(), b, testNode, t.TempDir()); !errors.Is(err, ErrNotArchived) {
			t.Fatalf("a head before all is there: %v", err)
		}
	}
	out, err := command(t, path, testSecret, "push", s.state, "--bucket", "killed", "--retain-days", "1").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "20002 leaves archived, 20002 of them new") {
		t.Fatalf("%v: %s", err, out)
	}
	out, err = command(t, path, testSecret, "verify", "--bucket", "killed", "--id", testNode.String()).CombinedOutput()
	if err != nil || strings.Count(string(out), "good") != 3 || !strings.Contains(string(out), "20002 leaves") {
		t.Errorf("%v: %s", err, out)
	}
	dir := t.TempDir()
	out, err = command(t, path, testSecret, "fetch", dir, "--bucket", "killed").CombinedOutput()
	if _, serr := os.Stat(filepath.Join(dir, "east.example.org", "edge-7", "trail", "1", "checkpoint")); err != nil || serr != nil {
		t.Errorf("%v, %v: %s", err, serr, out)
	}
}

// What cannot be done is said, with exit code 1 and without the secret.
func TestRefusedCommands(t *testing.T) {
	bucket(t, "open-bucket", false)
	bucket(t, "closed-bucket", true)
	path, state := program(t), newSite(t).state
	for _, tt := range []struct{ bucket, secret, days, want string }{
		{"open-bucket", testSecret, "1", "not protected by object lock"},
		{"closed-bucket", "not-the-" + testSecret, "1", "the storage refuses access"},
		{"closed-bucket", testSecret, "0", "--retain-days 0"},
		{"", testSecret, "1", "--bucket is missing"},
	} {
		out, err := command(t, path, tt.secret, "push", state, "--bucket", tt.bucket, "--retain-days", tt.days).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), tt.want) || strings.Contains(string(out), testSecret) {
			t.Errorf("%+v: %v: %s", tt, err, out)
		}
	}
}
