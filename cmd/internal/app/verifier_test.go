package app

import (
	"crypto/ecdsa"
	"crypto/x509"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// TestRetiredRecordRoot: an epoch certificate that was good is none once a trust record
// no longer names the root that signed it.
func TestRetiredRecordRoot(t *testing.T) {
	global, policy, now := p256(t), p256(t), time.Now()
	set, err := trust.NewSet([]*ecdsa.PublicKey{&global.PublicKey}, 1)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := issuer.NewCA(tdEast, now)
	if err != nil {
		t.Fatal(err)
	}
	var version uint64
	names := func(root *epoch.Root) {
		t.Helper()
		version++
		raw, err := trust.Sign(trust.Record{
			Region: "east", TrustDomain: tdEast, Version: version, AuthorityKey: &policy.PublicKey, PolicyKey: &policy.PublicKey,
			X509Roots: []*x509.Certificate{ca.Certificate()}, RecordRoots: []*x509.Certificate{root.Certificate()},
			NotBefore: now.Add(-time.Hour).Truncate(time.Second), NotAfter: now.Add(time.Hour).Truncate(time.Second),
		}, global)
		if err == nil {
			_, _, err = set.Apply(raw, now)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := epoch.NewRoot(tdEast, now)
	if err != nil {
		t.Fatal(err)
	}
	other, err := epoch.NewRoot(tdEast, now)
	if err != nil {
		t.Fatal(err)
	}
	approved, err := root.Check(epoch.Request{ID: nodeN1, Epoch: 1, Class: "node", Key: &p256(t).PublicKey, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	der, err := root.Issue(approved)
	if err != nil {
		t.Fatal(err)
	}
	v := newVerifier(set)
	for i, c := range []struct {
		root *epoch.Root
		good bool
	}{{root, true}, {other, false}, {root, true}} {
		names(c.root)
		for range 2 {
			if _, err := v.certificate(der); (err == nil) != c.good {
				t.Errorf("record %d: %v", i+1, err)
			}
		}
	}
}
