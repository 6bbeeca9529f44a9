package issuer_test

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// TestX509SVIDConformance: what is issued, section by section of the X509-SVID standard.
func TestX509SVIDConformance(t *testing.T) {
	r := newRegion(t, nil)
	c, agent := r.attest()
	results, err := c.NewX509SVIDs(t.Context(), []spire.Request{
		{EntryID: r.entry(c, shop).ID, ID: shop, Key: newKey(t)}, {EntryID: r.entry(c, n1).ID, ID: n1, Key: r.machine.key},
	})
	if err != nil || results[0].Err != nil || results[1].Err != nil {
		t.Fatal(results, err)
	}
	roots := r.ca.Bundle().X509Authorities()
	critical := func(c *x509.Certificate, n int) bool {
		for _, e := range c.Extensions {
			if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, n}) {
				return e.Critical
			}
		}
		return false
	}
	both := func(c *x509.Certificate) bool {
		return slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	for name, leaf := range map[string]*x509.Certificate{
		"agent": agent.SVID.Certificates[0], "workload": results[0].SVID.Certificates[0], "node": results[1].SVID.Certificates[0],
	} {
		for _, rule := range []struct {
			section, says string
			ok            bool
		}{
			{"2", "one URI SAN, a SPIFFE ID of the region", len(leaf.URIs) == 1 && leaf.URIs[0].Scheme == "spiffe" && leaf.URIs[0].Host == east.Name()},
			{"3.1", "a leaf's ID has a path", len(leaf.URIs[0].Path) > 1},
			{"4.1", "a leaf is no CA", !leaf.IsCA},
			{"4.3", "key usage is there and critical", critical(leaf, 15)},
			{"4.3", "a leaf signs data", leaf.KeyUsage&x509.KeyUsageDigitalSignature != 0},
			{"4.3", "a leaf signs no certificates and no CRLs", leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) == 0},
			{"4.4", "server and client", both(leaf)},
			{"5.1", "leads to a root of the bundle", leaf.CheckSignatureFrom(roots[0]) == nil && bytes.Equal(leaf.AuthorityKeyId, roots[0].SubjectKeyId)},
			{"RFC 5280 4.1.2.2", "serial number positive, at most 20 bytes", leaf.SerialNumber.Sign() > 0 && len(leaf.SerialNumber.Bytes()) <= 20},
			{"RFC 5280 4.1.2.5", "does not outlive its root", !leaf.NotAfter.After(roots[0].NotAfter)},
		} {
			if !rule.ok {
				t.Errorf("%s: X509-SVID %s: %s: %s, usage %b", name, rule.section, rule.says, leaf.URIs, leaf.KeyUsage)
			}
		}
	}
}

// TestBundleConformance: what the region's trust bundle holds, section by section of the
// SPIFFE Trust Domain and Bundle standard and of those for SVIDs.
func TestBundleConformance(t *testing.T) {
	now := time.Now()
	known := recordsOf(trust.Record{Region: "east", TrustDomain: east, Version: 1, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)})
	var others []issuer.Authority
	r := newRegion(t, func(c *issuer.Config) {
		c.Trust, c.Others = known, func() []issuer.Authority { return others }
	})
	c, _ := r.attest()
	fetch := func() *spiffebundle.Bundle {
		t.Helper()
		b, err := c.TrustBundle(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := fetch()
	hint, hinted := b.RefreshHint()
	root := b.X509Authorities()[0]
	for _, rule := range []struct {
		section, says string
		ok            bool
	}{
		{"Bundle 3.1", "it is of the region's trust domain", b.TrustDomain() == east},
		{"Bundle 4.1.2", "a refresh hint, shorter than a rotation", hinted && hint > 0 && hint < issuer.JWTKeyLifetime/6},
		{"X509-SVID 3.2", "an authority's ID has no path", len(root.URIs) == 1 && root.URIs[0].String() == east.IDString()},
		{"X509-SVID 4.1", "an authority is a CA", root.IsCA && root.BasicConstraintsValid},
		{"X509-SVID 4.3", "an authority signs certificates", root.KeyUsage&x509.KeyUsageCertSign != 0},
		{"X509-SVID 6.1", "all authorities are in it", len(b.X509Authorities()) == 1 && root.Equal(r.ca.Certificate())},
		{"JWT-SVID 6.1", "all keys are in it, each with an ID", len(b.JWTAuthorities()) == 1 && b.JWTAuthorities()[""] == nil},
	} {
		if !rule.ok {
			t.Errorf("%s: %s: %v, %v", rule.section, rule.says, b.X509Authorities()[0].URIs, hint)
		}
	}

	// 4.1.1: the sequence number grows with every change, and with nothing else.
	last, _ := b.SequenceNumber()
	grows := func(what string, want bool) {
		t.Helper()
		got, _ := fetch().SequenceNumber()
		if (got > last) != want || got < last {
			t.Errorf("Bundle 4.1.1: %s: number %d after %d", what, got, last)
		}
		last = got
	}
	grows("nothing", false)
	other, err := issuer.NewCA(east, now)
	if err != nil {
		t.Fatal(err)
	}
	others = []issuer.Authority{{Kind: issuer.JWT, ID: "second", Key: &newKey(t).PublicKey, NotAfter: now.Add(time.Hour)}}
	grows("another issuer's JWT key", true)
	others[0].Tainted = true
	grows("a taint", true)
	grows("nothing again", false)
	known.publish(func(r *trust.Record) { r.X509Roots = append(r.X509Roots, other.Certificate()) })
	grows("another issuer's root", true)
	others = nil
	grows("a key less", true)
	known.publish(func(r *trust.Record) { r.X509Roots = nil })
	grows("back to what it was", true)
	if !fetch().X509Bundle().Equal(b.X509Bundle()) {
		t.Error("it is not what it was")
	}
}

// TestBundleNumberSurvives: a restart does not take a number back, and neither does a disk
// that takes nothing more.
func TestBundleNumberSurvives(t *testing.T) {
	dir := t.TempDir()
	ca, err := issuer.NewCA(east, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	for range 3 {
		var full atomic.Bool
		st, err := store.OpenFaulty(filepath.Join(dir, "store"), func(int) store.Fault {
			if full.Load() {
				return store.FaultBefore
			}
			return store.NoFault
		})
		if err != nil {
			t.Fatal(err)
		}
		others := []issuer.Authority{{Kind: issuer.JWT, ID: "kept", Key: &newKey(t).PublicKey, NotAfter: time.Now().Add(time.Hour)}}
		r := newRegion(t, func(c *issuer.Config) { c.CA, c.Store, c.Others = ca, st, func() []issuer.Authority { return others } })
		bare, err := spire.Dial(r.cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		number := func() uint64 {
			t.Helper()
			b, err := bare.TrustBundle(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			n, _ := b.SequenceNumber()
			return n
		}
		got := number()
		if got <= last {
			t.Errorf("number %d after %d and a restart", got, last)
		}
		last = got
		full.Store(true)
		others = others[:0]
		if unkept := number(); unkept <= got {
			t.Errorf("number %d after %d on a full disk", unkept, got)
		}
		if err := errors.Join(bare.Close(), st.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
