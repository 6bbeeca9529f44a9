package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/bailiwick-mesh/bailiwick/"

// mayImport is a statement of intent: to change an arrow, change it here first.
// A folder may always import within itself. Nobody imports cmd.
var mayImport = map[string][]string{
	"attest":   {},
	"gossip":   {"attest"},
	"identity": {"attest"},
	"policy":   {"attest"},
	"mesh":     {"attest", "identity", "policy"},
	"cmd":      {"attest", "gossip", "identity", "policy", "mesh", "cmd"},
	"test":     {"attest", "gossip", "identity", "policy", "mesh", "cmd"},
	"deploy":   {},
}

// homes gives each heavy or dangerous library the only folders that may see it.
// Its types do not leave home.
var homes = map[string][]string{
	"github.com/open-policy-agent/opa":               {"policy", "test"},
	"github.com/santhosh-tekuri/jsonschema":          {"policy/schema", "policy/decision/export"}, // exports are held against the schema of OCSF in tests
	"github.com/quic-go/quic-go":                     {"mesh/link", "test"},
	"github.com/hashicorp/serf":                      {"gossip/roster", "test"},
	"github.com/hashicorp/memberlist":                {"gossip/roster", "test"},
	"github.com/google/go-tpm":                       {"attest/tpm"},
	"github.com/google/go-attestation":               {"attest/tpm", "attest/eventlog"},
	"github.com/transparency-dev":                    {"attest/trail"},
	"github.com/spiffe/spire-api-sdk":                {"identity", "test"},
	"go.etcd.io/bbolt":                               {"attest/store", "test"},
	"modernc.org/sqlite":                             {"cmd/internal/audit/index"},
	"github.com/fxamacker/cbor":                      {"attest/statement"},
	"github.com/veraison/go-cose":                    {"attest/statement"},
	"google.golang.org/grpc":                         {"identity", "cmd/internal/authz", "test"},
	"github.com/goccy/go-yaml":                       {"cmd/internal"},
	"github.com/spf13/cobra":                         {"cmd"},
	"connectrpc.com/connect":                         {"cmd", "gossip/client"},
	"github.com/envoyproxy/go-control-plane":         {"identity/workloadapi", "cmd/internal/authz", "test"},
	"text/template":                                  {}, // looks methods up by name: the linker then keeps all of them, 7 MB
	"html/template":                                  {},
	"github.com/prometheus/client_golang/prometheus": {"attest", "gossip", "identity", "policy", "mesh", "cmd", "test"},
}

// parts is what the product imports of a library that is used in part; its tests may import more.
// Package policy says why each part of OPA is here.
var parts = map[string][]string{
	"github.com/open-policy-agent/opa": {"v1/ast", "v1/bundle", "v1/cover", "v1/format", "v1/metrics", "v1/rego", "v1/storage", "v1/storage/inmem", "v1/tester", "v1/topdown", "v1/types", "v1/util"},
}

// unlinked is what must not be in the binary, however it would get there.
var unlinked = []string{
	"github.com/open-policy-agent/opa/v1/server", "github.com/open-policy-agent/opa/v1/sdk",
	"github.com/open-policy-agent/opa/v1/plugins", "github.com/open-policy-agent/opa/v1/runtime",
}

type goPackage struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func TestArrows(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = "../../.."
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for dec := json.NewDecoder(out); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen++
		for _, imported := range p.Imports {
			if why := apart(p.ImportPath, imported); why != "" {
				t.Error(why)
			}
		}
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			for _, wrong := range wrongs(p.ImportPath, imported) {
				t.Error(wrong)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if seen < 10 {
		t.Errorf("only %d packages seen: this test looks in the wrong place", seen)
	}
	if t.Failed() {
		t.Log(table())
	}
}

// wrongs says what is wrong with one import, in words.
func wrongs(from, to string) (out []string) {
	from, ours := strings.CutPrefix(from, module)
	if !ours {
		return nil
	}
	folder, _, _ := strings.Cut(from, "/")
	allowed, known := mayImport[folder]
	if !known {
		out = append(out, fmt.Sprintf("%s: %s is no folder of the house", from, folder))
	}
	if target, ours := strings.CutPrefix(to, module); ours {
		if into, _, _ := strings.Cut(target, "/"); into != folder && !slices.Contains(allowed, into) {
			out = append(out, fmt.Sprintf("%s imports %s: %s may import only %v", from, target, folder, allowed))
		}
		return out
	}
	for library, rooms := range homes {
		if to != library && !strings.HasPrefix(to, library+"/") {
			continue
		}
		if !slices.ContainsFunc(rooms, func(room string) bool { return from == room || strings.HasPrefix(from, room+"/") }) {
			out = append(out, fmt.Sprintf("%s imports %s, which lives in %v", from, to, rooms))
		}
	}
	return out
}

// apart says why the product may not import a part of a library, or nothing.
func apart(from, to string) string {
	if from, ours := strings.CutPrefix(from, module); !ours || strings.HasPrefix(from, "test/") {
		return ""
	}
	for library, known := range parts {
		if part, ok := strings.CutPrefix(to, library+"/"); ok && !slices.Contains(known, part) {
			return fmt.Sprintf("%s imports %s: of %s the product uses only %v", from, to, library, known)
		}
	}
	return ""
}

// The binary holds nothing of OPA that listens, downloads or reports, and the package doc says of
// each part of OPA why it is there.
func TestOnlyPartsOfOPA(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./cmd/bailiwick")
	cmd.Dir = "../../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := strings.Fields(string(out))
	if !slices.Contains(linked, "github.com/open-policy-agent/opa/v1/topdown") {
		t.Error("OPA is not linked: this test looks in the wrong place")
	}
	for _, p := range linked {
		for _, bad := range unlinked {
			if p == bad || strings.HasPrefix(p, bad+"/") {
				t.Errorf("%s is linked", p)
			}
		}
	}
	doc, err := os.ReadFile("../../../policy/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range parts["github.com/open-policy-agent/opa"] {
		if !strings.Contains(string(doc), strings.TrimPrefix(part, "v1/")) {
			t.Errorf("policy/doc.go does not say why %s is here", part)
		}
	}
}

func table() string {
	var b strings.Builder
	b.WriteString("the arrows (see CONTRIBUTING.md; to change one, change mayImport first):\n")
	for _, folder := range []string{"attest", "gossip", "identity", "policy", "mesh", "cmd", "test"} {
		fmt.Fprintf(&b, "  %-9s may import %s\n", folder, strings.Join(mayImport[folder], ", "))
	}
	return b.String()
}

func TestArrowsCanFail(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		want     int
	}{
		{"gossip/feed", module + "attest/statement", 0},
		{"gossip/feed", module + "gossip/replica", 0},
		{"gossip/feed", module + "identity/epoch", 1},
		{"attest/store", module + "policy", 1},
		{"mesh/link", module + "cmd/internal/app", 1},
		{"mesh/link", "github.com/quic-go/quic-go", 0},
		{"mesh/tunnel", "github.com/quic-go/quic-go/http3", 1},
		{"cmd/bailiwick", "text/template", 1},
		{"util", "fmt", 1},
	} {
		if got := wrongs(module+tt.from, tt.to); len(got) != tt.want {
			t.Errorf("%s -> %s: %v, want %d wrongs", tt.from, tt.to, got, tt.want)
		}
	}
}

func TestPartsCanFail(t *testing.T) {
	const opa = "github.com/open-policy-agent/opa/"
	for _, tt := range []struct {
		from, to string
		wrong    bool
	}{
		{"policy", opa + "v1/topdown", false},
		{"policy", opa + "v1/server", true},
		{"policy/opabundle", opa + "v1/plugins/bundle", true},
		{"policy", opa + "v1/topdown/cache", true},
		{"test/bench", opa + "v1/sdk", false},
		{"policy", "fmt", false},
	} {
		if got := apart(module+tt.from, tt.to); (got != "") != tt.wrong {
			t.Errorf("%s -> %s: %q", tt.from, tt.to, got)
		}
	}
}
