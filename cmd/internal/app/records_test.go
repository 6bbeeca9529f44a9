package app

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := statement.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNodeRecord(t *testing.T) {
	good := nodeRecord{Address: "127.0.0.1:1", Region: "east", Roles: []string{roleIssuer}}
	tests := []struct {
		name  string
		key   string
		value []byte
		ok    bool
	}{
		{"good", nodeName, encode(t, good), true},
		{"other name", "other", encode(t, good), false},
		{"no address", nodeName, encode(t, nodeRecord{Region: "east"}), false},
		{"host name", nodeName, encode(t, nodeRecord{Address: "east-n1:1"}), false},
		{"unknown role", nodeName, encode(t, nodeRecord{Address: "127.0.0.1:1", Roles: []string{"king"}}), false},
		{"long version", nodeName, encode(t, nodeRecord{Address: "127.0.0.1:1", Version: strings.Repeat("v", 65)}), false},
		{"not CBOR", nodeName, []byte("hello"), false},
		{"empty", nodeName, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parseNodeRecord(tt.key, tt.value); (err == nil) != tt.ok {
				t.Errorf("got %v, want ok %v", err, tt.ok)
			}
		})
	}
}

func FuzzNodeRecord(f *testing.F) {
	f.Add(encode(f, nodeRecord{Address: "127.0.0.1:1", Region: "east", Roles: []string{roleGateway}}))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := parseNodeRecord(nodeName, in)
		if err == nil && !bytes.Equal(encode(t, r), in) {
			t.Errorf("%x parses and re-encodes otherwise", in)
		}
	})
}

func FuzzServiceRecord(f *testing.F) {
	f.Add(encode(f, serviceRecord{Workload: "spiffe://east.dev.example/workload/web", Healthy: true}))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, _, err := parseServiceRecord(in)
		if err == nil && !bytes.Equal(encode(t, r), in) {
			t.Errorf("%x parses and re-encodes otherwise", in)
		}
	})
}

// TestEveryLeafKindIsRegistered looks for names of leaf kinds in the source and
// for each in the trail's registry: an auditor must find what it means.
func TestEveryLeafKindIsRegistered(t *testing.T) {
	name := regexp.MustCompile(`[lL]eaf\w*(?:\(tx, | += )"([a-z.]+)"`)
	found := 0
	for _, folder := range []string{"gossip", "identity", "mesh", "policy", "cmd"} {
		err := filepath.WalkDir(filepath.Join("../../..", folder), func(path string, d os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".pb.go") {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range name.FindAllSubmatch(b, -1) {
				found++
				if _, ok := trail.LookupKind(string(m[1])); !ok {
					t.Errorf("%s writes %q, which is not in attest/trail/kind.go", path, m[1])
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 5 {
		t.Errorf("only %d kinds found: this test looks for the wrong thing", found)
	}
}
