package interop

import (
	"context"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	localauthorityv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/localauthority/v1"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// A rotation replaces the authority that a server signs X.509-SVIDs with.
type rotation struct {
	s          *server
	old, fresh string // authority IDs
	before     *spiffebundle.Bundle
}

// prepare makes the successor known.
func (s *server) prepare(t *testing.T) *rotation {
	t.Helper()
	r := &rotation{s: s}
	var err error
	r.before, err = s.bundle(t)
	must(t, err)
	state, err := s.keys.GetX509AuthorityState(t.Context(), &localauthorityv1.GetX509AuthorityStateRequest{})
	must(t, err)
	r.old = state.GetActive().GetAuthorityId()
	prepared, err := s.keys.PrepareX509Authority(t.Context(), &localauthorityv1.PrepareX509AuthorityRequest{})
	must(t, err)
	r.fresh = prepared.GetPreparedAuthority().GetAuthorityId()
	return r
}

func (r *rotation) activate(t *testing.T, p *pki) {
	t.Helper()
	if r.s.ours {
		r.s.publish(t, p)
	}
	_, err := r.s.keys.ActivateX509Authority(t.Context(), &localauthorityv1.ActivateX509AuthorityRequest{AuthorityId: r.fresh})
	must(t, err)
	_, err = r.s.keys.TaintX509Authority(t.Context(), &localauthorityv1.TaintX509AuthorityRequest{AuthorityId: r.old})
	must(t, err)
}

// finish takes the old authority out of the bundle, once nobody needs it.
func (r *rotation) finish(t *testing.T, meanwhile func()) {
	t.Helper()
	eventually(t, "the old authority goes", func() error {
		meanwhile()
		_, err := r.s.keys.RevokeX509Authority(t.Context(), &localauthorityv1.RevokeX509AuthorityRequest{AuthorityId: r.old})
		return err
	})
	b, err := r.s.bundle(t)
	must(t, err)
	for _, a := range r.before.X509Authorities() {
		if b.HasX509Authority(a) {
			t.Error("the old authority is still in the bundle")
		}
	}
}

// successor complains of an SVID that the old authority signed.
func (r *rotation) successor(s *x509svid.SVID) error {
	if _, _, err := x509svid.Verify(s.Certificates, r.before); err == nil {
		return fmt.Errorf("the SVID of %s is still of the old authority", s.ID)
	}
	return nil
}

func clientRotation(t *testing.T, s *server, p *pki) {
	e := byPoP(t, p, newKey(t))
	id := spiffeid.RequireFromPath(td, "/workload/client-rotation")
	s.entry(t, e.agent, id, self)
	c := attest(t, s, e)
	entry := c.find(t, id)
	r := s.prepare(t)
	r.activate(t, p)
	c = dial(t, s, e, c.agent) // knows the new root, shows an SVID of the old one
	svid := c.svid(t, entry, newKey(t))
	must(t, r.successor(svid))
	c = c.renew(t)
	must(t, r.successor(c.agent.SVID))
	r.finish(t, func() {})
	eventually(t, "the server shows an SVID of the new authority", func() error {
		_, err := spire.Attest(t.Context(), s.config(t), e.by, e.key)
		return err
	})
	c = attest(t, s, e)
	checkSVID(t, c.svid(t, c.find(t, id), newKey(t)), c.bundle(t))
}

func agentRotation(t *testing.T, s *server, p *pki) {
	e := byPoP(t, p, newKey(t))
	id := spiffeid.RequireFromPath(td, "/workload/agent-rotation")
	s.entry(t, e.agent, id, self)
	a := newAgent(t, s, e)
	a.svid(t, id, nil)
	r := s.prepare(t)
	a.knows(t, 2)
	r.activate(t, p)
	svid := a.svid(t, id, r.successor)
	own, err := s.serial(t.Context(), e.agent)
	must(t, err)
	a.renewed(t, own)
	r.finish(t, func() { a.svid(t, id, nil) })
	a.knows(t, 1)
	a.svid(t, id, another(svid))
}

// knows waits until the agent hands out a bundle of so many roots.
func (a *agent) knows(t *testing.T, roots int) {
	t.Helper()
	eventually(t, "roots of the bundle", func() error {
		a.alive(t)
		var b *x509bundle.Bundle
		set, err := a.workload.FetchX509Bundles(context.Background())
		if err == nil {
			b, err = set.GetX509BundleForTrustDomain(td)
		}
		if err == nil && len(b.X509Authorities()) != roots {
			err = fmt.Errorf("%d, want %d", len(b.X509Authorities()), roots)
		}
		return err
	})
}

// awayCell: a node of ours is down while its region's root is replaced altogether. It
// comes back knowing neither the root that the issuer shows nor the one it signs with.
func awayCell(t *testing.T, p *pki) {
	e := byPoP(t, p, newKey(t))
	s := newIssuerWith(t, p, setup{entries: fmt.Sprintf("  - { id: %q, parent: %q, class: unattested }\n", td.IDString()+"/node/n2", e.agent)})
	n2 := s.neighbour(t, p, e)
	n2.says(t, "identity issued")
	n2.proc.stop(syscall.SIGTERM)

	r := s.prepare(t)
	r.activate(t, p)
	r.finish(t, func() {})
	s.publish(t, p) // now without the old root
	before := len(n2.proc.tail(10000))
	n2.proc = n2.begin(t)
	eventually(t, "the node that was away has an identity again", func() error {
		if log := n2.proc.tail(10000); !strings.Contains(log[before:], "identity issued") {
			return fmt.Errorf("%s", n2.proc.tail(3))
		}
		return nil
	})
}

// neighbour starts another node of the region, which shows a certificate.
func (s *server) neighbour(t *testing.T, p *pki, e evidence) *server {
	t.Helper()
	dir, port := folder(t), freePort(t)
	pop := e.by.(spire.X509PoP)
	private, err := x509.MarshalPKCS8PrivateKey(pop.Key)
	must(t, err)
	conf := write(t, dir, "node.yaml", `node: %s/node/n2
state: state
dev: true
tpm: { mode: "off" }
attest: { interval: 0 }
trust: { global_keys: [%q], records: [%q] }
enrol: { issuers: ["127.0.0.1:%d"], x509pop: { cert: %q, key: %q } }
mesh: { listen: "127.0.0.1:%d", join: ["127.0.0.1:%d"] }
policy: { global: %q, region: %q }
`, td.IDString(), filepath.Join(p.global, "global.pem"), filepath.Join(s.dir, "east", eastRecord), s.port,
		writePEM(t, dir, "pop.crt", "CERTIFICATE", pop.Chain...), writePEM(t, dir, "pop.key", "PRIVATE KEY", private), port, s.port,
		filepath.Join(p.global, "global.policy"), filepath.Join(s.dir, "east", "region.policy"))
	n := &server{ours: true, dir: dir, begin: func(t *testing.T) *process {
		return start(t, dir, "bailiwick", nil, binary(t, "bailiwick"), "run", "--config", conf)
	}}
	n.proc = n.begin(t)
	return n
}
