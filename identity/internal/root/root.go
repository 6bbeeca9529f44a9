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
	"path/filepath"
	"time"
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
	// ErrOutlived means the root is not valid at the time of signing.
	ErrOutlived = errors.New("signing root is outside its validity: rotate it")
)

const maxFile = 64 << 10

// Root is a key that signs certificates, and its own certificate. It can be
// used concurrently. The zero value signs nothing.
type Root struct {
	cert  *x509.Certificate
	above []*x509.Certificate // between cert and the trust anchor, which is not in it
	key   *ecdsa.PrivateKey
}

// New makes a root that is valid from 10 seconds before now for life. The random serial number in the subject gives
// each root a subject of its own: verifiers try all roots of one subject.
func New(name string, uri *url.URL, now time.Time, life time.Duration) (*Root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
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
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
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
// of the validity is left.
func (r *Root) Sign(tmpl *x509.Certificate, pub crypto.PublicKey) ([]byte, error) {
	number, err := serial()
	if err != nil {
		return nil, err
	}
	t := *tmpl
	t.SerialNumber = number
	if t.NotBefore.Before(r.cert.NotBefore) {
		t.NotBefore = r.cert.NotBefore
	}
	if end := r.NotAfter(); t.NotAfter.After(end) {
		t.NotAfter = end
	}
	if !t.NotBefore.Before(t.NotAfter) {
		return nil, fmt.Errorf("%w: valid %s to %s", ErrOutlived, r.cert.NotBefore.Format(time.RFC3339), r.NotAfter().Format(time.RFC3339))
	}
	return x509.CreateCertificate(rand.Reader, &t, r.cert, pub, r.key)
}

// Save writes the root to a new file at path, durably.
func (r *Root) Save(path string) error {
	key, err := x509.MarshalPKCS8PrivateKey(r.key)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: key}) // writes to memory: cannot fail
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
	return write(path, secret, os.Link) // unlike a rename, never replaces
}

// Replace writes a file of mode 0600 in place of the one at path, durably.
func Replace(path string, b []byte) error { return write(path, b, os.Rename) }

func write(path string, b []byte, place func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".root-*") // mode 0600
	if err != nil {
		return fmt.Errorf("save signing root: %w", err)
	}
	defer os.Remove(f.Name()) // the file is at path by then, or is wanted nowhere
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("save signing root: %w", err)
	}
	if err := place(f.Name(), path); err != nil {
		return fmt.Errorf("save signing root: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// Load reads a root, or returns ErrMissing, ErrExposed or ErrDamaged.
func Load(path string) (*Root, error) {
	b, err := Read(path)
	if err != nil {
		return nil, err
	}
	r, err := parse(b)
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

func parse(b []byte) (*Root, error) {
	keyBlock, rest := pem.Decode(b)
	if keyBlock == nil || keyBlock.Type != "PRIVATE KEY" {
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
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() || !ec.PublicKey.Equal(certs[0].PublicKey) {
		return nil, errors.New("the key is not the P-256 key of the certificate")
	}
	return &Root{cert: certs[0], above: certs[1:], key: ec}, nil
}

var errLayout = errors.New("want one PRIVATE KEY block, then CERTIFICATE blocks")

func serial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return n.Add(n, big.NewInt(1)), nil // RFC 5280 §4.1.2.2: positive
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
