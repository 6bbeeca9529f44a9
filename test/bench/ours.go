package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

const signedFor = 24 * time.Hour

// startOurs makes a region and starts its first node, which is issuer, authority
// and all else a node is.
func (s *server) startOurs(d demand) error {
	dir := s.dir
	program, err := product()
	if err != nil {
		return err
	}
	ca, err := provision(dir)
	if err != nil {
		return fmt.Errorf("provision: %w", err)
	}
	s.bundle.AddX509Authority(ca.Certificate())

	makers, err := maker.OpenCA(filepath.Join(dir, "maker"))
	if err != nil {
		return err
	}
	first, err := newChip(makers, dir)
	if err != nil {
		return err
	}
	s.chips = append(s.chips, first)
	var entries bytes.Buffer
	fmt.Fprintf(&entries, "entries:\n  - {id: %s, ek: %q, class: gateway}\n", gatewayID, first.ek)
	for i := range d.machines {
		j := newToken(i)
		s.join = append(s.join, j)
		fmt.Fprintf(&entries, "  - {id: %s, token: %q}\n", j.node, j.hash())
		for k := range d.workloads {
			if i < d.with {
				fmt.Fprintf(&entries, "  - {id: %s, node: %s, selectors: [%q]}\n", d.workload(i, k), j.node, "unix:"+d.selector)
			}
		}
	}
	roots, more := []*x509.Certificate{makers.Root()}, ""
	if d.chip != nil {
		roots = append(roots, d.makers.Root())
		more = ", chip.yaml"
		if err := s.nameChip(d, 0); err != nil {
			return err
		}
	}
	if err := writeCertificates(filepath.Join(dir, "makers.pem"), roots...); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "entries.yaml"), entries.Bytes(), 0o600); err != nil {
		return err
	}
	conf, err := s.nodeFile(dir, s.sockets, gatewayID, withTPM(first), "")
	if err != nil {
		return err
	}
	conf += fmt.Sprintf("issuer:\n  listen: %s\n  keys: keys\n  entries: [entries.yaml%s]\n  ek_roots: [makers.pem]\nauthority:\n  keys: authority\n", s.addr, more)
	path := filepath.Join(dir, "node.yaml")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		return err
	}
	if s.proc, err = startProcess(dir, "bailiwick", program, "run", "--config", path); err != nil {
		return err
	}
	return until(s.proc, func() error { // ready when it has its own identity, and so serves workloads
		conn, err := net.Dial("unix", filepath.Join(s.sockets, "w.sock"))
		if err != nil {
			return err
		}
		conn.Close()
		tconn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true}) // only whether it answers
		if err != nil {
			return err
		}
		return tconn.Close()
	})
}

// chipID is the node that the machine with a TPM is for the i-th time: a node is given
// new epochs only so often.
func chipID(i int) spiffeid.ID { return spiffeid.RequireFromPathf(region, "/node/chip%d", i) }

// nameChip has our issuer know the machine with a TPM by a name, from its start or, if it
// runs, from its next look at its entries.
func (s *server) nameChip(d demand, i int) error {
	text := fmt.Sprintf("entries:\n  - {id: %s, ek: %q}\n  - {id: %s, node: %s, selectors: [%q]}\n", chipID(i), d.chip.ek, workloadID, chipID(i), "unix:"+d.selector)
	if err := os.WriteFile(filepath.Join(s.dir, "chip.yaml"), []byte(text), 0o600); err != nil || s.proc == nil {
		return err
	}
	if err := s.proc.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond) // it reads one small file, and says nothing
	return nil
}

func withTPM(c *chip) string {
	return fmt.Sprintf("tpm: {mode: required, device: %q, boot_log: %q}\n", c.soft.Path(), c.soft.BootLog())
}

// nodeFile is the configuration of a node in dir whose issuer is s.
func (s *server) nodeFile(dir, sockets string, id spiffeid.ID, tpm, enrol string) (string, error) {
	ports, err := freePorts(1)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(`node: %s
state: %q
%strust: {global_keys: [%q], records: [%q]}
enrol: {issuers: [%q]%s}
mesh: {listen: "127.0.0.1:%d", join: [%s]}
policy: {global: %q, region: %q}
workload_api: {socket: %q}
control: {socket: %q}
log: {level: warn}
`, id, filepath.Join(dir, "state"), tpm, filepath.Join(s.dir, "global.pem"), filepath.Join(s.dir, "region.trust"), s.addr, enrol, ports[0], s.meet,
		filepath.Join(s.dir, "global.policy"), filepath.Join(s.dir, "region.policy"),
		filepath.Join(sockets, "w.sock"), filepath.Join(sockets, "c.sock")), nil
}

// provision makes what operators make before the first node of a region starts.
func provision(dir string) (*issuer.CA, error) {
	now := time.Now()
	keys, decides := filepath.Join(dir, "keys"), filepath.Join(dir, "authority")
	for _, d := range []string{keys, decides} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	ca, err := issuer.NewCA(region, now)
	if err != nil {
		return nil, err
	}
	root, err := epoch.NewRoot(region, now)
	if err != nil {
		return nil, err
	}
	if err := ca.Save(keys); err != nil {
		return nil, err
	}
	if err := root.Save(keys); err != nil {
		return nil, err
	}
	authorityKey, err := authority.OpenKey(decides)
	if err != nil {
		return nil, err
	}
	global, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	rules, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&global.PublicKey)
	if err != nil {
		return nil, err
	}
	from := now.Add(-time.Hour).Truncate(time.Second)
	record, err := trust.Sign(trust.Record{
		Region: "east", TrustDomain: region, Version: 1,
		X509Roots: []*x509.Certificate{ca.Certificate()}, RecordRoots: []*x509.Certificate{root.Certificate()},
		AuthorityKey: authorityKey.Public(), PolicyKey: &rules.PublicKey, NotBefore: from, NotAfter: from.Add(signedFor),
	}, global)
	if err != nil {
		return nil, err
	}
	levels := builtin.Dev("east")
	globalPolicy, err := signPolicy(global, levels[0], bundle.ScopeMesh, from)
	if err != nil {
		return nil, err
	}
	rulesPublic, err := x509.MarshalPKIXPublicKey(&rules.PublicKey)
	if err != nil {
		return nil, err
	}
	ceiling := levels[1].Delegation
	delegation, err := bundle.Certify(global, bundle.Delegation{
		Level: levels[1].Name, Scope: region.Name(), Key: rulesPublic, NotBefore: from.Unix(), NotAfter: from.Add(signedFor).Unix(),
		Kinds: ceiling.Kinds, Regions: ceiling.Regions, Services: ceiling.Services,
	})
	if err != nil {
		return nil, err
	}
	regionPolicy, err := signPolicy(rules, levels[1], region.Name(), from, delegation)
	if err != nil {
		return nil, err
	}
	if err := writePEM(filepath.Join(dir, "global.pem"), "PUBLIC KEY", public); err != nil {
		return nil, err
	}
	for name, b := range map[string][]byte{"region.trust": record, "global.policy": globalPolicy, "region.policy": regionPolicy} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return nil, err
		}
	}
	return ca, nil
}

func signPolicy(key *ecdsa.PrivateKey, l policy.Level, scope string, from time.Time, delegations ...[]byte) ([]byte, error) {
	content, err := bundle.Content{Modules: l.Modules, Data: l.Data, Schemas: l.Schemas}.Encode()
	if err != nil {
		return nil, err
	}
	r := bundle.Record{
		Level: l.Name, Scope: scope, Version: 1, Mode: bundle.Enforce, StaleMode: bundle.StaleContinue,
		Author: "spiffe://dev.example/global", Change: "bench", Requires: bundle.Features, Delegations: delegations,
		NotBefore: from.Unix(), NotAfter: from.Add(signedFor).Unix(),
	}
	if scope != bundle.ScopeMesh {
		r.Parent = bundle.Parent{Scope: bundle.ScopeMesh, Version: 1}
	}
	signed, err := bundle.Sign(key, r, content)
	if err != nil {
		return nil, err
	}
	return bundle.Join(signed, content)
}
