package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

var (
	// ErrPEM means a PEM file does not hold what the configuration says.
	ErrPEM = errors.New("a PEM file does not hold what is wanted of it")
	// ErrFile means a file that the configuration names cannot be read.
	ErrFile = errors.New("a file that the configuration names cannot be read: check the path and who may read it")
)

// ReadFile reads a file that a field of the configuration names. Errors: ErrFile.
func ReadFile(field, path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFile, field, err)
	}
	return b, nil
}

// PublicKeys reads P-256 public keys, one of each PEM file. field names what says the files, in errors.
// A certificate is refused: nobody would look at its end. Errors: ErrFile, ErrPEM.
func PublicKeys(field string, paths ...string) (out []*ecdsa.PublicKey, err error) {
	for _, path := range paths {
		b, err := ReadFile(field, path)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(b)
		switch {
		case block == nil:
			return nil, fmt.Errorf("%w: %s: %s: no public key", ErrPEM, field, path)
		case block.Type == "CERTIFICATE":
			return nil, fmt.Errorf("%w: %s: %s: a certificate, whose end nobody would look at: give the public key in it (openssl x509 -noout -pubkey)", ErrPEM, field, path)
		case block.Type != "PUBLIC KEY":
			return nil, fmt.Errorf("%w: %s: %s: %s, want a PUBLIC KEY", ErrPEM, field, path, block.Type)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %s: %w", ErrPEM, field, path, err)
		}
		pub, ok := key.(*ecdsa.PublicKey)
		if !ok || pub.Curve != elliptic.P256() {
			return nil, fmt.Errorf("%w: %s: %s: want a P-256 key", ErrPEM, field, path)
		}
		out = append(out, pub)
	}
	return out, nil
}

// Certificates reads all certificates of a PEM file, at least one. Errors: ErrFile, ErrPEM.
func Certificates(file Path) (out []*x509.Certificate, err error) {
	path := string(file)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%w: %s: %s, want certificates", ErrPEM, path, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrPEM, path, err)
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %s: no certificate", ErrPEM, path)
	}
	return out, nil
}
