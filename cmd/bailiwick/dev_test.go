package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLastError(t *testing.T) {
	for name, tt := range map[string]struct{ log, want string }{
		"ended":         {"time=1 msg=a\nbailiwick: BW1: old\ntime=2 msg=b\nbailiwick: BW2: broken\n  what to do: mend it\n", ", which ends with BW2: broken"},
		"runs again":    {"time=1 msg=a\nbailiwick: BW1: old\ntime=2 msg=b\n", ""},
		"never started": {"", ""},
	} {
		log := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(log, []byte(tt.log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lastError(log); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	if got := lastError(filepath.Join(t.TempDir(), "none")); got != "" {
		t.Errorf("no log: %q", got)
	}
}
