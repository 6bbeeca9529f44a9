package attack

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
)

// region is a trust domain: what signs SVIDs in it, and what signs epochs.
type region struct {
	td   spiffeid.TrustDomain
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	root *epoch.Root
}

func newRegion(t *testing.T, name string) *region {
	t.Helper()
	r := &region{td: spiffeid.RequireTrustDomainFromString(name), key: newKey(t)}
	now := time.Now()
	r.ca = certify(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(90 * 24 * time.Hour),
	}, nil, r.key, r.key)
	var err error
	if r.root, err = epoch.NewRoot(r.td, now.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	return r
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// certify signs a certificate; without a parent it signs itself.
func certify(t *testing.T, tmpl, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (r *region) node(name string) spiffeid.ID { return spiffeid.RequireFromPath(r.td, "/node/"+name) }

func (r *region) bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(r.td, []*x509.Certificate{r.ca})
}

func (r *region) svid(t *testing.T, id spiffeid.ID, life time.Duration) *x509svid.SVID {
	t.Helper()
	key := newKey(t)
	cert := certify(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{id.URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life),
	}, r.ca, key, r.key)
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{cert}, PrivateKey: key}
}

// identity certifies a feed key for one epoch of a node.
func (r *region) identity(t *testing.T, id spiffeid.ID, key *ecdsa.PrivateKey, number uint64, life time.Duration) replica.Identity {
	t.Helper()
	return r.identityOf(t, "node", id, key, number, life)
}

func (r *region) identityOf(t *testing.T, class string, id spiffeid.ID, key *ecdsa.PrivateKey, number uint64, life time.Duration) replica.Identity {
	t.Helper()
	return r.identityAt(t, time.Now(), class, id, key, number, life)
}

// identityAt is what identityOf made at that time.
func (r *region) identityAt(t *testing.T, at time.Time, class string, id spiffeid.ID, key *ecdsa.PrivateKey, number uint64, life time.Duration) replica.Identity {
	t.Helper()
	approved, err := r.root.Check(epoch.Request{ID: id, Epoch: number, Class: class, Key: &key.PublicKey, Lifetime: life, Now: at})
	if err != nil {
		t.Fatal(err)
	}
	der, err := r.root.Issue(approved)
	if err != nil {
		t.Fatal(err)
	}
	return replica.Identity{Signer: key, Cert: der}
}

// keys verifies epoch certificates of every region given, as a node does that has
// their trust records.
func keys(regions ...*region) feed.KeyFunc {
	return func(der []byte) (feed.EpochKey, error) {
		from, err := epoch.NotBefore(der)
		if err != nil {
			return feed.EpochKey{}, err
		}
		err = feed.ErrUncheckable
		for _, r := range regions {
			var c epoch.Certificate
			if c, err = epoch.Verify(der, []*x509.Certificate{r.root.Certificate()}, r.td, from); err == nil {
				return feed.EpochKey{
					Origin: c.ID, Epoch: c.Epoch, Key: c.Key, Class: c.Class, Attested: c.Attested(),
					NotBefore: c.NotBefore, NotAfter: c.NotAfter, Cert: der,
				}, nil
			}
		}
		return feed.EpochKey{}, err
	}
}
