package identity

import (
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// TestX509SVIDConformance: what a peer may show, section by section of the X509-SVID
// standard. What is wrong in one point only is refused.
func TestX509SVIDConformance(t *testing.T) {
	ca := newTestCA(t, "east.dev.example")
	between := func(change func(*x509.Certificate)) *x509svid.SVID {
		key, td := newKey(t), ca.td.ID().URL()
		tmpl := *ca.cert
		tmpl.URIs, tmpl.Subject.CommonName = []*url.URL{td}, "between"
		if change != nil {
			change(&tmpl)
		}
		signing := &testCA{td: ca.td, key: key, cert: sign(t, &tmpl, ca.cert, key, ca.key)}
		svid := signing.svid(t, nil)
		svid.Certificates = append(svid.Certificates, signing.cert)
		return svid
	}
	leaf := func(change func(*x509.Certificate)) *x509svid.SVID { return ca.svid(t, change) }
	named := func(uris ...string) *x509svid.SVID {
		return leaf(func(c *x509.Certificate) {
			c.URIs = nil
			for _, s := range uris {
				u, err := url.Parse(s)
				if err != nil {
					t.Fatal(err)
				}
				c.URIs = append(c.URIs, u)
			}
		})
	}
	for _, rule := range []struct {
		section, says string
		svid          *x509svid.SVID
		want          error
	}{
		{"2", "one URI SAN, a SPIFFE ID", leaf(nil), nil},
		{"2", "no URI SAN", named(), ErrNotSVID},
		{"2", "more than one URI SAN", named("spiffe://east.dev.example/a", "spiffe://east.dev.example/b"), ErrNotSVID},
		{"2", "a second URI SAN that is no SPIFFE ID", named("spiffe://east.dev.example/a", "https://east.dev.example/"), ErrNotSVID},
		{"2", "a URI SAN of another scheme", named("https://east.dev.example/a"), ErrNotSVID},
		{"2", "DNS names beside it", leaf(func(c *x509.Certificate) { c.DNSNames = []string{"shop.internal"} }), nil},
		{"3.1", "a leaf's ID without a path", named("spiffe://east.dev.example"), ErrNotSVID},
		{"3.2", "a leaf below a signing certificate of its trust domain", between(nil), nil},
		{"3.2", "a signing certificate shown as a leaf", &x509svid.SVID{Certificates: []*x509.Certificate{ca.cert}}, ErrNotSVID},
		{"4.1", "a leaf that is a CA", leaf(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), ErrNotSVID},
		{"4.1", "a leaf below one that is no CA", between(func(c *x509.Certificate) { c.IsCA = false }), ErrUntrusted},
		{"4.3", "a leaf that may sign certificates", leaf(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), ErrNotSVID},
		{"4.3", "a leaf that may sign CRLs", leaf(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }), ErrNotSVID},
		{"4.3", "a leaf that may not sign data", leaf(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), ErrNotSVID},
		{"4.3", "a leaf without key usage", leaf(func(c *x509.Certificate) { c.KeyUsage = 0 }), ErrNotSVID},
		{"4.3", "a leaf below one that may not sign certificates", between(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), ErrUntrusted},
		{"4.4", "server and client", leaf(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		}), nil},
		{"4.4", "no extended key usage", leaf(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), nil},
		{"5.1", "a root of the same name that is not in the bundle", newTestCA(t, "east.dev.example").svid(t, nil), ErrUntrusted},
		{"5.1", "a trust domain whose bundle nobody has", newTestCA(t, "west.dev.example").svid(t, nil), ErrForeign},
		{"5.1", "expired", leaf(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), ErrExpired},
		{"5.1", "not valid yet", leaf(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Second) }), ErrExpired},
	} {
		id, err := VerifyPeer(rule.svid.Certificates, ca.bundle(), anyone, time.Now())
		if !errors.Is(err, rule.want) || (err == nil) != (rule.want == nil) {
			t.Errorf("X509-SVID %s: %s: %v, want %v", rule.section, rule.says, err, rule.want)
		}
		if err != nil && !id.IsZero() {
			t.Errorf("X509-SVID %s: %s: the name %s beside a refusal", rule.section, rule.says, id)
		}
	}
}

// TestSPIFFEIDConformance: which names a certificate of the region may carry, section by
// section of the SPIFFE-ID standard.
func TestSPIFFEIDConformance(t *testing.T) {
	ca := newTestCA(t, "east.dev.example")
	const base = "spiffe://east.dev.example"
	for _, rule := range []struct {
		section, says, id string
		ok                bool
	}{
		{"2", "scheme spiffe", base + "/workload/shop", true},
		{"2", "the scheme in another case", "SPIFFE://east.dev.example/workload/shop", true}, // RFC 3986 §3.1
		{"2", "another scheme", "spiff://east.dev.example/workload/shop", false},
		{"2", "a query", base + "/workload/shop?x=1", false},
		{"2", "a fragment", base + "/workload/shop#x", false},
		{"2.1", "no trust domain", "spiffe:///workload/shop", false},
		{"2.1", "a user", "spiffe://root@east.dev.example/workload/shop", false},
		{"2.1", "a port", "spiffe://east.dev.example:8443/workload/shop", false},
		{"2.1", "a trust domain in capitals", "spiffe://EAST.dev.example/workload/shop", false},
		{"2.1", "a trust domain with another letter", "spiffe://east!dev.example/workload/shop", false},
		{"2.2", "letters, digits, dots, hyphens, underscores", base + "/aZ09.-_/x", true},
		{"2.2", "a slash at the end", base + "/workload/", false},
		{"2.2", "an empty segment", base + "/workload//shop", false},
		{"2.2", "a dot as a segment", base + "/./shop", false},
		{"2.2", "two dots as a segment", base + "/workload/../node/n1", false},
		{"2.2", "three dots as a segment", base + "/workload/...", true},
		{"2.2", "an escaped letter", base + "/workload/%73hop", false},
		{"2.2", "another letter", base + "/workload/sh+op", false},
		{"2.3", "2048 bytes", base + "/" + strings.Repeat("a", 2048-len(base)-1), true},
	} {
		u, err := url.Parse(rule.id)
		if err != nil {
			t.Fatal(err)
		}
		svid := ca.svid(t, func(c *x509.Certificate) { c.URIs = []*url.URL{u} })
		id, err := VerifyPeer(svid.Certificates, ca.bundle(), anyone, time.Now())
		switch {
		case rule.ok && (err != nil || id.TrustDomain() != ca.td):
			t.Errorf("SPIFFE-ID %s: %s: %v", rule.section, rule.says, err)
		case !rule.ok && err == nil:
			t.Errorf("SPIFFE-ID %s: %s: %s was taken for %s", rule.section, rule.says, rule.id, id)
		}
		if _, err := spiffeid.FromString(rule.id); rule.ok && rule.section != "2" && err != nil {
			t.Errorf("SPIFFE-ID %s: %s: %v", rule.section, rule.says, err)
		}
	}
}
