package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Reasons to refuse a peer. Each is one cause an operator can act on.
var (
	// ErrNotSVID means the peer showed no X509-SVID: no certificate, not exactly
	// one SPIFFE URI SAN, or a CA certificate as leaf.
	ErrNotSVID = errors.New("peer certificate is not an X509-SVID: check that the peer was issued one by its region's issuer")
	// ErrForeign means no trust bundle is known for the peer's trust domain.
	ErrForeign = errors.New("no trust bundle for the peer's trust domain: import that region's trust record if it should be trusted")
	// ErrUntrusted means the trust domain is known but none of its roots signed
	// the chain.
	ErrUntrusted = errors.New("peer certificate does not chain to a root of its trust domain: the peer, or the trust record here, is out of date or false")
	// ErrExpired means a certificate of the chain is outside its validity.
	ErrExpired = errors.New("peer certificate is outside its validity: check the clocks of both machines and whether the peer can reach its issuer")
	// ErrResumed means the peer resumed a TLS session, which would skip the
	// check of its certificate.
	ErrResumed = errors.New("peer resumed a TLS session: session resumption is never accepted")
	// ErrRefused means the identity is genuine but not welcome here.
	ErrRefused = errors.New("peer is not authorised")
	// ErrNoSVID means this process has no X509-SVID to show yet.
	ErrNoSVID = errors.New("no X509-SVID yet: wait for enrolment, or check that the issuer can be reached")
)

// Authorize decides whether a verified peer is welcome. It is called in every
// handshake, with the chains that go-spiffe verified. A nil Authorize refuses.
type Authorize = func(id spiffeid.ID, chains [][]*x509.Certificate) error

// ServerTLS returns the configuration of an accepting side that requires a
// client X509-SVID. The caller may set NextProtos; changing anything else
// voids what the package doc promises.
func ServerTLS(svid x509svid.Source, bundles x509bundle.Source, authorize Authorize) *tls.Config {
	c := base(bundles, authorize)
	c.ClientAuth = tls.RequireAnyClientCert
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate(svid) }
	return c
}

// ClientTLS returns the configuration of a dialling side that shows its own
// X509-SVID. The server's name is not checked against its certificate:
// authorize decides which SPIFFE IDs may answer.
func ClientTLS(svid x509svid.Source, bundles x509bundle.Source, authorize Authorize) *tls.Config {
	c := base(bundles, authorize)
	c.InsecureSkipVerify = true // the web PKI check only: VerifyConnection below is the real one
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate(svid) }
	return c
}

func base(bundles x509bundle.Source, authorize Authorize) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		// crypto/tls orders by its own preference, hybrid first; this is the set.
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.DidResume {
				return ErrResumed
			}
			_, err := VerifyPeer(cs.PeerCertificates, bundles, authorize, time.Now())
			return err
		},
	}
}

// VerifyPeer verifies a peer's chain, leaf first, as of now, authorises it and
// returns its ID. Errors match one of ErrNotSVID, ErrForeign, ErrUntrusted,
// ErrExpired and ErrRefused.
func VerifyPeer(chain []*x509.Certificate, bundles x509bundle.Source, authorize Authorize, now time.Time) (spiffeid.ID, error) {
	id, chains, err := x509svid.Verify(chain, known{bundles}, x509svid.WithTime(now))
	if err == nil {
		err = leafOnly(id, chain[0])
	}
	//bailiwick:check TestStranger/of_no_region
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w (%s): %w", cause(err), subject(id, chain), err)
	}
	if authorize == nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %s: nothing here says who is", ErrRefused, id)
	}
	//bailiwick:check TestStranger/of_another_region
	if err := authorize(id, chains); err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %s: %w", ErrRefused, id, err)
	}
	return id, nil
}

// leafOnly demands of a leaf what go-spiffe does not: an ID with a path (X509-SVID §3.1)
// and a key that may sign, as it does in a handshake (§4.3).
func leafOnly(id spiffeid.ID, leaf *x509.Certificate) error {
	switch {
	case id.Path() == "":
		return errors.New("its ID is that of a trust domain, without a path")
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("its key usage lacks digitalSignature")
	}
	return nil
}

// PeerID returns the SPIFFE ID of the peer of a finished handshake.
func PeerID(cs tls.ConnectionState) (spiffeid.ID, error) {
	if len(cs.PeerCertificates) == 0 {
		return spiffeid.ID{}, fmt.Errorf("%w: it showed no certificate", ErrNotSVID)
	}
	id, err := x509svid.IDFromCert(cs.PeerCertificates[0])
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %w", ErrNotSVID, err)
	}
	return id, nil
}

// known gives "no bundle for this trust domain" an error of its own, whatever
// the source behind it says.
type known struct{ x509bundle.Source }

func (k known) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if k.Source == nil {
		return nil, ErrForeign
	}
	b, err := k.Source.GetX509BundleForTrustDomain(td)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	return b, nil
}

func cause(err error) error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.Is(err, ErrForeign):
		return ErrForeign
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return ErrExpired
	case errors.As(err, &invalid), errors.As(err, &unknown):
		return ErrUntrusted
	}
	return ErrNotSVID
}

func subject(id spiffeid.ID, chain []*x509.Certificate) string {
	switch {
	case len(chain) == 0:
		return "no certificate"
	case id.IsZero():
		return fmt.Sprintf("serial %x", chain[0].SerialNumber)
	}
	return fmt.Sprintf("%s, valid %s to %s", id, chain[0].NotBefore.UTC().Format(time.RFC3339), chain[0].NotAfter.UTC().Format(time.RFC3339))
}

func certificate(source x509svid.Source) (*tls.Certificate, error) {
	if source == nil {
		return nil, ErrNoSVID
	}
	svid, err := source.GetX509SVID()
	if err != nil {
		return nil, err
	}
	return Certificate(svid), nil
}

// Certificate returns svid in the form crypto/tls wants.
func Certificate(svid *x509svid.SVID) *tls.Certificate {
	c := &tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
	for _, cert := range svid.Certificates {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c
}
