package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
)

var identityBenches = []bench{
	{
		area: "identity", name: "x509-svids", unit: "SVIDs/s", higher: true,
		reference: "crypto/x509 CreateCertificate alone, same template and kind of key",
		note:      "ours also parses the request, verifies its signature, checks it against the grant and parses the result; limit is one ECDSA signature; one core",
		prepare:   func(_ string, s size) (sides, error) { return x509SVIDs(s.pick(2000, 3)) },
	},
}

var (
	region     = spiffeid.RequireTrustDomainFromString("east.dev.example")
	workloadID = spiffeid.RequireFromString("spiffe://east.dev.example/workload/shop")
	gatewayID  = spiffeid.RequireFromString("spiffe://east.dev.example/node/gateway")
)

func x509SVIDs(count int) (sides, error) {
	ca, err := issuer.NewCA(region, time.Now())
	if err != nil {
		return sides{}, err
	}
	leaf, csr, err := request(workloadID)
	if err != nil {
		return sides{}, err
	}
	bare, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return sides{}, err
	}
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: "bench"}, SubjectKeyId: []byte{1}}
	digest := sha256.Sum256(csr)
	each := func(work func() error) func() (float64, error) {
		return func() (float64, error) {
			return oneCore(func() (float64, error) {
				return perSecond(count, func() error {
					for range count {
						if err := work(); err != nil {
							return err
						}
					}
					return nil
				})
			})
		}
	}
	return sides{
		ours: each(func() error {
			_, err := issue(ca, workloadID, csr)
			return err
		}),
		reference: each(func() error {
			now := time.Now()
			_, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
				SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{Organization: []string{"SPIRE"}},
				URIs: []*url.URL{workloadID.URL()}, NotBefore: now, NotAfter: now.Add(time.Hour),
				KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
				BasicConstraintsValid: true,
			}, parent, &leaf.PublicKey, bare)
			return err
		}),
		limit: each(func() error {
			_, err := ecdsa.SignASN1(rand.Reader, bare, digest[:])
			return err
		}),
	}, nil
}

// request makes a key and a request for it, which names id unless that is zero.
func request(id spiffeid.ID) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	var template x509.CertificateRequest
	if !id.IsZero() {
		template.URIs = []*url.URL{id.URL()}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	return key, csr, err
}

func issue(ca *issuer.CA, id spiffeid.ID, csr []byte) (*x509.Certificate, error) {
	approved, err := ca.Check(issuer.Request{ID: id, CSR: csr, Now: time.Now()})
	if err != nil {
		return nil, err
	}
	return ca.Issue(approved)
}

// newSVID makes a key and has it certified.
func newSVID(ca *issuer.CA, id spiffeid.ID) (*x509svid.SVID, error) {
	key, csr, err := request(id)
	if err != nil {
		return nil, err
	}
	cert, err := issue(ca, id, csr)
	if err != nil {
		return nil, err
	}
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{cert}, PrivateKey: key}, nil
}
