package interop

import (
	"context"
	"fmt"
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

func (r *rotation) activate(t *testing.T) {
	t.Helper()
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
	r.activate(t)
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
	r.activate(t)
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
