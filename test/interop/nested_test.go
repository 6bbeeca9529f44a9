package interop

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// machine makes that of a nested issuer known, and returns the files that prove which
// it is.
func (s *server) machine(t *testing.T, p *pki, dir string) (chain, private string) {
	t.Helper()
	key := newKey(t)
	e := byPoP(t, p, key)
	s.downstream(t, e.agent)
	attest(t, s, e).find(t, spiffeid.RequireFromPath(td, "/region")) // servers take a moment
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return writePEM(t, dir, "above.pem", "CERTIFICATE", e.by.(spire.X509PoP).Chain...), writePEM(t, dir, "above.key", "PRIVATE KEY", der)
}

// downstream lets an agent be the issuer of the region.
func (s *server) downstream(t *testing.T, agent spiffeid.ID) {
	t.Helper()
	entry := newEntry(agent, spiffeid.RequireFromPath(td, "/region"), "bailiwick:issuer")
	entry.Downstream = true
	s.register(t, entry)
}

// nestedCell puts our issuer below a stock server. Agents of both then believe in
// each other's workloads.
func nestedCell(t *testing.T, p *pki) {
	above := newStock(t, p)
	below := newIssuerWith(t, p, setup{above: above})
	id := spiffeid.RequireFromPath(td, "/workload/nested")
	high, low := byToken(t, above, p), byToken(t, below, p)
	above.entry(t, high.agent, id, self)
	below.entry(t, low.agent, id, self)
	upper := newAgent(t, above, high)
	lower := newAgent(t, below, low) // trusts what its own server says: the upstream's root
	ofUpper, ofLower := upper.svid(t, id, nil), lower.svid(t, id, nil)
	if len(ofLower.Certificates) != 2 {
		t.Errorf("the SVID of the nested issuer has %d certificates", len(ofLower.Certificates))
	}
	for name, pair := range map[string]struct {
		from *x509svid.SVID
		at   *agent
	}{"upper": {ofUpper, lower}, "lower": {ofLower, upper}} {
		bundles, err := pair.at.workload.FetchX509Bundles(t.Context())
		must(t, err)
		if _, _, err := x509svid.Verify(pair.from.Certificates, bundles); err != nil {
			t.Errorf("the other agent on an SVID of the %s: %v", name, err)
		}
	}
	upper.jwt(t, id)
	lower.jwt(t, id)
	token, err := lower.workload.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: audience})
	must(t, err)
	eventually(t, "the upper agent believes in the JWT-SVID of the lower", func() error {
		bundles, err := upper.workload.FetchJWTBundles(context.Background())
		if err == nil {
			_, err = jwtsvid.ParseAndValidate(token.Marshal(), bundles, []string{audience})
		}
		return err
	})
	above.killed(t, func() { ofLower = lower.svid(t, id, another(ofLower)) }) // the region goes on without
	must(t, verify(ofLower, upper))
	must(t, verify(upper.svid(t, id, another(ofUpper)), lower))
}

// nestedByTokenCell starts our issuer before a stock server is ready for it: it knows a
// join token, and nobody has made the downstream entry. It waits, whatever happens, on
// one use of the token, and goes on with what it got when it is started again.
func nestedByTokenCell(t *testing.T, p *pki) {
	above := newStock(t, p)
	token, agent := above.token(t)
	below := issuerFiles(t, p, setup{above: above, token: token})
	below.start(t)
	below.says(t, "no downstream entry for "+agent.String())
	above.killed(t, func() { below.says(t, spire.ErrUnreachable.Error()) })
	above.downstream(t, agent)
	below.ready(t)
	below.says(t, "the upstream certified this issuer")
	below.killed(t, func() {})
	e := byPoP(t, p, newKey(t))
	id := spiffeid.RequireFromPath(td, "/workload/nested-by-token")
	below.entry(t, e.agent, id, self)
	c := attest(t, below, e)
	svid := c.svid(t, c.find(t, id), newKey(t))
	b, err := above.bundle(t)
	must(t, err)
	checkSVID(t, svid, b)
	if log := below.proc.tail(10000); strings.Contains(log, "could not be followed") {
		t.Errorf("after its start the issuer had no way to its upstream: %s", below.proc.tail(20))
	}
}

// says waits until a process wrote something into its log.
func (s *server) says(t *testing.T, what string) {
	t.Helper()
	eventually(t, "the log says "+what, func() error {
		if !s.proc.running() {
			t.Fatalf("the server ended: %s", s.proc.tail(10))
		}
		if !strings.Contains(s.proc.tail(10000), what) {
			return errors.New("not yet")
		}
		return nil
	})
}

func verify(s *x509svid.SVID, at *agent) error {
	bundles, err := at.workload.FetchX509Bundles(context.Background())
	if err == nil {
		_, _, err = x509svid.Verify(s.Certificates, bundles)
	}
	return err
}

// devidCell: a node that runs, with a TPM, exports its DevID, and a stock spire-agent
// and our client join a stock server with it that believes in our issuer's DevID
// authority. The agent's configuration is what the command wrote.
func devidCell(t *testing.T, p *pki) {
	c, dir := newChip(t, p), folder(t)
	n := newIssuerWith(t, p, setup{chip: c})
	eventually(t, "the node exports its DevID", func() error {
		_, err := output(t, binary(t, "bailiwick"), "devid", "export", "--spire", dir, "--socket", n.control)
		return err
	})
	key, chain, err := c.keys.ReadDevID(dir)
	must(t, err)
	plugin, err := os.ReadFile(filepath.Join(dir, "spire-agent.conf"))
	must(t, err)

	trusting := *p
	trusting.devidRoot = filepath.Join(dir, "devid-ca.pem")
	stock := newStock(t, &trusting)
	e := evidence{
		agent: agentID("tpm_devid", fingerprint(chain[0])), reattest: true, plugin: string(plugin),
		by: spire.DevID{Key: key, Chain: chain, FeedKey: c.feed}, key: c.keys.Node(),
	}
	id := spiffeid.RequireFromPath(td, "/workload/devid")
	stock.entry(t, e.agent, id, self)
	ours := attest(t, stock, e)
	checkSVID(t, ours.svid(t, ours.find(t, id), newKey(t)), ours.bundle(t))
	a := newAgent(t, stock, e)
	a.svid(t, id, nil)
}
