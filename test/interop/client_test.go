package interop

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

const audience = "interop"

// client is our client of the server API, attested.
type client struct {
	*spire.Client
	s     *server
	e     evidence
	agent spire.Agent
}

func attest(t *testing.T, s *server, e evidence) *client {
	t.Helper()
	a, err := spire.Attest(t.Context(), s.config(t), e.by, e.key)
	must(t, err)
	if a.SVID.ID != e.agent || a.Reattest != e.reattest {
		t.Fatalf("attested as %s, reattestable %t, want %s, %t", a.SVID.ID, a.Reattest, e.agent, e.reattest)
	}
	return dial(t, s, e, a)
}

func dial(t *testing.T, s *server, e evidence, a spire.Agent) *client {
	t.Helper()
	c, err := spire.Dial(s.config(t), a.SVID)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return &client{Client: c, s: s, e: e, agent: a}
}

// renew gets a new agent SVID the way this machine must.
func (c *client) renew(t *testing.T) *client {
	t.Helper()
	if c.e.reattest {
		return attest(t, c.s, c.e)
	}
	key := newKey(t)
	svid, err := c.Renew(t.Context(), key)
	must(t, err)
	if svid.ID != c.e.agent {
		t.Fatalf("renewed as %s", svid.ID)
	}
	return dial(t, c.s, c.e, spire.Agent{SVID: svid})
}

// find waits for the entry of an ID.
func (c *client) find(t *testing.T, id spiffeid.ID) (found spire.Entry) {
	t.Helper()
	eventually(t, "entry of "+id.String(), func() error {
		all, err := c.Entries(t.Context(), nil)
		must(t, err)
		i := slices.IndexFunc(all, func(e spire.Entry) bool { return e.SPIFFEID == id })
		if i < 0 {
			return fmt.Errorf("not among %d", len(all))
		}
		found = all[i]
		return nil
	})
	return found
}

// svid gets one X.509-SVID; it verifies.
func (c *client) svid(t *testing.T, e spire.Entry, key crypto.Signer) *x509svid.SVID {
	t.Helper()
	results, err := c.NewX509SVIDs(t.Context(), []spire.Request{{EntryID: e.ID, ID: e.SPIFFEID, Key: key}})
	must(t, err)
	must(t, results[0].Err)
	return results[0].SVID
}

// clientCell is what a cell of our client does: everything a node does with one server.
func clientCell(t *testing.T, s *server, p *pki, m method) {
	e := m.prove(t, s, p)
	id := spiffeid.RequireFromPathf(td, "/workload/%s", m.unique("client"))
	s.entry(t, e.agent, id, "unix:uid:0")
	c := attest(t, s, e)
	entry := c.find(t, id)
	first := c.svid(t, entry, newKey(t))
	checkSVID(t, first, c.bundle(t))
	token, err := c.NewJWTSVID(t.Context(), entry.ID, id, []string{audience})
	must(t, err)
	if _, err := jwtsvid.ParseAndValidate(token.Marshal(), c.bundle(t), []string{audience}); err != nil {
		t.Errorf("JWT-SVID: %v", err)
	}
	must(t, c.PostStatus(t.Context(), 1, "1.15.3"))

	old := c
	for range 2 {
		c = c.renew(t)
		if again := c.svid(t, c.find(t, id), newKey(t)); again.Certificates[0].SerialNumber.Cmp(first.Certificates[0].SerialNumber) == 0 {
			t.Error("the same certificate came again")
		}
	}
	// One agent SVID is active: the last one that was used.
	if _, err := old.Entries(t.Context(), nil); !errors.Is(err, spire.ErrMustAttest) {
		t.Errorf("a superseded agent SVID: %v, want %v", err, spire.ErrMustAttest)
	}
	if !e.reattest {
		return
	}
	if _, err := c.Renew(t.Context(), newKey(t)); !errors.Is(err, spire.ErrMustAttest) {
		t.Errorf("renewal of an agent that can attest again: %v, want %v", err, spire.ErrMustAttest)
	}
}

func (c *client) bundle(t *testing.T) *spiffebundle.Bundle {
	t.Helper()
	b, err := c.TrustBundle(t.Context())
	must(t, err)
	return b
}

// checkSVID verifies a workload's SVID as its peers would.
func checkSVID(t *testing.T, svid *x509svid.SVID, b *spiffebundle.Bundle) {
	t.Helper()
	id, _, err := x509svid.Verify(svid.Certificates, b)
	switch {
	case err != nil:
		t.Errorf("%s does not verify: %v", svid.ID, err)
	case id != svid.ID:
		t.Errorf("SVID of %s is for %s", svid.ID, id)
	}
}
