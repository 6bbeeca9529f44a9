package maker

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// CA is the certificate authority of a maker that does not exist: a root and an
// intermediate, both P-256.
type CA struct {
	root, intermediate *x509.Certificate
	key                *ecdsa.PrivateKey // of the intermediate; the root's is not kept
}

// The files of a CA's directory.
const (
	rootFile         = "root.pem"
	intermediateFile = "intermediate.pem"
	keyFile          = "intermediate.key"
)

// ErrCA means the directory of a maker CA is there and damaged. Remove it to make a
// new one; TPMs made under the old one keep their certificates.
var ErrCA = errors.New("maker CA is damaged")

// lifetime of everything issued here. Chips do not expire, nor does a fleet that is
// resumed after years.
const lifetime = 30 * 365 * 24 * time.Hour

// NewCA makes a CA and writes it to dir: root.pem, intermediate.pem and, of mode
// 0600, intermediate.key.
func NewCA(dir string) (*CA, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	rootTemplate := authority("bailiwick software TPM maker root (development only)", 1)
	root, err := issue(rootTemplate, rootTemplate, rootKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	intermediate, err := issue(authority("bailiwick software TPM maker (development only)", 0), root, key.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name, kind string
		der        []byte
		mode       os.FileMode
	}{
		{keyFile, "PRIVATE KEY", der, 0o600},
		{intermediateFile, "CERTIFICATE", intermediate.Raw, 0o644},
		{rootFile, "CERTIFICATE", root.Raw, 0o644}, // last: LoadCA looks for it
	} {
		block := pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der})
		if err := os.WriteFile(filepath.Join(dir, f.name), block, f.mode); err != nil {
			return nil, err
		}
	}
	return &CA{root: root, intermediate: intermediate, key: key}, nil
}

// LoadCA reads a CA that NewCA wrote. The error is fs.ErrNotExist if dir has none,
// and ErrCA if it is damaged.
func LoadCA(dir string) (*CA, error) {
	rootDER, err := readPEM(filepath.Join(dir, rootFile))
	if err != nil {
		return nil, err
	}
	intermediateDER, err := readPEM(filepath.Join(dir, intermediateFile))
	if err != nil {
		return nil, err
	}
	keyDER, err := readPEM(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	root, err1 := x509.ParseCertificate(rootDER)
	intermediate, err2 := x509.ParseCertificate(intermediateDER)
	key, err3 := x509.ParsePKCS8PrivateKey(keyDER)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCA, dir, err)
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok || !signer.PublicKey.Equal(intermediate.PublicKey) {
		return nil, fmt.Errorf("%w: %s: %s is not the key of %s", ErrCA, dir, keyFile, intermediateFile)
	}
	return &CA{root: root, intermediate: intermediate, key: signer}, nil
}

// OpenCA loads the CA in dir, or makes it if there is none.
func OpenCA(dir string) (*CA, error) {
	ca, err := LoadCA(dir)
	if errors.Is(err, os.ErrNotExist) {
		return NewCA(dir)
	}
	return ca, err
}

// Root is the root certificate.
func (ca *CA) Root() *x509.Certificate { return ca.root }

// Intermediate is the certificate that issues EK certificates. Every TPM made here
// carries it too.
func (ca *CA) Intermediate() *x509.Certificate { return ca.intermediate }

// Roots is a pool of the root alone.
func (ca *CA) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.root)
	return pool
}

// The attributes that name a TPM, and the use of its key (TCG EK Credential
// Profile 2.6 §3.2).
var (
	oidSubjectAltName  = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidManufacturer    = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel           = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion         = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
	oidEKCertificate   = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	softwareMaker      = "id:424C574B" // "BLWK", which no vendor has registered
	softwareModel      = "swtpm"
	softwareVersion    = "id:00010000"
	directoryNameTag   = 4 // of GeneralName (RFC 5280 §4.2.1.6)
	certificateBackset = time.Hour
)

// certifyEK issues the certificate of an endorsement key.
func (ca *CA) certifyEK(key crypto.PublicKey) ([]byte, error) {
	name, err := asn1.Marshal(pkix.RDNSequence{
		{{Type: oidManufacturer, Value: softwareMaker}},
		{{Type: oidModel, Value: softwareModel}},
		{{Type: oidVersion, Value: softwareVersion}},
	})
	if err != nil {
		return nil, err
	}
	san, err := asn1.Marshal([]asn1.RawValue{{
		Class: asn1.ClassContextSpecific, Tag: directoryNameTag, IsCompound: true, Bytes: name,
	}})
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		KeyUsage:              x509.KeyUsageKeyEncipherment,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{oidEKCertificate},
		BasicConstraintsValid: true,
		ExtraExtensions:       []pkix.Extension{{Id: oidSubjectAltName, Critical: true, Value: san}},
	}
	cert, err := issue(template, ca.intermediate, key, ca.key)
	if err != nil {
		return nil, err
	}
	return cert.Raw, nil
}

func authority(name string, below int) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            below,
		MaxPathLenZero:        below == 0,
	}
}

func issue(template, parent *x509.Certificate, key crypto.PublicKey, signer *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-certificateBackset)
	template.NotAfter = template.NotBefore.Add(lifetime)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func readPEM(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil || len(rest) != 0 {
		return nil, fmt.Errorf("%w: %s is not one PEM block", ErrCA, path)
	}
	return block.Bytes, nil
}
