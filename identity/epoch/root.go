package epoch

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/internal/root"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// DefaultLifetime is how long an epoch certificate is valid when the request
	// does not say.
	DefaultLifetime = 7 * 24 * time.Hour
	// MaxLifetime is the longest that may be asked for.
	MaxLifetime = 30 * 24 * time.Hour

	rootLifetime      = 10 * 365 * 24 * time.Hour
	authorityLifetime = 365 * 24 * time.Hour

	// backdate forgives clocks that are a little behind, as SPIRE does.
	backdate = 10 * time.Second

	rootFile = "record-root.pem"
)

var (
	// ErrRequest means the request asks for something no epoch certificate may
	// say. The message names the field.
	ErrRequest = errors.New("epoch certificate request refused")
	// ErrSpent means an approval was used before, or made by another root.
	ErrSpent = errors.New("approval is already spent, or of another root: check the request again")
	// ErrNoRoot means there is no record root in the folder.
	ErrNoRoot = errors.New("no record root")
)

// Root is a region's record root: it signs epoch and authority certificates and
// nothing else. It can be used concurrently.
type Root struct {
	td   spiffeid.TrustDomain
	root *root.Root
}

// NewRoot makes a record root for trust domain td, valid for ten years from
// now. It exists in memory only until saved.
func NewRoot(td spiffeid.TrustDomain, now time.Time) (*Root, error) {
	if td.IsZero() {
		return nil, fmt.Errorf("%w: trust domain is empty", ErrRequest)
	}
	r, err := root.New("record root of "+td.Name(), rootURI(td), now, rootLifetime)
	if err != nil {
		return nil, err
	}
	return &Root{td: td, root: r}, nil
}

// LoadRoot reads dir/record-root.pem (mode 0600), or returns ErrNoRoot if there
// is none. Other errors name the file and the fix.
func LoadRoot(dir string) (*Root, error) {
	r, err := root.Load(filepath.Join(dir, rootFile))
	if errors.Is(err, root.ErrMissing) {
		return nil, fmt.Errorf("%w: %w", ErrNoRoot, err)
	} else if err != nil {
		return nil, err
	}
	cert := r.Certificate()
	if len(cert.URIs) != 1 {
		return nil, fmt.Errorf("%w: %s is not a record root", root.ErrDamaged, rootFile)
	}
	td, err := spiffeid.TrustDomainFromString(cert.URIs[0].Host)
	if err != nil || !IsRoot(cert, td) {
		return nil, fmt.Errorf("%w: %s is not a record root: %s", root.ErrDamaged, rootFile, cert.URIs[0])
	}
	return &Root{td: td, root: r}, nil
}

// Save writes the root to dir/record-root.pem. It never replaces a file.
func (r *Root) Save(dir string) error { return r.root.Save(filepath.Join(dir, rootFile)) }

// Certificate returns the root's own certificate, for the region's trust record.
func (r *Root) Certificate() *x509.Certificate { return r.root.Certificate() }

// TrustDomain returns the region the root is for.
func (r *Root) TrustDomain() spiffeid.TrustDomain { return r.td }

// Request asks for one epoch certificate.
type Request struct {
	ID       spiffeid.ID      // a node of the root's trust domain
	Epoch    uint64           // from 1, allocated by the region's authority
	Class    string           // one of Classes
	Key      *ecdsa.PublicKey // P-256, the attested feed key
	PrevHead []byte           // 32 bytes, or empty
	Lifetime time.Duration    // zero: DefaultLifetime; at most MaxLifetime
	Now      time.Time        // time of issuance
}

// Approved is a certificate that passed every check and is not signed yet. Only
// Check makes one that Issue takes, once.
type Approved struct {
	by   *Root
	tmpl atomic.Pointer[x509.Certificate]
}

// Check decides whether req may become a certificate, or returns ErrRequest.
func (r *Root) Check(req Request) (*Approved, error) {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrRequest, fmt.Sprintf(format, args...))
	}
	if _, err := identity.ParseNode(req.ID); err != nil {
		return nil, refuse("id: %v", err)
	}
	life := req.Lifetime
	if life == 0 {
		life = DefaultLifetime
	}
	switch {
	case req.ID.TrustDomain() != r.td:
		return nil, refuse("id: %s is not in %s", req.ID, r.td)
	case req.Epoch == 0:
		return nil, refuse("epoch: 0 is never allocated")
	case !slices.Contains(Classes, req.Class):
		return nil, refuse("class: %q, want one of %q", req.Class, Classes)
	case req.Key == nil || req.Key.Curve != elliptic.P256():
		return nil, refuse("key: want P-256")
	case len(req.PrevHead) != 0 && len(req.PrevHead) != 32:
		return nil, refuse("previous head: %d bytes, want 32 or none", len(req.PrevHead))
	case life < 0 || life > MaxLifetime:
		return nil, refuse("lifetime: %s, at most %s", life, MaxLifetime)
	case outside(r.root.Certificate(), req.Now):
		return nil, fmt.Errorf("%w: record root of %s", root.ErrOutlived, r.td)
	}
	ext, err := statement.Marshal(extension{Epoch: req.Epoch, Class: req.Class, PrevHead: req.PrevHead})
	if err != nil {
		return nil, err
	}
	a := &Approved{by: r}
	tmpl := leaf(uri(req.ID, req.Epoch), oidEpoch, req.Key, req.Now, life)
	tmpl.ExtraExtensions = []pkix.Extension{{Id: oidExtension, Critical: true, Value: ext}}
	a.tmpl.Store(tmpl)
	return a, nil
}

// Issue signs what Check approved and returns DER, or ErrSpent.
func (r *Root) Issue(a *Approved) ([]byte, error) {
	if a == nil || a.by != r {
		return nil, ErrSpent
	}
	tmpl := a.tmpl.Swap(nil)
	if tmpl == nil {
		return nil, ErrSpent
	}
	return r.root.Sign(tmpl, tmpl.PublicKey)
}

// IssueAuthority certifies pub, P-256, as the key of the region's authority for
// a year from now, and returns DER.
func (r *Root) IssueAuthority(pub *ecdsa.PublicKey, now time.Time) ([]byte, error) {
	if pub == nil || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: authority key: want P-256", ErrRequest)
	}
	return r.root.Sign(leaf(authorityURI(r.td), oidAuthority, pub, now, authorityLifetime), pub)
}

func leaf(san *url.URL, eku asn1.ObjectIdentifier, pub *ecdsa.PublicKey, now time.Time, life time.Duration) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"bailiwick"}},
		URIs:                  []*url.URL{san},
		KeyUsage:              x509.KeyUsageDigitalSignature,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{eku},
		BasicConstraintsValid: true,
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(life),
		PublicKey:             pub,
	}
}
