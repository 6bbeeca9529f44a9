package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const deploy = "../../../deploy/config"

func TestExampleLoads(t *testing.T) {
	c, err := Load(filepath.Join(deploy, "bailiwick.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Node.String() != "spiffe://east.example.org/node/ship-7" || c.Control.Socket != "/var/lib/bailiwick/run/control.sock" {
		t.Errorf("%+v", c)
	}
	entries, err := LoadEntries(filepath.Join(deploy, "entries.yaml"), c.Node.TrustDomain())
	if err != nil || len(entries) != 6 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}

// TestExampleRolesLoad takes the comment signs off the roles of the example.
func TestExampleRolesLoad(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(deploy, "bailiwick.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	head, roles, ok := strings.Cut(string(b), "# A node that also signs")
	if !ok {
		t.Fatal("the example lost its roles")
	}
	var text strings.Builder
	text.WriteString(head)
	for _, line := range strings.Split(roles, "\n")[1:] {
		if !strings.HasPrefix(line, "# A node") {
			text.WriteString(strings.TrimPrefix(line, "# ") + "\n")
		}
	}
	c, err := Parse([]byte(text.String()), "/etc/bailiwick/bailiwick.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if c.Issuer == nil || c.Issuer.Lifetime != time.Hour || c.Authority == nil || len(c.Authority.Services) != 1 {
		t.Errorf("%+v %+v", c.Issuer, c.Authority)
	}
}

const minimal = `node: spiffe://east.dev.example/node/n1
state: state
trust: {global_keys: [g.pem], records: [east.trust]}
enrol: {issuers: ["127.0.0.1:1"]}
mesh: {listen: "127.0.0.1:2"}
policy: {global: g.policy, region: r.policy}
`

func TestMinimalHasDefaults(t *testing.T) {
	c, err := Parse([]byte(minimal), "/x/node.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if c.State != "/x/state" || c.TPM.Mode != "auto" || c.Mesh.Advertise != c.Mesh.Listen || c.Trust.Threshold != 1 || c.Log.Level != "info" ||
		c.Policy.Decisions.MaxBytes != 64<<20 {
		t.Errorf("%+v", c)
	}
}

func TestMistakes(t *testing.T) {
	tests := []struct {
		name, edit, with string
		line             int
		want             string
	}{
		{"unknown key", "state: state", "stat: state", 2, `stat: found "stat", no such key; did you mean "state"?`},
		{"unknown nested key", "issuers:", "isuers:", 4, `enrol.isuers: found "isuers", no such key; did you mean "issuers"?`},
		{"missing", "state: state\n", "", 0, "state: required: a folder"},
		{"repeated", "state: state", "state: state\nstate: other", 3, "state"},
		{"bad ID", "node/n1", "nod/n1", 1, "node: found"},
		{"not an address", `"127.0.0.1:2"`, `localhost`, 5, "mesh.listen: found"},
		{"mapping for a list", "[g.pem]", "{a: b}", 3, "trust.global_keys"},
		{"list for text", "state: state", "state: [a]", 2, "state: want a path, not a list"},
		{"number", "records: [east.trust]}", "records: [east.trust], threshold: many}", 3, `trust.threshold: found "many"`},
		{"range", "records: [east.trust]}", "records: [east.trust], threshold: 3}", 3, `trust.threshold: found "3", want 1 to 1`},
		{"enum", "state: state", "state: state\ntpm: {mode: maybe}", 3, "want one of auto, required, off"},
		{"two ways without a TPM", "enrol: {", "enrol: {token_file: t, x509pop: {cert: c, key: k}, ", 0, "enrol.x509pop: only one of token_file and x509pop"},
		{"half a certificate", "enrol: {", "enrol: {x509pop: {cert: c}, ", 0, "enrol.x509pop.key: required"},
		{"DevID and no TPM", "enrol: {", "tpm: {mode: \"off\"}\nenrol: {token_file: t, devid: d, ", 0, "enrol.devid: found"},
		{"DevID and a key it does not know", "enrol: {", "tpm: {node_key: attested}\nenrol: {devid: d, ", 0, "tpm.node_key: found \"attested\", want resident"},
		{"token", "state: state", "state: state\ntpm: {mode: \"off\"}", 0, "enrol.token_file: required"},
		{"duration", "state: state", "state: state\nissuer: {listen: \"127.0.0.1:3\", keys: k, lifetime: 5}", 3, "issuer.lifetime"},
		{"root", "state: state", "state: state\nissuer: {listen: \"127.0.0.1:3\", keys: k, root: hsm}", 3, "want one of disk, tpm"},
		{"root without TPM", "state: state", "state: state\ntpm: {mode: \"off\"}\nissuer: {listen: \"127.0.0.1:3\", keys: k, root: tpm}", 4, "issuer.root"},
		{"lifetime below a root in the TPM", "state: state", "state: state\nissuer: {listen: \"127.0.0.1:3\", keys: k, root: tpm, lifetime: 13h}", 3, "issuer.lifetime"},
		{"lifetime", "state: state", "state: state\nissuer: {listen: \"127.0.0.1:3\", keys: k, lifetime: 30s}", 3, `issuer.lifetime: found "30s", want 1m0s to 168h0m0s`},
		{"dev lifetime", "state: state", "state: state\ndev: true\nissuer: {listen: \"127.0.0.1:3\", keys: k, lifetime: 5s}", 4, `issuer.lifetime: found "5s", want 10s to`},
		{"EK intermediates without roots", "state: state", "state: state\nissuer: {listen: \"127.0.0.1:3\", keys: k, ek_intermediates: [i.pem]}", 3, "issuer.ek_intermediates: issuer.ek_roots as"},
		{"DevID without makers", "state: state", "state: state\nissuer: {listen: \"127.0.0.1:3\", keys: k, tpm_devid_roots: [d.pem]}", 3, "issuer.tpm_devid_roots: issuer.ek_roots as well"},
		{"upstream", "state: state", "state: state\nissuer: {listen: \"127.0.0.1:3\", keys: k, upstream: {address: spire, token_file: t}}", 3, `issuer.upstream.address: found "spire", want host:port`},
		{"upstream bundle", "state: state", "state: state\nissuer: {listen: \"127.0.0.1:3\", keys: k, upstream: {address: \"a:1\", token_file: t}}", 0, "issuer.upstream.trust_bundle: required"},
		{"upstream evidence", "state: state", "state: state\nissuer: {listen: \"127.0.0.1:3\", keys: k, upstream: {address: \"a:1\", trust_bundle: b}}", 3, "issuer.upstream: exactly one of token_file"},
		{"upstream pair", "state: state", "state: state\nissuer: {listen: \"127.0.0.1:3\", keys: k, upstream: {address: \"a:1\", trust_bundle: b, x509pop: {key: k}}}", 0, "issuer.upstream.x509pop.cert: required"},
		{"root below an upstream", "state: state", "state: state\nissuer: {listen: \"127.0.0.1:3\", keys: k, root: tpm, upstream: {address: \"a:1\", trust_bundle: b, token_file: t}}", 3, "issuer.root: found \"tpm\", want disk, since issuer.upstream"},
		{"alias", "state: state", "state: &a state", 2, "anchors"},
		{"not a loopback", "state: state", "state: state\nlisteners: [{listen: \"10.0.0.1:3\", service: web.east.mesh}]", 3, "listeners[0].listen"},
		{"ext_authz for everybody", "global: ", "ext_authz: {listen: \"0.0.0.0:9\"}, global: ", 0, "policy.ext_authz.listen: found \"0.0.0.0:9\", want unix:/path"},
		{"ext_authz nowhere", "global: ", "ext_authz: {service: web.east.mesh}, global: ", 0, "policy.ext_authz.listen: required"},
		{"ext_authz service", "global: ", "ext_authz: {listen: \"unix:/r/e.sock\", service: web}, global: ", 0, "policy.ext_authz.service: found \"web\", want <service>.<region>.mesh"},
		{"forged certificate", "global: ", "ext_authz: {listen: \"unix:/r/e.sock\", headers: [x-a, x-forwarded-client-cert]}, global: ", 0, "policy.ext_authz.headers[1]: found \"x-forwarded-client-cert\""},
		{"header in capitals", "global: ", "authzen: {listen: \"unix:/r/z.sock\", headers: [X-Tenant]}, global: ", 0, "policy.authzen.headers[0]: found \"X-Tenant\", want a header's name in lower case"},
		{"group of a port", "global: ", "authzen: {listen: \"127.0.0.1:9\", group: web}, global: ", 0, "policy.authzen.group: found \"web\", want no group"},
		{"decisions without room", "policy: {", "policy: {decisions: {max_bytes: 15MiB}, ", 6, `policy.decisions.max_bytes: found "15MiB", want at least 16MiB`},
		{"decisions without a unit", "policy: {", "policy: {decisions: {max_bytes: 64}, ", 6, `policy.decisions.max_bytes: found "64", want 1MiB to`},
		{"decisions misspelt", "policy: {", "policy: {decisions: {max_byte: 64MiB}, ", 6, `did you mean "max_bytes"?`},
		{"service name", "state: state", "state: state\nlisteners: [{listen: \"127.0.0.1:3\", service: web}]", 3, "<service>.<region>.mesh"},
		{"dev", "node: spiffe://east.dev.example/node/n1", "dev: true\nnode: spiffe://east.example.org/node/n1", 1, "dev"},
		{"bool", "state: state", "state: state\ndev: perhaps", 3, "true or false"},
		{"syntax", "state: state", "state: [", 0, "not YAML"},
		{"a SPIFFE ID", "node: spiffe://east.dev.example/node/n1", "node: n1", 1, `node: found "n1", want a SPIFFE ID, spiffe://<trust domain>/<path>`},
		{"port", `"127.0.0.1:2"`, `"127.0.0.1:99999"`, 5, `mesh.listen: found "127.0.0.1:99999", want address:port`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(minimal, tt.edit, tt.with, 1)
			_, err := Parse([]byte(text), "/x/node.yaml")
			var m *Mistakes
			if !errors.As(err, &m) || !errors.Is(err, ErrMistakes) {
				t.Fatalf("got %v, want mistakes", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got:\n%v\nwant in it: %s", err, tt.want)
			}
			if tt.line > 0 && m.List[0].Line != tt.line && m.List[len(m.List)-1].Line != tt.line {
				t.Errorf("got:\n%v\nwant line %d", err, tt.line)
			}
		})
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	_, err := Parse([]byte("nod: x\nmesh: {listen: nowhere}\nlog: {level: loud}\n"), "f")
	for _, want := range []string{"f:1: nod", "f:2: mesh.listen", "f:3: log.level", "state: required", "policy.global"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
}

// TestOneMistakeIsToldOnce: what cannot be read is not missing as well, and what is
// missing altogether has no line.
func TestOneMistakeIsToldOnce(t *testing.T) {
	for _, text := range []string{
		strings.Replace(minimal, `"127.0.0.1:2"`, "nowhere", 1),
		strings.Replace(minimal, "{global: g.policy, region: r.policy}", "g.policy", 1),
		strings.Replace(minimal, "state: state\n", "", 1),
		"- a\n- b\n",
		"hello",
		"\xff\xfe\x00",
	} {
		_, err := Parse([]byte(text), "f")
		var m *Mistakes
		if !errors.As(err, &m) || len(m.List) != 1 {
			t.Errorf("%q:\n%v", text, err)
			continue
		}
		if e := m.List[0]; e.Field == "" || strings.HasPrefix(e.Want, "required") != (e.Line == 0) {
			t.Errorf("%q: %+v", text, e)
		}
	}
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "nowhere.yaml")} {
		if _, err := Load(path); !errors.Is(err, ErrUnreadable) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestEntryMistakes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "entries.yaml")
	text := `entries:
  - id: spiffe://west.dev.example/workload/a
    node: spiffe://east.dev.example/node/n1
    selectors: [uid]
  - id: spiffe://east.dev.example/node/n1
    class: king
  - id: spiffe://east.dev.example/node/n2
    parent: spiffe://east.dev.example/spire/agent/x509pop/0BEEC7B5EA3F0FDBC95D0DD47F3C5BC275DA8A33
    selectors: ["unix:uid:1"]
  - id: spiffe://east.dev.example/workload/b
    parent: spiffe://west.dev.example/spire/agent/x/y
    class: node
    jwt_lifetime: 2h
    federates_with: [west.dev.example, east.dev.example]
    expires: tomorrow
  - id: spiffe://east.dev.example/node/n3
    parent: spiffe://east.dev.example/workload/b
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadEntries(path, spiffeid.RequireTrustDomainFromString("east.dev.example"))
	for _, want := range []string{":2: entries[0].id", ":4: entries[0].selectors[0]", ":5: entries[1]: exactly one of", ":6: entries[1].class",
		":8: entries[2].parent: found", "/spire/agent/x509pop/ and 40 hex digits, a to f in lower case", ":9: entries[2].selectors: none",
		":11: entries[3].parent", ":12: entries[3].class", ":10: entries[3].selectors: required", ":13: entries[3].jwt_lifetime",
		":14: entries[3].federates_with[1]", `:15: entries[3].expires: found "tomorrow", want a time like`, ":17: entries[4].parent"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(minimal)
	f.Add("node: [")
	f.Add("a: &a [*a]")
	f.Add("mesh: {join: [1, {}, ~]}")
	f.Fuzz(func(t *testing.T, in string) {
		_, err := Parse([]byte(in), "f")
		if err != nil && !errors.Is(err, ErrMistakes) {
			t.Errorf("%v", err)
		}
	})
}
