// Package root is a signing root on disk: a P-256 key and its certificate,
// together in one file so that one rename replaces both. The certificate signs
// itself or, for a root nested below another authority, is followed by those
// that lead up to that authority.
//
// The file is PEM: a PRIVATE KEY block (PKCS #8), then CERTIFICATE blocks, the
// root's own first. Its mode is 0600; Load refuses one that others may read. Save
// never replaces a file: a root that vanished because a tool ran twice would take
// a region with it.
//
// A root signs what it is given ([Root.Sign]); what may be signed is decided by
// its owners, identity/issuer (SVIDs) and identity/epoch (records). The key
// never leaves this package.
//
// # In a device
//
// The key may be in a device that does not give it away, a TPM ([Device]). The file
// then begins with a DEVICE KEY block, what the device needs to load it again and of
// no use anywhere else. Devices are slow, so such a root signs nothing but an
// intermediate of a day, whose key is in memory and in no file, and that signs the
// rest. [Root.Tend] replaces it at half of its life.
package root

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

var (
	// ErrMissing means there is no root file at the path.
	ErrMissing = errors.New("no signing root here: create one, or restore it from its backup")
	// ErrDamaged means the file is not a root, or its key and certificate do not
	// belong together.
	ErrDamaged = errors.New("signing root is damaged: restore it from its backup")
	// ErrExposed means others may read the file.
	ErrExposed = errors.New("signing root can be read by others: chmod 600 it, and replace it if anyone did")
	// ErrExists means Save would replace a root.
	ErrExists = errors.New("a signing root is there already: move it away first if it should be replaced")
	// ErrDevice means the root's key is in a device, and none is at hand.
	ErrDevice = errors.New("signing root is in a TPM, and this node uses none: check issuer.root and tpm.mode")
	// ErrOutlived means the root is not valid at the time of signing.
	ErrOutlived = errors.New("signing root is outside its validity: rotate it")
)

const maxFile = 64 << 10

// Root is a key that signs certificates, and its own certificate. It can be
// used concurrently. The zero value signs nothing.
type Root struct {
	cert    *x509.Certificate
	above   []*x509.Certificate // between cert and the trust anchor, which is not in it
	key     crypto.Signer       // *ecdsa.PrivateKey unless in a device
	wrapped []byte              // for the device it is in; nil: in none
	lower   lower
}

// New makes a root that is valid from 10 seconds before now for life. The random serial number in the subject gives
// each root a subject of its own: verifiers try all roots of one subject.
func New(name string, uri *url.URL, now time.Time, life time.Duration) (*Root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return selfSigned(name, uri, now, life, key)
}

func selfSigned(name string, uri *url.URL, now time.Time, life time.Duration, key crypto.Signer) (*Root, error) {
	number, err := serial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          number,
		Subject:               pkix.Name{Organization: []string{"bailiwick"}, CommonName: name, SerialNumber: number.Text(16)},
		NotBefore:             now.Add(-10 * time.Second),
		NotAfter:              now.Add(life),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                  []*url.URL{uri},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Root{cert: cert, key: key}, nil
}

// NewBelow makes a key and has ask certify it as an authority: ask gets a PKCS #10
// request that names uri, and returns the certificate and those above it, without
// the trust anchor.
func NewBelow(uri *url.URL, ask func(csr []byte) ([]*x509.Certificate, error)) (*Root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		return nil, err
	}
	chain, err := ask(csr)
	if err != nil {
		return nil, err
	}
	if len(chain) == 0 || !chain[0].IsCA || !key.PublicKey.Equal(chain[0].PublicKey) {
		return nil, errors.New("what came back is no authority certificate for the key")
	}
	return &Root{cert: chain[0], above: chain[1:], key: key}, nil
}

// Certificate returns the root's own certificate. The caller must not change it.
func (r *Root) Certificate() *x509.Certificate { return r.cert }

// Above returns the certificates between the root's own and the trust anchor;
// none for one that is its own anchor. The caller must not change them.
func (r *Root) Above() []*x509.Certificate { return r.above }

// NotAfter is when the root ends, or one above it that ends before.
func (r *Root) NotAfter() time.Time {
	end := r.cert.NotAfter
	for _, c := range r.above {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// Nested reports whether another authority certified the root.
func (r *Root) Nested() bool { return !bytes.Equal(r.cert.RawIssuer, r.cert.RawSubject) }

// Sign gives tmpl a random 127-bit serial number, cuts its validity to that of
// the root, and signs it for pub. It returns DER, or ErrOutlived when nothing
// of the validity is left. Of a root in a device its intermediate signs, and cuts;
// the error may then be the device's.
func (r *Root) Sign(tmpl *x509.Certificate, pub crypto.PublicKey) ([]byte, error) {
	if r.wrapped == nil {
		return r.sign(tmpl, pub)
	}
	by, err := r.intermediate(tmpl.NotBefore)
	if err != nil {
		return nil, err
	}
	return by.sign(tmpl, pub)
}

func (r *Root) sign(tmpl *x509.Certificate, pub crypto.PublicKey) ([]byte, error) {
	number, err := serial()
	if err != nil {
		return nil, err
	}
	t := *tmpl
	t.SerialNumber = number
	if t.NotBefore, t.NotAfter, err = r.within(t.NotBefore, t.NotAfter); err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, &t, r.cert, pub, r.key)
}

// Save writes the root to a new file at path, durably.
func (r *Root) Save(path string) error {
	first := &pem.Block{Type: deviceBlock, Bytes: r.wrapped}
	if r.wrapped == nil {
		key, err := x509.MarshalPKCS8PrivateKey(r.key)
		if err != nil {
			return err
		}
		first = &pem.Block{Type: keyBlock, Bytes: key}
	}
	var b bytes.Buffer
	pem.Encode(&b, first) // writes to memory: cannot fail
	for _, c := range append([]*x509.Certificate{r.cert}, r.above...) {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return WriteNew(path, b.Bytes())
}

// WriteNew writes a secret to a new file of mode 0600, durably, or returns
// ErrExists.
func WriteNew(path string, secret []byte) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%w: %s", ErrExists, path)
	}
	return saved(durable.Create(path, secret, 0o600)) // never replaces what another process made meanwhile
}

// Replace writes a file of mode 0600 in place of the one at path, durably.
func Replace(path string, b []byte) error { return saved(durable.Replace(path, b, 0o600)) }

func saved(err error) error {
	if err != nil {
		return fmt.Errorf("save signing root: %w", err)
	}
	return nil
}

// Load reads a root, or returns ErrMissing, ErrExposed, ErrDamaged or, for one in a
// device, ErrDevice.
func Load(path string) (*Root, error) { return Open(path, nil) }

// Open is Load that may find the key in d. The error may be d's as well. Nil d: no
// device.
func Open(path string, d Device) (*Root, error) {
	b, err := Read(path)
	if err != nil {
		return nil, err
	}
	r, err := parse(b, d)
	if errors.Is(err, errInDevice) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	return r, nil
}

// Read reads a file that nobody else may read, or returns ErrMissing, ErrExposed
// or, for one that is too large, ErrDamaged.
func Read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrMissing, path)
	} else if err != nil {
		return nil, fmt.Errorf("load signing root: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %#o", ErrExposed, path, info.Mode().Perm())
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrDamaged, path, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load signing root: %w", err)
	}
	return b, nil
}

func parse(b []byte, d Device) (*Root, error) {
	first, rest := pem.Decode(b)
	if first == nil || first.Type != keyBlock && first.Type != deviceBlock {
		return nil, errLayout
	}
	var certs []*x509.Certificate
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, errLayout
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errLayout
	}
	r := &Root{cert: certs[0], above: certs[1:]}
	var err error
	if first.Type == deviceBlock {
		r.wrapped = first.Bytes
		r.key, err = openIn(d, r.wrapped)
	} else {
		r.key, err = parseKey(first.Bytes)
	}
	if err != nil {
		return nil, err
	}
	if pub, ok := r.key.Public().(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P256() || !pub.Equal(certs[0].PublicKey) {
		return nil, errors.New("the key is not the P-256 key of the certificate")
	}
	return r, nil
}

func parseKey(der []byte) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T does not sign", key)
	}
	return signer, nil
}

// The first block of a file.
const (
	keyBlock    = "PRIVATE KEY"
	deviceBlock = "DEVICE KEY"
)

var errLayout = errors.New("want one PRIVATE KEY or DEVICE KEY block, then CERTIFICATE blocks")

func serial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return n.Add(n, big.NewInt(1)), nil // RFC 5280 §4.1.2.2: positive
}
