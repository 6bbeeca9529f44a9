package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	inTicks  = regexp.MustCompile("`([^`]+)`")
	testName = regexp.MustCompile(`^([a-z/0-9]+)\.(Test\w+)$`)
)

// The page of controls has every control of the family, and each claim names a command that this
// version takes and a test that is there.
func TestControls(t *testing.T) {
	b, err := os.ReadFile("../../docs/controls.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for row := range strings.Lines(string(b)) {
		cells := strings.Split(strings.TrimSpace(row), "|")
		if len(cells) != 7 || strings.HasPrefix(cells[1], "---") || strings.TrimSpace(cells[1]) == "control" {
			continue
		}
		name := strings.TrimSpace(cells[1])
		seen[strings.Fields(name)[0]] = true
		commands, tests := inTicks.FindAllStringSubmatch(cells[3], -1), inTicks.FindAllStringSubmatch(cells[4], -1)
		if claims := !strings.HasPrefix(strings.TrimSpace(cells[2]), "nothing") && !strings.Contains(cells[2], "withdrawn"); claims != (len(commands) > 0) || claims != (len(tests) > 0) {
			t.Errorf("%s: a claim needs a command and a test", name)
		}
		for _, c := range commands {
			if err := parses(c[1]); err != nil {
				t.Errorf("%s: %s: %v", name, c[1], err)
			}
		}
		for _, test := range tests {
			if err := exists(test[1]); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for n := 1; n <= 16; n++ {
		if !seen[fmt.Sprintf("AU-%d", n)] {
			t.Errorf("AU-%d is missing", n)
		}
	}
	if !seen["800-207"] {
		t.Error("800-207 is missing")
	}
	for _, wrong := range []string{"attest/trail.TestNothing", "nowhere.TestKinds", "cmd/bailiwick/testdata/none.txtar"} {
		if exists(wrong) == nil {
			t.Errorf("%s is found", wrong)
		}
	}
}

// exists finds a test, by package and name, or a script.
func exists(name string) error {
	part := testName.FindStringSubmatch(name)
	if part == nil {
		_, err := os.Stat(filepath.Join("../..", name))
		return err
	}
	files, err := filepath.Glob(filepath.Join("../..", part[1], "*_test.go"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "func "+part[2]+"(") {
			return nil
		}
	}
	return fmt.Errorf("%s is not there", name)
}
