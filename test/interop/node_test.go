package interop

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// node is a region of one node, the real command, which is its issuer and its
// authority.
type node struct {
	proc   *process
	begin  func(t *testing.T) *process
	port   int
	socket string // of its Workload API
	roots  []*x509.Certificate
}

// joins are what the region knows beside its first node.
type joins struct {
	token string // of a machine called n2
	chip  *chip  // a machine called n3
}

func newNode(t *testing.T, p *pki, j joins) *node {
	t.Helper()
	dir := folder(t)
	own := newChip(t, p)
	n := &node{port: freePort(t), socket: filepath.Join(dir, "w.sock")}
	global := n.provision(t, dir)
	token := sha256.Sum256([]byte(j.token))
	entries := write(t, dir, "entries.yaml", `entries:
  - { id: "%[1]s/node/n1", ek: %[2]s, class: gateway }
  - { id: "%[1]s/node/n2", token: %[3]s, class: unattested }
  - { id: "%[1]s/node/n3", ek: %[4]s }
  - { id: "%[1]s/workload/n1", node: "%[1]s/node/n1", selectors: [%[5]q] }
  - { id: "%[1]s/workload/n2", node: "%[1]s/node/n2", selectors: [%[5]q], lifetime: 60s }
  - { id: "%[1]s/workload/n3", node: "%[1]s/node/n3", selectors: [%[5]q] }
`, td.IDString(), own.ekHash(), hex.EncodeToString(token[:]), j.chip.ekHash(), self)
	conf := write(t, dir, "node.yaml", `node: %s/node/n1
state: %q
tpm: { mode: required, device: %q, boot_log: %q }
trust: { global_keys: [%q], records: [east.trust] }
enrol: { issuers: ["127.0.0.1:%[6]d"] }
mesh: { listen: "127.0.0.1:%[6]d" }
policy: { global: global.policy, region: region.policy }
issuer: { listen: "127.0.0.1:%[6]d", keys: keys, lifetime: 60s, ek_roots: [%[7]q], entries: [%[8]q] }
authority: { keys: authority }
workload_api: { socket: %[9]q }
control: { socket: c.sock }
`, td.IDString(), filepath.Join(dir, "state"), own.soft.Path(), own.soft.BootLog(), global, n.port, p.makerRoots, entries, n.socket)
	n.begin = func(t *testing.T) *process {
		return start(t, dir, "bailiwick", nil, binary(t, "bailiwick"), "run", "--config", conf)
	}
	n.proc = n.begin(t)
	return n
}

// provision writes the keys and signed files of a region, and returns the file of the
// global authority's public key.
func (n *node) provision(t *testing.T, dir string) string {
	t.Helper()
	for _, d := range []string{"keys", "authority", "state"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o700))
	}
	global, err := keyfile.Open(filepath.Join(dir, "global.key.pem"))
	must(t, err)
	rules, err := keyfile.Open(filepath.Join(dir, "policy.key.pem"))
	must(t, err)
	ca, err := issuer.NewCA(td, time.Now())
	must(t, err)
	must(t, ca.Save(filepath.Join(dir, "keys")))
	root, err := epoch.NewRoot(td, time.Now())
	must(t, err)
	must(t, root.Save(filepath.Join(dir, "keys")))
	decides, err := authority.OpenKey(filepath.Join(dir, "authority"))
	must(t, err)
	n.roots = []*x509.Certificate{ca.Certificate()}
	from, to := time.Now().Add(-time.Hour).Truncate(time.Second), time.Now().Add(time.Hour).Truncate(time.Second)
	record, err := trust.Sign(trust.Record{
		Region: "east", TrustDomain: td, Version: 1, X509Roots: n.roots, RecordRoots: []*x509.Certificate{root.Certificate()},
		AuthorityKey: decides.Public(), PolicyKey: &rules.PublicKey, NotBefore: from, NotAfter: to,
	}, global)
	must(t, err)
	write(t, dir, "east.trust", "%s", record)

	levels := builtin.Dev("east")
	write(t, dir, "global.policy", "%s", signed(t, global, levels[0], bundle.ScopeMesh))
	public, err := x509.MarshalPKIXPublicKey(&rules.PublicKey)
	must(t, err)
	l := levels[1]
	delegation, err := bundle.Certify(global, bundle.Delegation{
		Level: l.Name, Scope: td.Name(), Key: public, NotBefore: from.Unix(), NotAfter: to.Unix(),
		Kinds: l.Delegation.Kinds, Regions: l.Delegation.Regions, Services: l.Delegation.Services,
	})
	must(t, err)
	write(t, dir, "region.policy", "%s", signed(t, rules, l, td.Name(), delegation))
	der, err := x509.MarshalPKIXPublicKey(&global.PublicKey)
	must(t, err)
	return writePEM(t, dir, "global.pem", "PUBLIC KEY", der)
}

// signed puts a level of policy into a signed file.
func signed(t *testing.T, key *ecdsa.PrivateKey, l policy.Level, scope string, delegations ...[]byte) []byte {
	t.Helper()
	content, err := bundle.Encode(l.Modules, l.Data)
	must(t, err)
	r := bundle.Record{
		Level: l.Name, Scope: scope, Version: 1, Mode: bundle.Enforce, StaleMode: bundle.StaleContinue,
		Author: td.IDString() + "/global", Requires: bundle.Features, Delegations: delegations,
		NotBefore: time.Now().Add(-time.Hour).Unix(), NotAfter: time.Now().Add(time.Hour).Unix(),
	}
	if scope != bundle.ScopeMesh {
		r.Parent = bundle.Parent{Scope: bundle.ScopeMesh, Version: 1}
	}
	head, err := bundle.Sign(key, r, content)
	must(t, err)
	out, err := bundle.Join(head, content)
	must(t, err)
	return out
}

// nodeCell: one `bailiwick run` is the issuer of itself, of a stock spire-agent and of
// our client with a TPM. Then it is killed and comes back.
func nodeCell(t *testing.T, p *pki) {
	j := joins{token: strings.Repeat("n2", 16), chip: newChip(t, p)}
	n := newNode(t, p, j)
	name := func(path string) spiffeid.ID { return spiffeid.RequireFromPath(td, path) }

	// Its own workload, by the Workload API of the node itself.
	api, err := workloadapi.New(t.Context(), workloadapi.WithAddr("unix://"+n.socket))
	must(t, err)
	defer api.Close()
	var first *x509svid.SVID
	eventually(t, "the node serves its workload", func() error {
		if !n.proc.running() {
			t.Fatalf("the node ended: %s", n.proc.tail(10))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		first, err = api.FetchX509SVID(ctx)
		return err
	})
	if first.ID != name("/workload/n1") {
		t.Errorf("the node's workload is %s", first.ID)
	}

	helped(t, n.socket, first.ID)

	// A stock agent. It is given the region's root as every node is.
	s := &server{ours: true, port: n.port}
	s.fixed = x509bundle.FromX509Authorities(td, n.roots)
	token := sha256.Sum256([]byte(j.token))
	a := newAgent(t, s, evidence{
		agent:  agentID("join_token", hex.EncodeToString(token[:])),
		plugin: `NodeAttestor "join_token" { plugin_data {} }`, extra: fmt.Sprintf("join_token = %q", j.token),
	})
	svid := a.svid(t, name("/workload/n2"), nil)
	a.jwt(t, svid.ID)
	helped(t, a.socket, svid.ID)
	sameWorkloadAPI(t, n.socket, a.socket)

	// Our client, with a TPM and everything a node asks for.
	cfg := spire.Config{Addr: fmt.Sprintf("127.0.0.1:%d", n.port), TrustDomain: td, Bundles: s.fixed}
	c := n3(t, cfg, j.chip)
	enrolled, err := c.Enrol(t.Context(), publicKey(t, j.chip.feed), 0, nil)
	must(t, err)
	if enrolled.Node != name("/node/n3") {
		t.Errorf("enrolled as %s", enrolled.Node)
	}
	c.Close()

	n.proc.stop(syscall.SIGKILL)
	a.svid(t, svid.ID, nil) // it serves what it has
	n.proc = n.begin(t)
	svid = a.svid(t, svid.ID, another(svid))
	a.jwt(t, svid.ID)
	n3(t, cfg, j.chip).Close()
}

// n3 attests until the issuer takes it.
func n3(t *testing.T, cfg spire.Config, chip *chip) (c *spire.Client) {
	t.Helper()
	eventually(t, "our client attests to the node", func() error {
		a, err := spire.Attest(t.Context(), cfg, spire.TPM{Keys: chip.keys, FeedKey: chip.feed, BootLog: chip.boot}, chip.keys.Node())
		if err != nil {
			return err
		}
		c, err = spire.Dial(cfg, a.SVID)
		return err
	})
	return c
}

func publicKey(t *testing.T, der []byte) *ecdsa.PublicKey {
	t.Helper()
	key, err := x509.ParsePKIXPublicKey(der)
	must(t, err)
	return key.(*ecdsa.PublicKey)
}
