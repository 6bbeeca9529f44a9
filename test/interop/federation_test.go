package interop

import (
	"crypto/x509"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
)

var west = spiffeid.RequireTrustDomainFromString("west.dev.example")

// federate tells a server the root of another trust domain: ours has its signed trust
// record, SPIRE is told by its API.
func (s *server) federate(t *testing.T, p *pki) (root *x509.Certificate) {
	t.Helper()
	root = p.westRoots(t)[0]
	if s.ours {
		return root
	}
	resp, err := s.bundles.BatchSetFederatedBundle(t.Context(), &bundlev1.BatchSetFederatedBundleRequest{Bundle: []*types.Bundle{
		{TrustDomain: west.Name(), X509Authorities: []*types.X509Certificate{{Asn1: root.Raw}}, SequenceNumber: 1},
	}})
	must(t, err)
	if st := resp.GetResults()[0].GetStatus(); st.GetCode() != 0 {
		t.Fatal(st)
	}
	return root
}

// clientFederation asks for another region's bundle.
func clientFederation(t *testing.T, s *server, p *pki) {
	root := s.federate(t, p)
	c := attest(t, s, byPoP(t, p, newKey(t)))
	b, err := c.FederatedBundle(t.Context(), west)
	must(t, err)
	if got := b.X509Authorities(); len(got) != 1 || !got[0].Equal(root) {
		t.Errorf("%d roots of the other region", len(got))
	}
}

// agentFederation gives a workload of a stock agent the bundle of another region.
func agentFederation(t *testing.T, s *server, p *pki) {
	root := s.federate(t, p)
	e := byPoP(t, p, newKey(t))
	id := spiffeid.RequireFromPath(td, "/workload/federates")
	entry := newEntry(e.agent, id, self)
	entry.FederatesWith = []string{west.Name()}
	s.register(t, entry)
	a := newAgent(t, s, e)
	a.svid(t, id, nil)
	var got *x509bundle.Bundle
	eventually(t, "the other region's bundle", func() error {
		c, err := a.workload.FetchX509Context(t.Context())
		if err == nil {
			got, err = c.Bundles.GetX509BundleForTrustDomain(west)
		}
		return err
	})
	if !got.HasX509Authority(root) {
		t.Error("it is another one")
	}
}
