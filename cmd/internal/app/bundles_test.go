package app

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/enrolling"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// Local workloads get what verifies another region's JWT-SVIDs, as long as it is valid.
func TestBundlesOfOtherRegions(t *testing.T) {
	r := newTestRegion(t)
	set, east := r.set()
	west := newTestRegion(t)
	record, _, err := trust.Read(west.record)
	r.must(err)
	record.Region, record.TrustDomain = "west", spiffeid.RequireTrustDomainFromString("west.dev.example")
	record.JWTKeys = []trust.JWTKey{
		{ID: "now", Key: east.PolicyKey, NotAfter: time.Now().Add(time.Hour)}, {ID: "over", Key: east.PolicyKey, NotAfter: time.Now().Add(-time.Hour)},
	}
	root, err := epoch.NewRoot(record.TrustDomain, time.Now())
	r.must(err)
	record.RecordRoots = []*x509.Certificate{root.Certificate()}
	raw, err := trust.Sign(record, r.global)
	r.must(err)
	_, _, err = set.Apply(raw, time.Now())
	r.must(err)
	w := &workloadAPI{app: &App{cfg: config.Config{Node: nodeN1}, trust: set, creds: &enrolling.Credentials{}}}
	bundles := w.Bundles()
	if len(bundles) != 2 || bundles[0].TrustDomain() != tdEast {
		t.Fatalf("%d bundles", len(bundles))
	}
	if got := bundles[1].JWTAuthorities(); len(got) != 1 || !east.PolicyKey.Equal(got["now"]) {
		t.Errorf("JWT keys of the other region: %v", got)
	}
}
