package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// publish --out and trust sign go on from the same file in the same way: by one version, with its terms.
func TestVersionsFollow(t *testing.T) {
	dir := t.TempDir()
	run := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if code := execute(args, &out, &out); code != want {
			t.Fatalf("%v: exit code %d: %s", args, code, out.String())
		}
		return out.String()
	}
	for _, name := range []string{"mesh", "other"} {
		run(0, "trust", "init", "--global", filepath.Join(dir, name))
	}
	tree, key, out := filepath.Join(dir, "mesh", "policy"), filepath.Join(dir, "mesh", "global.key.pem"), filepath.Join(dir, "signed.policy")
	for i, args := range [][]string{
		{"policy", "publish", tree, "--key", key, "--out", out, "--stale-mode", "freeze", "--max-staleness", "1h", "--author", "spiffe://example.org/ann"},
		{"trust", "sign", tree, "--key", key, "--out", out},
		{"policy", "publish", tree, "--key", key, "--out", out},
		{"trust", "sign", tree, "--key", key, "--out", out},
	} {
		run(0, args...)
		var got struct {
			Items []struct {
				Version   int    `json:"version"`
				StaleMode string `json:"stale_mode"`
				Author    string `json:"author"`
				Staleness int    `json:"max_staleness_seconds"`
			} `json:"items"`
		}
		text := run(0, "policy", "publish", out, "--verify", "--global-key", filepath.Join(dir, "mesh", "global.pem"), "-o", "json")
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if r := got.Items[0]; r.Version != i+1 || r.StaleMode != "freeze" || r.Staleness != 3600 || r.Author != "spiffe://example.org/ann" {
			t.Errorf("after %v: %+v", args, r)
		}
	}
	region := filepath.Join(dir, "east")
	run(0, "trust", "init", "--region", "east", "--trust-domain", "east.example.org", region)
	draft, err := filepath.Glob(filepath.Join(region, "*.draft"))
	if err != nil || len(draft) != 1 {
		t.Fatalf("%v, %v", draft, err)
	}
	run(0, "trust", "sign", draft[0], "--key", key)
	text := run(2, "trust", "sign", filepath.Join(region, "policy"), "--key", filepath.Join(region, "policy.key.pem"), "--delegation", filepath.Join(region, "east.delegation"), "--out", out)
	if !strings.Contains(text, "global policy of mesh is in the way of regional policy of east.example.org") {
		t.Error(text)
	}
}
