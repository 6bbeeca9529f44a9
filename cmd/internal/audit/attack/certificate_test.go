package attack

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/casefile"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
)

// issued is an SVID by an auditor's region, from some time on.
func (a auditor) issued(t *testing.T, id spiffeid.ID, from time.Time) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(7), URIs: []*url.URL{id.URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: from, NotAfter: from.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.ca, &signingKey(t).PublicKey, a.key)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

// svidLeaf is what a node says of an SVID that it received.
func svidLeaf(id spiffeid.ID, c *x509.Certificate) map[string]any {
	return map[string]any{
		"chain": [][]byte{c.Raw}, "id": id.String(), "serial": c.SerialNumber.Text(16), "not_after": c.NotAfter.Unix(),
		"workloads": 0, "epoch": 1, "class": "node",
	}
}

// epochLeaf is what a node says of an epoch certificate that it received now.
func epochLeaf(t *testing.T, root *epoch.Root, id spiffeid.ID, lives time.Duration) map[string]any {
	t.Helper()
	approved, err := root.Check(epoch.Request{ID: id, Epoch: 1, Class: "node", Key: &signingKey(t).PublicKey, Now: time.Now(), Lifetime: lives})
	must(t, err)
	der, err := root.Issue(approved)
	must(t, err)
	c, err := epoch.Verify(der, []*x509.Certificate{root.Certificate()}, id.TrustDomain(), time.Now())
	must(t, err)
	return map[string]any{"epoch": c.Epoch, "why": "issued", "class": c.Class, "not_after": c.NotAfter.Unix(), "certificate": der}
}

// A node records certificates that it did not receive, to have been somebody at a time.
func TestFalseCertificates(t *testing.T) {
	for name, leaf := range map[string]func(t *testing.T, a, foreign auditor, n, other *node) (trail.Kind, map[string]any){
		"SVID of a foreign root": func(t *testing.T, _, foreign auditor, n, _ *node) (trail.Kind, map[string]any) {
			return trail.IdentitySVID, svidLeaf(n.id, foreign.issued(t, n.id, time.Now()))
		},
		"SVID that had ended": func(t *testing.T, a, _ auditor, n, _ *node) (trail.Kind, map[string]any) {
			return trail.IdentitySVID, svidLeaf(n.id, a.issued(t, n.id, time.Now().Add(-time.Hour-2*time.Minute)))
		},
		"SVID of another node": func(t *testing.T, a, _ auditor, _, other *node) (trail.Kind, map[string]any) {
			return trail.IdentitySVID, svidLeaf(other.id, a.issued(t, other.id, time.Now()))
		},
		"SVID told otherwise": func(t *testing.T, a, _ auditor, n, _ *node) (trail.Kind, map[string]any) {
			body := svidLeaf(n.id, a.issued(t, n.id, time.Now()))
			body["not_after"] = time.Now().Add(24 * time.Hour).Unix()
			return trail.IdentitySVID, body
		},
		"no SVID": func(t *testing.T, a, _ auditor, n, _ *node) (trail.Kind, map[string]any) {
			body := svidLeaf(n.id, a.issued(t, n.id, time.Now()))
			delete(body, "chain")
			return trail.IdentitySVID, body
		},
		"epoch of a foreign root": func(t *testing.T, _, foreign auditor, n, _ *node) (trail.Kind, map[string]any) {
			return trail.IdentityEpoch, epochLeaf(t, foreign.root, n.id, time.Hour)
		},
		"epoch that had ended": func(t *testing.T, a, _ auditor, n, _ *node) (trail.Kind, map[string]any) {
			body := epochLeaf(t, a.root, n.id, 5*time.Minute)
			time.Sleep(10 * time.Minute)
			return trail.IdentityEpoch, body
		},
		"epoch of another node": func(t *testing.T, a, _ auditor, _, other *node) (trail.Kind, map[string]any) {
			return trail.IdentityEpoch, epochLeaf(t, a.root, other.id, time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T, r *region) {
				n, other, a, foreign := r.nodes[2], r.nodes[3], r.auditor(), r.auditor()
				n.leaf(trail.IdentitySVID, svidLeaf(n.id, a.issued(t, n.id, time.Now())))
				n.leaf(trail.IdentityEpoch, epochLeaf(t, a.root, n.id, time.Hour))
				n.await(n.record(1))
				if rep := a.whole(t, n.dir()); rep.Certificates.Verified != 2 {
					t.Fatalf("the honest ones: %+v", rep.Certificates)
				}
				at := n.trail.Head().Size
				n.leaf(leaf(t, a, foreign, n, other))
				n.await(n.record(0))
				rep := a.finds(t, n.dir())
				if !errors.Is(rep.Integrity.Err, casefile.ErrCertificate) || rep.Integrity.Leaf == nil || rep.Integrity.Leaf.Index != at {
					t.Errorf("leaf %d: %s: %+v", at, rep.Integrity, rep.Integrity.Leaf)
				}
				r.unharmed(nil)
			})
		})
	}
}
