package interop

import (
	"context"
	"crypto/x509"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// downstream makes the machine of a nested issuer known, and returns the files that
// prove which it is.
func (s *server) downstream(t *testing.T, p *pki, dir string) (chain, private string) {
	t.Helper()
	key := newKey(t)
	e := byPoP(t, p, key)
	entry := newEntry(e.agent, spiffeid.RequireFromPath(td, "/region"), "bailiwick:issuer")
	entry.Downstream = true
	s.register(t, entry)
	attest(t, s, e).find(t, spiffeid.RequireFromPath(td, "/region")) // servers take a moment
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return writePEM(t, dir, "above.pem", "CERTIFICATE", e.by.(spire.X509PoP).Chain...), writePEM(t, dir, "above.key", "PRIVATE KEY", der)
}

// nestedCell puts our issuer below a stock server. Agents of both then believe in
// each other's workloads.
func nestedCell(t *testing.T, p *pki) {
	above := newStock(t, p)
	below := newIssuerBelow(t, p, above)
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

func verify(s *x509svid.SVID, at *agent) error {
	bundles, err := at.workload.FetchX509Bundles(context.Background())
	if err == nil {
		_, _, err = x509svid.Verify(s.Certificates, bundles)
	}
	return err
}

// devidCell: a machine that attested with its TPM to our issuer gets a DevID from it,
// with which a stock spire-agent and our client join a stock server that believes in
// our issuer's DevID authority.
func devidCell(t *testing.T, p *pki) {
	s := newIssuer(t, p)
	c := newChip(t, p)
	tpmEvidence := evidence{agent: agentID("bailiwick_tpm", c.ekHash()), reattest: true,
		by: spire.TPM{Keys: c.keys, FeedKey: c.feed, BootLog: c.boot}, key: c.keys.Node()}
	node := attest(t, s, tpmEvidence)
	key, err := c.keys.NewDevID()
	must(t, err)
	chain, authority, err := node.CertifyDevID(t.Context(), key)
	must(t, err)

	trusting := *p
	trusting.devidRoot = writePEM(t, folder(t), "devid.pem", "CERTIFICATE", authority)
	stock := newStock(t, &trusting)
	e := devidEvidence(t, folder(t), c, key, chain)
	id := spiffeid.RequireFromPath(td, "/workload/devid")
	stock.entry(t, e.agent, id, self)
	ours := attest(t, stock, e)
	checkSVID(t, ours.svid(t, ours.find(t, id), newKey(t)), ours.bundle(t))
	a := newAgent(t, stock, e)
	a.svid(t, id, nil)
}
