package interop

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// Files of a region, as `bailiwick trust` names them.
const (
	globalKey  = "global.key.pem"
	eastRecord = "east.trust"
	westRecord = "west.trust"
)

// setup is what a cell wants of our issuer beyond the usual.
type setup struct {
	above    *server // the stock server that certifies it
	token    string  // by which that knows us, once; empty: it knows us by x509pop
	chip     *chip   // the TPM of the issuer's own node; nil: that joins by a token
	entries  string  // more lines of the file of registration entries
	lifetime int     // seconds; 0: agentTTL
}

// newIssuer starts our issuer: `bailiwick run`.
func newIssuer(t *testing.T, p *pki) *server { return newIssuerWith(t, p, setup{}) }

func newIssuerWith(t *testing.T, p *pki, want setup) *server {
	t.Helper()
	return issuerFiles(t, p, want).open(t)
}

// issuerFiles writes all that our issuer needs, which is not started.
func issuerFiles(t *testing.T, p *pki, want setup) *server {
	t.Helper()
	dir, port := folder(t), freePort(t)
	s := &server{ours: true, dir: dir, port: port, socket: filepath.Join(dir, "api.sock"),
		control: filepath.Join(dir, "c.sock"), workload: filepath.Join(dir, "w.sock")}
	lifetime, anchors, upstream := want.lifetime, "", ""
	if lifetime == 0 {
		lifetime = agentTTL
	}
	if want.above != nil {
		anchors = want.above.bundleFile(t, dir)
		var by string
		if want.token != "" {
			by = fmt.Sprintf("token_file: %q", write(t, dir, "above.token", "%s", want.token))
		} else {
			chain, key := want.above.machine(t, p, dir)
			by = fmt.Sprintf("x509pop: { cert: %q, key: %q }", chain, key)
		}
		upstream = fmt.Sprintf("\n  upstream: { address: %q, trust_bundle: %q, %s }", want.above.config(t).Addr, anchors, by)
	}
	p.region(t, dir, anchors)

	const token = "the issuer's own node"
	hash := sha256.Sum256([]byte(token))
	self, machine := "token: "+hex.EncodeToString(hash[:])+", class: unattested", `{ mode: "off" }`
	if c := want.chip; c != nil {
		self, machine = "ek: "+c.ekHash()+", class: gateway", fmt.Sprintf("{ mode: required, device: %q, boot_log: %q }", c.soft.Path(), c.soft.BootLog())
	}
	write(t, dir, "token", token)
	write(t, dir, "entries.yaml", "entries:\n  - { id: %q, %s }\n%s", td.IDString()+"/node/n1", self, want.entries)
	conf := write(t, dir, "node.yaml", `node: %s/node/n1
state: state
dev: true
tpm: %s
attest: { interval: 0 }
trust: { global_keys: [%q], records: [%q, %q] }
enrol: { issuers: ["127.0.0.1:%[6]d"], token_file: token }
mesh: { listen: "127.0.0.1:%[6]d" }
policy: { global: %q, region: east/region.policy }
issuer:
  listen: "127.0.0.1:%[6]d"
  admin_socket: %[8]q
  keys: east/issuer
  lifetime: %[9]ds
  ek_roots: [%[10]q]
  x509pop_roots: [%[11]q]
  tpm_devid_roots: [%[12]q]
  devid_ca: true
  entries: [entries.yaml]%[13]s
authority: { keys: east/authority }
workload_api: { socket: %[14]q }
control: { socket: %[15]q }
log: { level: debug }
`, td.IDString(), machine, filepath.Join(p.global, "global.pem"), filepath.Join(dir, "east", eastRecord), filepath.Join(p.west, westRecord),
		port, filepath.Join(p.global, "global.policy"), s.socket, lifetime, p.makerRoots, p.popRoot, p.devidRoot, upstream, s.workload, s.control)
	s.begin = func(t *testing.T) *process {
		return start(t, dir, "bailiwick", nil, binary(t, "bailiwick"), "run", "--config", conf)
	}
	return s
}

// provision makes what all our issuers know: the global authority with its policy, and
// another region.
func (p *pki) provision(t *testing.T, dir string) {
	t.Helper()
	command := binary(t, "bailiwick")
	p.global, p.west = filepath.Join(dir, "global"), filepath.Join(dir, "west")
	run(t, command, "trust", "init", "--global", p.global)
	p.permit(t)
	run(t, command, "trust", "sign", filepath.Join(p.global, "policy"), "--key", filepath.Join(p.global, globalKey))
	run(t, command, "trust", "init", "--region", "west", "--trust-domain", west.Name(), p.west)
	run(t, command, "trust", "sign", filepath.Join(p.west, "west.draft"), "--key", filepath.Join(p.global, globalKey))
}

// permit changes the data of the shipped policy as its author must where machines have
// no secure boot, and join by other evidence than quotes.
func (p *pki) permit(t *testing.T) {
	t.Helper()
	path := filepath.Join(p.global, "policy", "data.json")
	b, err := os.ReadFile(path)
	must(t, err)
	var data map[string]map[string]any
	must(t, json.Unmarshal(b, &data))
	data["attest"]["secure_boot_exceptions"] = []string{softMaker}
	data["attest"]["devid_trust_domains"], data["attest"]["denied"] = []string{td.Name()}, p.denied
	if len(p.denied) == 0 {
		data["attest"]["unattested_trust_domains"] = []string{td.Name()}
	}
	b, err = json.Marshal(data)
	must(t, err)
	write(t, filepath.Dir(path), filepath.Base(path), "%s", b)
}

// softMaker is who swtpm's endorsement certificates say made it.
const softMaker = "id:424C574B"

// region makes one below dir, with roots of its own or, with anchors, of somebody
// else's.
func (p *pki) region(t *testing.T, dir, anchors string) {
	t.Helper()
	command, east := binary(t, "bailiwick"), filepath.Join(dir, "east")
	init := []string{"trust", "init", "--region", "east", "--trust-domain", td.Name(), east}
	if anchors != "" {
		init = append(init, "--anchors", anchors)
	}
	run(t, command, init...)
	run(t, command, "trust", "sign", filepath.Join(east, "east.draft"), "--key", filepath.Join(p.global, globalKey))
	run(t, command, "trust", "sign", filepath.Join(east, "policy"), "--key", filepath.Join(east, "policy.key.pem"), "--delegation", filepath.Join(east, "east.delegation"))
}

// westRoots are the other region's, from its trust record.
func (p *pki) westRoots(t *testing.T) []*x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.west, westRecord))
	must(t, err)
	r, _, err := trust.Read(b)
	must(t, err)
	return r.X509Roots
}

// publish puts all roots that our issuer has now into the region's trust record, as
// its operator and the global authority do.
func (s *server) publish(t *testing.T, p *pki) {
	t.Helper()
	command, dir := binary(t, "bailiwick"), folder(t)
	run(t, command, "trust", "export", filepath.Join(dir, "east.draft"), "--draft", "--socket", s.control)
	run(t, command, "trust", "sign", filepath.Join(dir, "east.draft"), "--key", filepath.Join(p.global, globalKey))
	run(t, command, "trust", "import", filepath.Join(dir, eastRecord), "--socket", s.control)
}
