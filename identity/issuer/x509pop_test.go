package issuer_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	names "crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"

	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// operator certifies machines.
type operator struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

func newOperator(t *testing.T) *operator {
	o := &operator{t: t, key: newKey(t)}
	o.root = o.certify(&x509.Certificate{Subject: names.Name{CommonName: "operator"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, o.key.Public())
	return o
}

func (o *operator) certify(tmpl *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	o.t.Helper()
	tmpl.SerialNumber, tmpl.NotBefore = big.NewInt(0x1f), time.Now().Add(-time.Hour)
	if tmpl.NotAfter.IsZero() {
		tmpl.NotAfter = time.Now().Add(time.Hour)
	}
	parent := o.root
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, o.key)
	if err != nil {
		o.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		o.t.Fatal(err)
	}
	return c
}

func (o *operator) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(o.root)
	return p
}

func TestX509PoP(t *testing.T) {
	o := newOperator(t)
	r := newRegion(t, func(c *issuer.Config) { c.Attestors = []issuer.Attestor{issuer.X509PoP{Roots: o.pool()}} })
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec := newKey(t)
	machine := func(pub crypto.PublicKey) *x509.Certificate {
		return o.certify(&x509.Certificate{Subject: names.Name{CommonName: "n1"}, KeyUsage: x509.KeyUsageDigitalSignature}, pub)
	}
	for name, key := range map[string]crypto.Signer{"RSA": rsaKey, "P-256": ec, "P-384": p384} {
		cert := machine(key.Public())
		sum := sha1.Sum(cert.Raw)
		a, err := spire.Attest(t.Context(), r.cfg, spire.X509PoP{Chain: [][]byte{cert.Raw}, Key: key}, newKey(t))
		if err != nil || a.SVID.ID != id("/spire/agent/x509pop/"+hex.EncodeToString(sum[:])) || !a.Reattest {
			t.Errorf("%s: %v, %v", name, a, err)
			continue
		}
		if m, err := agentv1.NewAgentClient(r.local()).GetAgent(t.Context(), &agentv1.GetAgentRequest{Id: pathID(a.SVID.ID.Path())}); err != nil || len(m.Selectors) != 3 || m.Selectors[0].Value != "subject:cn:n1" || m.Selectors[2].Value != "serialnumber:1f" {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	good := machine(ec.Public())
	authority := o.certify(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}, ec.Public())
	expired := o.certify(&x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, NotAfter: time.Now().Add(-time.Minute)}, ec.Public())
	noUse := o.certify(&x509.Certificate{KeyUsage: x509.KeyUsageKeyEncipherment}, ec.Public())
	other := newOperator(t).certify(&x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature}, ec.Public())
	for _, c := range []struct {
		name string
		by   spire.Attester
	}{
		{"another key", spire.X509PoP{Chain: [][]byte{good.Raw}, Key: newKey(t)}},
		{"no certificate", spire.X509PoP{Key: ec}},
		{"no certificate at all", spire.X509PoP{Chain: [][]byte{{1}}, Key: ec}},
		{"long chain", spire.X509PoP{Chain: slices.Repeat([][]byte{good.Raw}, 9), Key: ec}},
		{"an authority", spire.X509PoP{Chain: [][]byte{authority.Raw}, Key: ec}},
		{"expired", spire.X509PoP{Chain: [][]byte{expired.Raw}, Key: ec}},
		{"not for signatures", spire.X509PoP{Chain: [][]byte{noUse.Raw}, Key: ec}},
		{"another operator", spire.X509PoP{Chain: [][]byte{other.Raw}, Key: ec}},
		{"not JSON", popSays{good, "x", ""}},
		{"oversized", popSays{good, strings.Repeat("x", 65<<10), ""}},
		{"response not JSON", popSays{good, "", "x"}},
		{"response empty", popSays{good, "", "{}"}},
		{"response for RSA", popSays{good, "", `{"rsa_signature":{"nonce":"AAAA","signature":"AAAA"}}`}},
		{"short nonce", popSays{good, "", `{"ecdsa_signature":{"nonce":"AAAA","r":"AAAA","s":"AAAA"}}`}},
		{"no signature", popSays{good, "", `{"ecdsa_signature":{"nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","r":"","s":""}}`}},
	} {
		if _, err := spire.Attest(t.Context(), r.cfg, c.by, newKey(t)); !errors.Is(err, spire.ErrRefused) || !strings.Contains(err.Error(), "x509pop") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := (issuer.X509PoP{}).Attest(t.Context(), issuer.Evidence{Payload: []byte(`{"certificates":["AA=="]}`)}, nil); !errors.Is(err, issuer.ErrEvidence) {
		t.Errorf("no roots: %v", err)
	}
}

// popSays sends what it is told where that is not empty.
type popSays struct {
	cert              *x509.Certificate
	payload, response string
}

func (popSays) Type() string { return "x509pop" }
func (p popSays) Begin(ctx context.Context) ([]byte, func(spire.Question) ([]byte, error), error) {
	b, _, err := spire.X509PoP{Chain: [][]byte{p.cert.Raw}}.Begin(ctx)
	if p.payload != "" {
		b = []byte(p.payload)
	}
	return b, func(spire.Question) ([]byte, error) { return []byte(p.response), nil }, err
}

func FuzzX509PoP(f *testing.F) {
	pop := issuer.X509PoP{Roots: x509.NewCertPool()}
	f.Add([]byte(`{"certificates":["AAAA"]}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, payload, response []byte) {
		_, err := pop.Attest(t.Context(), issuer.Evidence{Payload: payload, Now: time.Now()}, func([]byte) ([]byte, error) { return response, nil })
		if err == nil {
			t.Error("accepted")
		}
	})
}
