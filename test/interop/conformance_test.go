package interop

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// issued is what a workload gets.
type issued struct {
	x509   *x509svid.SVID
	jwt    *jwtsvid.SVID
	bundle *spiffebundle.Bundle
}

// rules are what the SPIFFE standards demand of it, by section. Both servers are held
// to them.
var rules = []struct {
	section string
	holds   func(i issued) bool
}{
	{"X509-SVID 2: exactly one URI SAN", func(i issued) bool { return len(i.leaf().URIs) == 1 && i.leaf().URIs[0].String() == i.x509.ID.String() }},
	{"X509-SVID 4.1: a leaf is no CA", func(i issued) bool { return !i.leaf().IsCA }},
	{"X509-SVID 4.3: key usage is there and critical", func(i issued) bool { return critical(i.leaf(), 15) }},
	{"X509-SVID 4.3: a leaf signs data", func(i issued) bool { return i.leaf().KeyUsage&x509.KeyUsageDigitalSignature != 0 }},
	{"X509-SVID 4.3: a leaf signs no certificates and CRLs", func(i issued) bool { return i.leaf().KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) == 0 }},
	{"X509-SVID 4.4: server and client", func(i issued) bool {
		return slices.Contains(i.leaf().ExtKeyUsage, x509.ExtKeyUsageServerAuth) && slices.Contains(i.leaf().ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}},
	{"RFC 5280 4.1.2.2: serial number positive, at most 20 bytes", func(i issued) bool {
		return i.leaf().SerialNumber.Sign() > 0 && len(i.leaf().SerialNumber.Bytes()) <= 20
	}},
	{"RFC 5280 4.2.1.1: names its issuer's key", func(i issued) bool {
		return slices.ContainsFunc(i.bundle.X509Authorities(), func(c *x509.Certificate) bool { return slices.Equal(c.SubjectKeyId, i.leaf().AuthorityKeyId) })
	}},
	{"X509-SVID 3.2: an authority's ID has no path", func(i issued) bool {
		return i.roots(func(c *x509.Certificate) bool { return len(c.URIs) == 1 && c.URIs[0].String() == td.IDString() })
	}},
	{"X509-SVID 4.1: an authority is a CA", func(i issued) bool {
		return i.roots(func(c *x509.Certificate) bool { return c.IsCA && c.BasicConstraintsValid })
	}},
	{"X509-SVID 4.3: an authority signs certificates", func(i issued) bool {
		return i.roots(func(c *x509.Certificate) bool { return c.KeyUsage&x509.KeyUsageCertSign != 0 && critical(c, 15) })
	}},
	{"X509-SVID 4.4: an authority's EKU, if any, has both", func(i issued) bool {
		return i.roots(func(c *x509.Certificate) bool { return len(c.ExtKeyUsage) == 0 })
	}},
	{"JWT-SVID 2.1: an algorithm of the list", func(i issued) bool { return slices.Contains(algorithms, jose.SignatureAlgorithm(i.header().Algorithm)) }},
	{"JWT-SVID 2.2: the key is named and in the bundle", func(i issued) bool {
		_, known := i.bundle.FindJWTAuthority(i.header().KeyID)
		return known
	}},
	{"JWT-SVID 2.3: typ, if any, is JWT or JOSE", func(i issued) bool {
		typ, has := i.header().ExtraHeaders["typ"]
		return !has || typ == "JWT" || typ == "JOSE"
	}},
	{"JWT-SVID 3.1: sub is the ID", func(i issued) bool { return i.jwt.ID == i.x509.ID }},
	{"JWT-SVID 3.2: aud is what was asked for", func(i issued) bool { return slices.Equal(i.jwt.Audience, []string{audience}) }},
	{"JWT-SVID 3.3: exp, soon", func(i issued) bool { return i.jwt.Expiry.After(time.Now()) && time.Until(i.jwt.Expiry) <= time.Hour }},
	{"SPIFFE-ID 2: at most 2048 bytes", func(i issued) bool { return len(i.x509.ID.String()) <= 2048 }},
}

// algorithms are those of JWT-SVID 2.1.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512,
}

func (i issued) leaf() *x509.Certificate { return i.x509.Certificates[0] }

func (i issued) roots(fn func(*x509.Certificate) bool) bool {
	return !slices.ContainsFunc(i.bundle.X509Authorities(), func(c *x509.Certificate) bool { return !fn(c) })
}

func (i issued) header() jose.Header {
	token, err := jose.ParseSigned(i.jwt.Marshal(), algorithms)
	if err != nil || len(token.Signatures) != 1 {
		return jose.Header{}
	}
	return token.Signatures[0].Protected
}

// critical reports whether a certificate has extension 2.5.29.n, marked critical.
func critical(c *x509.Certificate, n int) bool {
	want := asn1.ObjectIdentifier{2, 5, 29, n}
	for _, e := range c.Extensions {
		if e.Id.Equal(want) {
			return e.Critical
		}
	}
	return false
}

func (i issued) check(t *testing.T) {
	t.Helper()
	for _, r := range rules {
		if !r.holds(i) {
			t.Errorf("%s: does not hold of %s", r.section, i.describe())
		}
	}
}

func (i issued) describe() string {
	return fmt.Sprintf("%s, serial %x, usage %b, JWT %+v", i.leaf().URIs, i.leaf().SerialNumber, i.leaf().KeyUsage, i.header())
}

// clientConformance looks at what our client gets.
func clientConformance(t *testing.T, s *server, p *pki) {
	e := byPoP(t, p, newKey(t))
	id := spiffeid.RequireFromPath(td, "/workload/client-conformance")
	s.entry(t, e.agent, id, self)
	c := attest(t, s, e)
	entry := c.find(t, id)
	token, err := c.NewJWTSVID(t.Context(), entry.ID, id, []string{audience})
	must(t, err)
	issued{c.svid(t, entry, newKey(t)), token, c.bundle(t)}.check(t)
}

// agentConformance looks at what a workload gets by way of a stock agent.
func agentConformance(t *testing.T, s *server, p *pki) {
	e := byPoP(t, p, newKey(t))
	id := spiffeid.RequireFromPath(td, "/workload/agent-conformance")
	s.entry(t, e.agent, id, self)
	a := newAgent(t, s, e)
	svid := a.svid(t, id, nil)
	token, err := a.workload.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: audience, Subject: id})
	must(t, err)
	b, err := s.bundle(t)
	must(t, err)
	issued{svid, token, b}.check(t)
}
