package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// Who signs a tree of one region for another is told.
func TestPublishWarnsOfAnotherRegion(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	var out bytes.Buffer
	if code := execute([]string{"policy", "init", dir, "--trust-domain", "east.example.org"}, &out, &out); code != 0 {
		t.Fatal(out.String())
	}
	for _, tt := range []struct {
		level, scope string
		want         bool
	}{
		{policy.Regional, "east.example.org", false},
		{policy.Regional, "west.example.org", true},
		{policy.Local, "east.example.org/node/n1", false},
		{policy.Local, "west.example.org/node/n1", true},
		{policy.Global, bundle.ScopeMesh, false},
	} {
		out.Reset()
		p := publication{options: &options{err: &out}}
		p.warnOfRegion(filepath.Join(dir, "regional")+"/", provision.Policy{Level: tt.level, Scope: tt.scope})
		told := strings.Contains(out.String(), filepath.Join(dir, "tree.json")+" says that ") && strings.Contains(out.String(), "is for east.example.org, and it is signed for west.example.org")
		if told != tt.want || (out.Len() > 0) != tt.want {
			t.Errorf("%s of %s: %q", tt.level, tt.scope, out.String())
		}
	}
}
