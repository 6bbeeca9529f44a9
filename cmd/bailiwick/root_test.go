package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

func TestUsageErrors(t *testing.T) {
	for line, want := range map[string]string{
		"nonsense":                       `unknown command "nonsense"`,
		"status extra":                   "See: bailiwick status --help",
		"status --nonsense":              "See: bailiwick status --help",
		"status -o xml":                  "want table, json or yaml",
		"dev cut":                        "See: bailiwick dev cut --help",
		"dev nonsense":                   `unknown command "nonsense"`,
		"check config":                   "accepts 1 arg(s), received 0: bailiwick check config FILE",
		"policy chek":                    "did you mean check?",
		"policy shadow strat":            "did you mean start?",
		"polcy":                          "policy",
		"quarantine release 0123":        "--reason TEXT is required",
		"trail verify":                   "say whose trail",
		"trail verify DIR --id nonsense": "--id: ",
		"trail tail DIR --count 0":       "--count 0: want 1 or more",
		"explain BW9999":                 "bailiwick explain lists them",
		"check config /dev/null":         "BW1002",
		"run --config /dev/null":         "BW1002",
		"put /node/n1/x-a/b":             "want a VALUE",
		"quarantine show":                "accepts 1 arg",
	} {
		code, out, errOut := run(strings.Fields(line)...)
		if code != explain.Usage || out != "" || !strings.Contains(errOut, want) {
			t.Errorf("%s: exit %d\n%s%s\nwant %q", line, code, out, errOut, want)
		}
	}
}

// TestOfflineVerbsInEveryFormat: one shape for every verb.
func TestOfflineVerbsInEveryFormat(t *testing.T) {
	for _, line := range []string{"version", "explain", "explain bw1001"} {
		code, table, _ := run(strings.Fields(line)...)
		if code != explain.OK || table == "" || json.Valid([]byte(table)) {
			t.Errorf("%s: exit %d\n%s", line, code, table)
		}
		_, out, _ := run(append(strings.Fields(line), "-o", "json")...)
		var doc map[string]any
		if err := json.Unmarshal([]byte(out), &doc); err != nil || doc["as_of"] == nil || doc["view_of"] == nil || len(doc["items"].([]any)) == 0 {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
		if _, out, _ := run(append(strings.Fields(line), "-o", "yaml")...); !strings.HasPrefix(out, "as_of: ") {
			t.Errorf("%s:\n%s", line, out)
		}
	}
}

// TestEveryVerbHelps: each has a short text, and none of them ends in a full stop
// or takes more than a line.
func TestEveryVerbHelps(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden {
			return
		}
		if c.Short == "" || len(c.Short) > 90 || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short text %q", c.CommandPath(), c.Short)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	root := newRoot(&options{format: output.Table, out: &bytes.Buffer{}, err: &bytes.Buffer{}})
	walk(root)
	if code, out, _ := run("help"); code != explain.OK || !strings.Contains(out, "0 ok, 1 failed, 2 usage, 3 unreachable, 4 denied, 5 degraded") {
		t.Errorf("exit %d\n%s", code, out)
	}
}
