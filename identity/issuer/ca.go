package issuer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/identity/internal/root"
)

const (
	// DefaultLifetime is how long an SVID is valid when nobody says.
	DefaultLifetime = time.Hour

	caLifetime  = 5 * 365 * 24 * time.Hour
	maxLifetime = 7 * 24 * time.Hour
	backdate    = 10 * time.Second // forgives clocks a little behind, as SPIRE does

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
	// ErrRootLost means the key of the signing root is in another TPM, or was in this
	// one before it was cleared. Nothing brings it back.
	ErrRootLost = errors.New("signing root is lost with its TPM: go on with the root prepared on another issuer, or publish a new one")
	// ErrRootInTPM means the signing root is in a TPM that this issuer does not use.
	ErrRootInTPM = errors.New("signing root is in a TPM and the issuer uses none: set issuer.root to tpm")
	// ErrNoCA means there is no signing root in the folder.
	ErrNoCA = errors.New("no SVID root")
)

// Device makes P-256 keys that never leave it. A tpm.Device is one.
type Device = root.Device

// CA is a region's signing authorities: a root that signs X509-SVIDs, a key that
// signs JWT-SVIDs, and those that come before and after them in a rotation. It
// signs nothing else, and can be used concurrently.
type CA struct {
	td  spiffeid.TrustDomain
	now atomic.Pointer[authorities]

	mu       sync.Mutex // held while authorities change, files included; guards what follows
	dir      string     // where the keys are; empty: only here
	device   Device     // where new roots are made; nil: on disk
	askAgain time.Time  // of a nested CA: when the upstream may have more to give
}

// NewCA makes a root for td, valid for five years from now, and a JWT key, in
// memory until saved.
func NewCA(td spiffeid.TrustDomain, now time.Time) (*CA, error) { return NewCAIn(nil, td, now) }

// NewCAIn is NewCA with a root, and those that follow it, whose keys are made in d
// and never leave it. JWT keys are in memory and in files all the same. Nil d: no
// device.
func NewCAIn(d Device, td spiffeid.TrustDomain, now time.Time) (*CA, error) {
	if td.IsZero() {
		return nil, fmt.Errorf("%w: trust domain is empty", ErrForeignID)
	}
	first, err := newRoot(d, td, now)
	if err != nil {
		return nil, err
	}
	first.file, first.State = caFile, Active
	key, err := newJWT(now)
	if err != nil {
		return nil, err
	}
	key.State = Active
	ca := &CA{td: td, device: d}
	ca.now.Store(&authorities{sequence: 1, all: []authority{first, key}})
	return ca, nil
}

func newRoot(d Device, td spiffeid.TrustDomain, now time.Time) (authority, error) {
	name := "SVID root of " + td.Name()
	r, err := root.New(name, td.ID().URL(), now, caLifetime)
	if d != nil {
		r, err = root.NewIn(d, name, td.ID().URL(), now, caLifetime)
	}
	if err != nil {
		return authority{}, err
	}
	return newX509(r), nil
}

// LoadCA reads what Save wrote (files of mode 0600), or returns ErrNoCA if there
// is no root. A folder with a root and no JWT key gets one. Other errors name the
// file and the fix.
func LoadCA(dir string) (*CA, error) { return OpenCA(dir, nil) }

// OpenCA is LoadCA for roots that may be in d; those prepared later are made there.
// It returns ErrRootLost where d has no such key, and ErrRootInTPM where a root is in
// a device and d is nil.
func OpenCA(dir string, d Device) (*CA, error) {
	td, all, err := loadState(dir, d)
	switch {
	case errors.Is(err, root.ErrMissing):
		return nil, fmt.Errorf("%w: %w", ErrNoCA, err)
	case errors.Is(err, tpm.ErrOtherTPM):
		return nil, fmt.Errorf("%w: %w", ErrRootLost, err)
	case errors.Is(err, root.ErrDevice):
		return nil, fmt.Errorf("%w: %w", ErrRootInTPM, err)
	case err != nil:
		return nil, err
	}
	ca := &CA{td: td, dir: dir, device: d}
	ca.now.Store(all)
	return ca, ca.Tend(time.Now())
}

// Save writes all authorities to the empty folder dir, and keeps it up to date
// from then on. It never replaces a key.
func (ca *CA) Save(dir string) error {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if err := ca.now.Load().saveState(dir, nil); err != nil {
		return err
	}
	ca.dir = dir
	return nil
}

// Certificate returns the active root's own certificate, for the region's trust
// record.
func (ca *CA) Certificate() *x509.Certificate {
	active, _ := ca.now.Load().in(X509, Active) // there always is one
	return active.Certificate
}

// TrustDomain returns the region the CA is for.
func (ca *CA) TrustDomain() spiffeid.TrustDomain { return ca.td }

// Bundle returns the region's X.509 roots as of now: prepared, active and old
// ones and, of a nested CA, the upstream's.
func (ca *CA) Bundle() *x509bundle.Bundle { return ca.now.Load().bundle(ca.td) }

// GetX509BundleForTrustDomain makes CA an x509bundle.Source.
func (ca *CA) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return ca.Bundle().GetX509BundleForTrustDomain(td)
}

func (a *authorities) bundle(td spiffeid.TrustDomain) *x509bundle.Bundle {
	b := x509bundle.New(td)
	for _, x := range a.of(X509) {
		if !x.Nested {
			b.AddX509Authority(x.Certificate)
		}
	}
	if a.upstream != nil {
		for _, c := range a.upstream.X509Authorities() {
			b.AddX509Authority(c)
		}
	}
	return b
}

// chain returns what goes with a certificate this CA has just signed, itself first.
func (ca *CA) chain(cert *x509.Certificate) []*x509.Certificate {
	out := []*x509.Certificate{cert}
	for _, a := range ca.now.Load().of(X509) {
		if between, ok := a.root.Signed(cert); ok {
			return append(out, between...)
		}
	}
	return out
}

// signer returns the ID of the authority below which a certificate was just signed.
func (ca *CA) signer(cert *x509.Certificate) string {
	for _, a := range ca.now.Load().of(X509) {
		if _, ok := a.root.Signed(cert); ok {
			return a.ID
		}
	}
	return hex.EncodeToString(cert.AuthorityKeyId)
}

// Authorities returns all authorities as of now.
func (ca *CA) Authorities() []Authority {
	var out []Authority
	for _, a := range ca.now.Load().all {
		out = append(out, a.Authority)
	}
	return out
}

// Tend rotates JWT keys as they age: at half of its life the active one gets a
// successor, which takes over at five sixths; what has expired is dropped. X.509
// roots are the operator's, for other regions learn them by a signed record; one in a
// device gets a new intermediate in time.
func (ca *CA) Tend(now time.Time) error {
	active, _ := ca.now.Load().in(X509, Active)
	return errors.Join(ca.tendJWT(now), active.root.Tend(now))
}

func (ca *CA) tendJWT(now time.Time) error {
	for {
		step := ca.now.Load().due(now)
		if step == nil {
			return nil
		}
		if err := ca.change(step); err != nil {
			return err
		}
	}
}

// due returns the next step of the JWT keys' rotation, nil if there is none.
func (a *authorities) due(now time.Time) func(*authorities) (*authorities, error) {
	for _, x := range a.of(JWT) {
		if x.State == Old && !now.Before(x.NotAfter) {
			return func(a *authorities) (*authorities, error) { return a.retire(JWT, x.ID) }
		}
	}
	active, haveActive := a.in(JWT, Active)
	prepared, havePrepared := a.in(JWT, Prepared)
	left := active.NotAfter.Sub(now)
	switch {
	case !havePrepared && (!haveActive || left < JWTKeyLifetime/2):
		return func(a *authorities) (*authorities, error) {
			key, err := newJWT(now)
			if err != nil {
				return nil, err
			}
			return a.prepare(key)
		}
	case havePrepared && !now.Before(prepared.NotAfter):
		return func(a *authorities) (*authorities, error) { return a.retire(JWT, prepared.ID) }
	case havePrepared && (!haveActive || left < JWTKeyLifetime/6):
		return func(a *authorities) (*authorities, error) { return a.activate(JWT, prepared.ID, now) }
	}
	return nil
}

// change makes one step, on disk first.
func (ca *CA) change(step func(*authorities) (*authorities, error)) error {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	before := ca.now.Load()
	after, err := step(before)
	if err != nil {
		return err
	}
	if ca.dir != "" {
		if err := after.saveState(ca.dir, before); err != nil {
			return err
		}
	}
	ca.now.Store(after)
	return nil
}

// Request asks for one X509-SVID.
type Request struct {
	ID       spiffeid.ID      // granted; the CSR may name this one or none
	CSR      []byte           // PKCS #10, DER
	Bound    *ecdsa.PublicKey // if set, the only key that may be certified
	DNSNames []string         // from the entry; those in the CSR are not looked at
	Lifetime time.Duration    // zero: DefaultLifetime; at most a week
	Now      time.Time

	parsed *x509.CertificateRequest // what parseCSR made of CSR, where that was done already
}

// Approved is an SVID that passed every check and is not signed yet. Only Check
// makes one that Issue takes, once.
type Approved struct {
	by   *CA
	leaf atomic.Pointer[root.Leaf]
}

// Check decides whether req may become an SVID. Errors match ErrCSR,
// ErrForeignID or ErrUnboundKey.
func (ca *CA) Check(req Request) (*Approved, error) {
	if req.ID.TrustDomain() != ca.td || req.ID.Path() == "" {
		return nil, fmt.Errorf("%w: %q is no ID in %s", ErrForeignID, req.ID, ca.td)
	}
	if n := len(req.ID.String()); n > maxID {
		return nil, fmt.Errorf("%w: an ID of %d bytes, at most %d", ErrForeignID, n, maxID)
	}
	csr := req.parsed
	if csr == nil {
		var err error
		if csr, err = parseCSR(req.CSR); err != nil {
			return nil, err
		}
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
	key, err := x509.MarshalPKIXPublicKey(csr.PublicKey) // the key, whatever the request's way to write it
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	a := &Approved{by: ca}
	a.leaf.Store(&root.Leaf{
		Subject: svidSubject, Key: key, URI: req.ID.String(), DNSNames: req.DNSNames,
		NotBefore: req.Now.Add(-backdate), NotAfter: req.Now.Add(life),
	})
	return a, nil
}

// Issue signs what Check approved, or returns ErrSpent. The certificate never
// outlives the root.
func (ca *CA) Issue(a *Approved) (*x509.Certificate, error) {
	if a == nil || a.by != ca {
		return nil, ErrSpent
	}
	leaf := a.leaf.Swap(nil)
	if leaf == nil {
		return nil, ErrSpent
	}
	active, _ := ca.now.Load().in(X509, Active)
	der, err := active.root.SignLeaf(*leaf)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// svidSubject is the subject of all SVIDs, as SPIRE's: the name is the URI.
var svidSubject = func() []byte {
	der, err := asn1.Marshal(pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}}.ToRDNSequence())
	if err != nil {
		panic(err) // a constant: always encodes
	}
	return der
}()

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
