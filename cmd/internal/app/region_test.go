package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

var (
	tdEast = spiffeid.RequireTrustDomainFromString("east.dev.example")
	nodeN1 = spiffeid.RequireFromPath(tdEast, "/node/n1")
	nodeN2 = spiffeid.RequireFromPath(tdEast, "/node/n2")
	nodeN3 = spiffeid.RequireFromPath(tdEast, "/node/n3")
)

// testRegion is a region as far as its trust record goes, and the global key that signs it.
type testRegion struct {
	t      *testing.T
	global *ecdsa.PrivateKey
	record []byte
}

func newTestRegion(t *testing.T) *testRegion {
	t.Helper()
	r := &testRegion{t: t, global: p256(t)}
	now := time.Now()
	ca, err := issuer.NewCA(tdEast, now.Add(-time.Hour))
	r.must(err)
	root, err := epoch.NewRoot(tdEast, now)
	r.must(err)
	r.record, err = trust.Sign(trust.Record{
		Region: "east", TrustDomain: tdEast, Version: 1, AuthorityKey: &p256(t).PublicKey, PolicyKey: &p256(t).PublicKey,
		X509Roots: []*x509.Certificate{ca.Certificate()}, RecordRoots: []*x509.Certificate{root.Certificate()},
		NotBefore: now.Add(-time.Hour).Truncate(time.Second), NotAfter: now.Add(time.Hour).Truncate(time.Second),
	}, r.global)
	r.must(err)
	return r
}

// next is the region's record, one version on.
func (r *testRegion) next(before trust.Record) []byte {
	before.Version++
	raw, err := trust.Sign(before, r.global)
	r.must(err)
	return raw
}

// set is a trust set that holds the region's record.
func (r *testRegion) set() (*trust.Set, trust.Record) {
	r.t.Helper()
	set, err := trust.NewSet([]*ecdsa.PublicKey{&r.global.PublicKey}, 1)
	r.must(err)
	record, _, err := set.Apply(r.record, time.Now())
	r.must(err)
	return set, record
}

func (r *testRegion) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// testTrust is the trust record of a region, and a set that holds it.
func testTrust(t *testing.T) (*trust.Set, trust.Record) {
	t.Helper()
	return newTestRegion(t).set()
}

func p256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func openStore(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // closing twice is no error
	return s
}
