// Package epoch makes and verifies epoch certificates: each says that one
// P-256 feed key speaks for one node in one life (epoch) of its feed.
//
// # Certificate
//
// An X.509 v3 leaf, signed directly by the record root of the node's region:
//
//	SAN        exactly one URI: bailiwick://<trust domain>/<node path>?epoch=<n>
//	EKU        exactly 2.25.1575555460.1
//	KeyUsage   digitalSignature
//	extension  2.25.1575555460.3, critical: deterministic CBOR
//	           {1: epoch uint, 2: limits class text, 3: previous head bstr .size (0 / 32)}
//
// n is decimal, from 1. The previous head is the RecordID the new epoch starts
// after, empty in a node's first. Valid for seven days unless asked otherwise;
// it may be issued again for the same key and epoch.
//
// It can never pass for an X509-SVID: the URI is not spiffe, the root is in no
// trust bundle, and the critical extension stops every verifier that does not
// know it. (Go's X.509 parser reads no OID arc above 2^31-1, so the arc under
// 2.25 is the first 31 bits of SHA-256("bailiwick"), not a full UUID.)
//
// # Authority certificate
//
// The record root also certifies the key of the region's authority, which signs
// statements: SAN bailiwick://<trust domain>/authority (no query), EKU
// 2.25.1575555460.2, one year.
//
// # Order
//
// [Root.Check] decides and returns an [Approved]; [Root.Issue] signs it, once.
// Who gets which epoch number is decided by the region's authority, and that a
// number is never given twice is kept there, not here.
//
// [Continuity] is the pure rule by which a node with TPM counters knows whether
// its disk is the one it last ran with.
//
// The package keeps no state but the root file; its functions may run
// concurrently.
package epoch

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// MaxSize is the largest certificate Verify looks at, in bytes of DER.
const MaxSize = 4 << 10

var (
	oidEpoch     = asn1.ObjectIdentifier{2, 25, 1575555460, 1}
	oidAuthority = asn1.ObjectIdentifier{2, 25, 1575555460, 2}
	oidExtension = asn1.ObjectIdentifier{2, 25, 1575555460, 3}
)

var (
	// ErrMalformed means the bytes are not a certificate of this package's form.
	ErrMalformed = errors.New("malformed epoch certificate")
	// ErrUntrusted means none of the record roots signed it.
	ErrUntrusted = errors.New("certificate is not signed by a record root of the region: the trust record here is out of date, or the certificate is false")
	// ErrForeign means it belongs to another trust domain than asked for.
	ErrForeign = errors.New("certificate belongs to another trust domain")
	// ErrExpired means it, or its root, is outside its validity.
	ErrExpired = errors.New("certificate is outside its validity: renew it with the region's issuer, and check both clocks")
)

// Classes are the limits classes a certificate may carry.
var Classes = []string{"node", "gateway", "probation", "unattested"}

// Certificate is a verified epoch certificate. The zero value speaks for nobody.
type Certificate struct {
	ID                  spiffeid.ID      // the node
	Epoch               uint64           // from 1
	Class               string           // one of Classes
	Key                 *ecdsa.PublicKey // the feed key, P-256
	PrevHead            []byte           // empty, or the 32 bytes of the last RecordID of the epoch before
	NotBefore, NotAfter time.Time
	Raw                 []byte // DER, as received
}

// Attested reports whether a TPM vouched for the node at enrolment.
func (c Certificate) Attested() bool { return c.Class != "" && c.Class != "unattested" }

// extension is the value of oidExtension.
type extension struct {
	Epoch    uint64 `cbor:"1,keyasint"`
	Class    string `cbor:"2,keyasint"`
	PrevHead []byte `cbor:"3,keyasint"`
}

// Verify reads der and verifies it as of now under the record roots of trust
// domain td. Errors match ErrMalformed, ErrForeign, ErrUntrusted or ErrExpired.
// Only the certificate is judged: whether its epoch is the node's newest is for
// the caller to know.
func Verify(der []byte, roots []*x509.Certificate, td spiffeid.TrustDomain, now time.Time) (Certificate, error) {
	cert, err := parse(der, oidEpoch)
	if err != nil {
		return Certificate{}, err
	}
	ext, err := takeExtension(cert)
	if err != nil {
		return Certificate{}, err
	}
	id, err := nodeOf(cert, ext.Epoch)
	if err != nil {
		return Certificate{}, err
	}
	if err := verify(cert, roots, td, now); err != nil {
		return Certificate{}, err
	}
	return Certificate{
		ID: id, Epoch: ext.Epoch, Class: ext.Class, Key: cert.PublicKey.(*ecdsa.PublicKey), PrevHead: ext.PrevHead,
		NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, Raw: der,
	}, nil
}

// Authority is a verified authority certificate.
type Authority struct {
	TrustDomain         spiffeid.TrustDomain
	Key                 *ecdsa.PublicKey
	NotBefore, NotAfter time.Time
}

// VerifyAuthority is Verify for the certificate of a region's authority key.
func VerifyAuthority(der []byte, roots []*x509.Certificate, td spiffeid.TrustDomain, now time.Time) (Authority, error) {
	cert, err := parse(der, oidAuthority)
	if err != nil {
		return Authority{}, err
	}
	if cert.URIs[0].String() != authorityURI(td).String() {
		return Authority{}, fmt.Errorf("%w: %s, want %s", ErrForeign, cert.URIs[0], authorityURI(td))
	}
	if err := verify(cert, roots, td, now); err != nil {
		return Authority{}, err
	}
	return Authority{TrustDomain: td, Key: cert.PublicKey.(*ecdsa.PublicKey), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter}, nil
}

// parse reads what both kinds have in common and leaves everything else refused.
func parse(der []byte, eku asn1.ObjectIdentifier) (*x509.Certificate, error) {
	if len(der) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(der), MaxSize)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	key, _ := cert.PublicKey.(*ecdsa.PublicKey)
	switch {
	case key == nil || key.Curve != elliptic.P256():
		return nil, fmt.Errorf("%w: the key is not P-256", ErrMalformed)
	case cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature:
		return nil, fmt.Errorf("%w: key usage must be digitalSignature alone, and no CA", ErrMalformed)
	case len(cert.ExtKeyUsage) != 0 || len(cert.UnknownExtKeyUsage) != 1 || !cert.UnknownExtKeyUsage[0].Equal(eku):
		return nil, fmt.Errorf("%w: extended key usage must be %s alone", ErrMalformed, eku)
	case len(cert.URIs) != 1 || len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses) != 0:
		return nil, fmt.Errorf("%w: want one URI and no other name", ErrMalformed)
	}
	return cert, nil
}

// takeExtension reads our extension and marks it as handled.
func takeExtension(cert *x509.Certificate) (ext extension, err error) {
	i := slices.IndexFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidExtension) })
	if i < 0 || !cert.Extensions[i].Critical {
		return ext, fmt.Errorf("%w: no critical extension %s", ErrMalformed, oidExtension)
	}
	if err := statement.Unmarshal(cert.Extensions[i].Value, &ext); err != nil {
		return ext, fmt.Errorf("%w: extension %s: %w", ErrMalformed, oidExtension, err)
	}
	if ext.Epoch == 0 || !slices.Contains(Classes, ext.Class) || len(ext.PrevHead) != 0 && len(ext.PrevHead) != 32 {
		return ext, fmt.Errorf("%w: epoch %d, class %q, previous head of %d bytes", ErrMalformed, ext.Epoch, ext.Class, len(ext.PrevHead))
	}
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidExtension.Equal)
	return ext, nil
}

// nodeOf reads the node's ID from the SAN and holds it against the extension:
// the URI must be the very text uri writes.
func nodeOf(cert *x509.Certificate, n uint64) (spiffeid.ID, error) {
	u := cert.URIs[0]
	id, err := spiffeid.FromString("spiffe://" + u.Host + u.Path)
	if err == nil {
		_, err = identity.ParseNode(id)
	}
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %s: %w", ErrMalformed, u, err)
	}
	if u.String() != uri(id, n).String() {
		return spiffeid.ID{}, fmt.Errorf("%w: %s, want %s", ErrMalformed, u, uri(id, n))
	}
	return id, nil
}

func uri(id spiffeid.ID, n uint64) *url.URL {
	return &url.URL{Scheme: "bailiwick", Host: id.TrustDomain().Name(), Path: id.Path(), RawQuery: "epoch=" + strconv.FormatUint(n, 10)}
}

func authorityURI(td spiffeid.TrustDomain) *url.URL {
	return &url.URL{Scheme: "bailiwick", Host: td.Name(), Path: "/authority"}
}

func rootURI(td spiffeid.TrustDomain) *url.URL {
	return &url.URL{Scheme: "bailiwick", Host: td.Name()}
}

// verify checks the one link from cert to a root of td, by hand: there are no
// intermediates, and crypto/x509 would look for SVID-like key usages.
func verify(cert *x509.Certificate, roots []*x509.Certificate, td spiffeid.TrustDomain, now time.Time) error {
	if td.IsZero() || cert.URIs[0].Host != td.Name() {
		return fmt.Errorf("%w: %s, want %s", ErrForeign, cert.URIs[0], td)
	}
	if len(cert.UnhandledCriticalExtensions) != 0 {
		return fmt.Errorf("%w: unknown critical extension %s", ErrMalformed, cert.UnhandledCriticalExtensions[0])
	}
	for _, root := range roots {
		//bailiwick:check TestForgedEpoch
		if !IsRoot(root, td) || !bytes.Equal(cert.RawIssuer, root.RawSubject) || cert.CheckSignatureFrom(root) != nil {
			continue
		}
		if outside(cert, now) || outside(root, now) {
			return fmt.Errorf("%w: %s, valid %s to %s", ErrExpired, cert.URIs[0], cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339))
		}
		return nil
	}
	return fmt.Errorf("%w: %s", ErrUntrusted, cert.URIs[0])
}

func outside(c *x509.Certificate, now time.Time) bool {
	return now.Before(c.NotBefore) || now.After(c.NotAfter)
}

// IsRoot reports whether cert has the form of a record root of td. It says
// nothing about trust.
func IsRoot(cert *x509.Certificate, td spiffeid.TrustDomain) bool {
	return cert != nil && !td.IsZero() && cert.IsCA && cert.BasicConstraintsValid && cert.KeyUsage&x509.KeyUsageCertSign != 0 &&
		len(cert.URIs) == 1 && cert.URIs[0].String() == rootURI(td).String()
}

// NotBefore returns the start of a certificate's validity without verifying it:
// the time to Verify one at that has long expired, for records that it covered.
func NotBefore(der []byte) (time.Time, error) {
	cert, err := parse(der, oidEpoch)
	if err != nil {
		return time.Time{}, err
	}
	return cert.NotBefore, nil
}
