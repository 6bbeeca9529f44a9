package interop

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

var west = spiffeid.RequireTrustDomainFromString("west.dev.example")

// Files of our issuer that let it know another region.
const (
	globalFile = "global.pem"
	westFile   = "west.trust"
)

// federate tells a server the root of another trust domain: ours by a signed trust
// record, which it reads when it starts, SPIRE by its API.
func (s *server) federate(t *testing.T) (root *x509.Certificate) {
	t.Helper()
	root = newAuthorityKey(t, "west").cert
	if !s.ours {
		resp, err := s.bundles.BatchSetFederatedBundle(t.Context(), &bundlev1.BatchSetFederatedBundleRequest{Bundle: []*types.Bundle{
			{TrustDomain: west.Name(), X509Authorities: []*types.X509Certificate{{Asn1: root.Raw}}, SequenceNumber: 1},
		}})
		must(t, err)
		if st := resp.GetResults()[0].GetStatus(); st.GetCode() != 0 {
			t.Fatal(st)
		}
		return root
	}
	s.proc.stop(syscall.SIGTERM)
	global, err := keyfile.Open(filepath.Join(s.dir, "global.key.pem"))
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(&global.PublicKey)
	must(t, err)
	writePEM(t, s.dir, globalFile, "PUBLIC KEY", der)
	records, err := epoch.NewRoot(west, time.Now())
	must(t, err)
	from := time.Now().Add(-time.Hour).Truncate(time.Second)
	signed, err := trust.Sign(trust.Record{
		Region: "west", TrustDomain: west, Version: 1, X509Roots: []*x509.Certificate{root}, RecordRoots: []*x509.Certificate{records.Certificate()},
		AuthorityKey: &newKey(t).PublicKey, PolicyKey: &newKey(t).PublicKey, NotBefore: from, NotAfter: from.Add(24 * time.Hour),
	}, global)
	must(t, err)
	write(t, s.dir, westFile, "%s", signed)
	s.proc = s.begin(t)
	s.ready(t)
	return root
}

// clientFederation asks for another region's bundle.
func clientFederation(t *testing.T, s *server, p *pki) {
	root := s.federate(t)
	c := attest(t, s, byPoP(t, p, newKey(t)))
	b, err := c.FederatedBundle(t.Context(), west)
	must(t, err)
	if got := b.X509Authorities(); len(got) != 1 || !got[0].Equal(root) {
		t.Errorf("%d roots of the other region", len(got))
	}
}

// agentFederation gives a workload of a stock agent the bundle of another region.
func agentFederation(t *testing.T, s *server, p *pki) {
	root := s.federate(t)
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

// others are the regions our issuer knows of, nil for none.
func (f issuerFile) others() (*trust.Set, error) {
	signed, err := os.ReadFile(filepath.Join(f.Dir, westFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(f.Dir, globalFile))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	set, err := trust.NewSet([]*ecdsa.PublicKey{key.(*ecdsa.PublicKey)}, 1)
	if err != nil {
		return nil, err
	}
	_, _, err = set.Apply(signed, time.Now())
	return set, err
}
