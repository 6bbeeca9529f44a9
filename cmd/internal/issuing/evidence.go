package issuing

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// EKVerifier is what an issuer knows of TPMs: whose it accepts, and which ones by
// name.
func EKVerifier(c config.Issuer) (tpm.Verifier, error) {
	roots, err := pool(c.EKRoots)
	if err != nil {
		return tpm.Verifier{}, fmt.Errorf("issuer.ek_roots: %w", err)
	}
	between, err := pool(c.EKIntermediates)
	if err != nil {
		return tpm.Verifier{}, fmt.Errorf("issuer.ek_intermediates: %w", err)
	}
	return tpm.Verifier{Roots: roots, Intermediates: between, AllowEK: hashes(c.EKAllow), DenyEK: hashes(c.EKDeny)}, nil
}

func pool(paths []config.Path) (*x509.CertPool, error) {
	out := x509.NewCertPool()
	for _, path := range paths {
		certs, err := config.Certificates(path)
		if err != nil {
			return nil, err
		}
		for _, cert := range certs {
			out.AddCert(cert)
		}
	}
	return out, nil
}

func hashes(list []config.Hash) map[[32]byte]bool {
	out := map[[32]byte]bool{}
	for _, h := range list {
		out[h] = true
	}
	return out
}

// ProofOfPossession reads a certificate and its key, which a field names.
func ProofOfPossession(field string, p config.X509PoP) (spire.Attester, error) {
	info, err := os.Stat(string(p.Key))
	if err != nil {
		return nil, fmt.Errorf("%s.key: %w", field, err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s.key: %s: %w: its mode is %#o", field, p.Key, keyfile.ErrExposed, mode)
	}
	pair, err := tls.LoadX509KeyPair(string(p.Cert), string(p.Key))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %s and %s: %w", config.ErrPEM, field, p.Cert, p.Key, err)
	}
	return spire.X509PoP{Chain: pair.Certificate, Key: pair.PrivateKey.(crypto.Signer)}, nil // every kind it reads is one
}
