package interop

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // SPIRE names certificates by it
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

// pki are the authorities that both servers believe in.
type pki struct {
	pop, devid *authorityKey
	makers     *maker.CA
	// Files for a server's configuration. Stock SPIRE verifies EK certificates
	// without intermediates, so the maker's is among the roots.
	popRoot, devidRoot, makerRoots string

	global, west string   // folders of `bailiwick trust`
	denied       []string // EK hashes that the global policy denies; with any it is strict: no tokens, no x509pop
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	dir := folder(t)
	p := &pki{denied: []string{}, pop: newAuthorityKey(t, "pop CA"), devid: newAuthorityKey(t, "DevID CA")}
	makerDir := filepath.Join(dir, "maker")
	var err error
	p.makers, err = maker.OpenCA(makerDir)
	must(t, err)
	p.popRoot = writePEM(t, dir, "pop.pem", "CERTIFICATE", p.pop.cert.Raw)
	p.devidRoot = writePEM(t, dir, "devid.pem", "CERTIFICATE", p.devid.cert.Raw)
	p.makerRoots = writePEM(t, dir, "makers.pem", "CERTIFICATE", p.makers.Root().Raw, p.makers.Intermediate().Raw)
	p.provision(t, dir)
	return p
}

// authorityKey is somebody's certificate authority.
type authorityKey struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthorityKey(t *testing.T, name string) *authorityKey {
	t.Helper()
	a := &authorityKey{key: newKey(t)}
	tmpl := template(name)
	tmpl.IsCA, tmpl.KeyUsage = true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.key.Public(), a.key)
	must(t, err)
	a.cert, err = x509.ParseCertificate(der)
	must(t, err)
	return a
}

func (a *authorityKey) certify(t *testing.T, name string, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template(name), a.cert, key, a.key)
	must(t, err)
	return der
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // crypto/rand does not fail
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

func newRSA(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	return k
}

// chip is a machine's TPM and our keys in it.
type chip struct {
	soft *maker.SoftTPM
	keys *tpm.Keys
	feed []byte // PKIX
	boot []byte
}

func newChip(t *testing.T, p *pki) *chip {
	t.Helper()
	dir := folder(t)
	soft, err := p.makers.Manufacture(context.Background(), filepath.Join(dir, "tpm"))
	must(t, err)
	t.Cleanup(func() { must(t, soft.Stop()) })
	device, err := tpm.Open(soft.Path())
	must(t, err)
	t.Cleanup(func() { must(t, device.Close()) })
	must(t, os.Mkdir(filepath.Join(dir, "keys"), 0o700))
	c := &chip{soft: soft}
	c.keys, err = tpm.OpenKeys(device, filepath.Join(dir, "keys"))
	must(t, err)
	c.boot, err = os.ReadFile(soft.BootLog())
	must(t, err)
	c.feed, err = x509.MarshalPKIXPublicKey(newKey(t).Public())
	must(t, err)
	return c
}

// ekHash names the machine.
func (c *chip) ekHash() string {
	h := c.keys.EKHash()
	return hex.EncodeToString(h[:])
}

func fingerprint(der []byte) string {
	sum := sha1.Sum(der) //nolint:gosec // as above
	return hex.EncodeToString(sum[:])
}

func writePEM(t *testing.T, dir, name, kind string, blocks ...[]byte) string {
	t.Helper()
	var out []byte
	for _, b := range blocks {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})...)
	}
	path := filepath.Join(dir, name)
	must(t, os.WriteFile(path, out, 0o600))
	return path
}
