package issuer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/bailiwick-mesh/bailiwick/identity/internal/root"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// DefaultLifetime is how long an SVID is valid when nobody says.
	DefaultLifetime = time.Hour

	caLifetime  = 5 * 365 * 24 * time.Hour
	maxLifetime = 7 * 24 * time.Hour
	backdate    = 10 * time.Second // forgives clocks a little behind, as SPIRE does
	caFile      = "svid-root.pem"

	// MaxCSR is the largest certificate request that is looked at, in bytes.
	MaxCSR = 8 << 10
)

var (
	// ErrCSR means the certificate request is malformed, not signed by its own
	// key, of an unusual key type, or names more than it may.
	ErrCSR = errors.New("certificate request refused")
	// ErrForeignID means the request names an ID other than the one granted, or
	// one outside the trust domain.
	ErrForeignID = errors.New("certificate request names another SPIFFE ID than the one granted")
	// ErrUnboundKey means the request's key is not the one that was attested.
	ErrUnboundKey = errors.New("certificate request is not for the attested key")
	// ErrSpent means an approval was used before, or made by another CA.
	ErrSpent = errors.New("approval is already spent, or of another CA: check the request again")
	// ErrNoCA means there is no signing root in the folder.
	ErrNoCA = errors.New("no SVID root")
)

// CA is a region's SVID root. It signs X509-SVIDs and nothing else, and can be
// used concurrently.
type CA struct {
	td   spiffeid.TrustDomain
	root *root.Root
}

// NewCA makes a root for td, valid for five years from now, in memory until
// saved.
func NewCA(td spiffeid.TrustDomain, now time.Time) (*CA, error) {
	if td.IsZero() {
		return nil, fmt.Errorf("%w: trust domain is empty", ErrForeignID)
	}
	r, err := root.New("SVID root of "+td.Name(), td.ID().URL(), now, caLifetime)
	if err != nil {
		return nil, err
	}
	return &CA{td: td, root: r}, nil
}

// LoadCA reads dir/svid-root.pem (mode 0600), or returns ErrNoCA if there is
// none. Other errors name the file and the fix.
func LoadCA(dir string) (*CA, error) {
	r, err := root.Load(filepath.Join(dir, caFile))
	if errors.Is(err, root.ErrMissing) {
		return nil, fmt.Errorf("%w: %w", ErrNoCA, err)
	} else if err != nil {
		return nil, err
	}
	if uris := r.Certificate().URIs; len(uris) == 1 {
		if id, err := spiffeid.FromURI(uris[0]); err == nil && id.Path() == "" {
			return &CA{td: id.TrustDomain(), root: r}, nil
		}
	}
	return nil, fmt.Errorf("%w: %s is not an SVID root", root.ErrDamaged, caFile)
}

// Save writes the root to dir/svid-root.pem. It never replaces a file.
func (ca *CA) Save(dir string) error { return ca.root.Save(filepath.Join(dir, caFile)) }

// Certificate returns the root's own certificate, for the region's trust record.
func (ca *CA) Certificate() *x509.Certificate { return ca.root.Certificate() }

// TrustDomain returns the region the root is for.
func (ca *CA) TrustDomain() spiffeid.TrustDomain { return ca.td }

// Bundle returns the region's X.509 bundle.
func (ca *CA) Bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(ca.td, []*x509.Certificate{ca.Certificate()})
}

// Request asks for one X509-SVID.
type Request struct {
	ID       spiffeid.ID      // granted; the CSR may name this one or none
	CSR      []byte           // PKCS #10, DER
	Bound    *ecdsa.PublicKey // if set, the only key that may be certified
	DNSNames []string         // from the entry; those in the CSR are not looked at
	Lifetime time.Duration    // zero: DefaultLifetime; at most a week
	Now      time.Time
}

// Approved is an SVID that passed every check and is not signed yet. Only Check
// makes one that Issue takes, once.
type Approved struct {
	by   *CA
	tmpl atomic.Pointer[x509.Certificate]
}

// Check decides whether req may become an SVID. Errors match ErrCSR,
// ErrForeignID or ErrUnboundKey.
func (ca *CA) Check(req Request) (*Approved, error) {
	if req.ID.TrustDomain() != ca.td || req.ID.Path() == "" {
		return nil, fmt.Errorf("%w: %q is no ID in %s", ErrForeignID, req.ID, ca.td)
	}
	csr, err := parseCSR(req.CSR)
	if err != nil {
		return nil, err
	}
	if len(csr.URIs) > 1 || len(csr.URIs) == 1 && csr.URIs[0].String() != req.ID.String() {
		return nil, fmt.Errorf("%w: it names %s, granted is %s", ErrForeignID, csr.URIs, req.ID)
	}
	if req.Bound != nil && !req.Bound.Equal(csr.PublicKey) {
		return nil, fmt.Errorf("%w: %s", ErrUnboundKey, req.ID)
	}
	life := req.Lifetime
	if life == 0 {
		life = DefaultLifetime
	}
	if life < 0 || life > maxLifetime {
		return nil, fmt.Errorf("%w: lifetime %s, at most %s", ErrCSR, life, maxLifetime)
	}
	a := &Approved{by: ca}
	a.tmpl.Store(&x509.Certificate{
		Subject:               pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}},
		URIs:                  []*url.URL{req.ID.URL()},
		DNSNames:              req.DNSNames,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		NotBefore:             req.Now.Add(-backdate),
		NotAfter:              req.Now.Add(life),
		PublicKey:             csr.PublicKey,
	})
	return a, nil
}

// Issue signs what Check approved, or returns ErrSpent. The certificate never
// outlives the root.
func (ca *CA) Issue(a *Approved) (*x509.Certificate, error) {
	if a == nil || a.by != ca {
		return nil, ErrSpent
	}
	tmpl := a.tmpl.Swap(nil)
	if tmpl == nil {
		return nil, ErrSpent
	}
	der, err := ca.root.Sign(tmpl, tmpl.PublicKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// parseCSR reads a certificate request, which proves that whoever sent it holds
// the key.
func parseCSR(der []byte) (*x509.CertificateRequest, error) {
	if len(der) > MaxCSR {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrCSR, len(der), MaxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	if err := usualKey(csr.PublicKey); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	return csr, nil
}

// usualKey accepts what SPIRE's agents make: EC P-256 and P-384, RSA 2048 to 4096.
func usualKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
		return fmt.Errorf("key on %s, want P-256 or P-384", k.Params().Name)
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits >= 2048 && bits <= 4096 {
			return nil
		}
		return fmt.Errorf("RSA key of %d bits, want 2048 to 4096", k.N.BitLen())
	}
	return fmt.Errorf("key of type %T, want EC or RSA", key)
}
