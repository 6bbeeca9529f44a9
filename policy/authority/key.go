package authority

import (
	"crypto"
	"crypto/ecdsa"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
)

const keyName = "authority.key"

// Key is the signing key of a region's authority. No format verb and no logger
// prints it.
type Key struct{ secret *ecdsa.PrivateKey }

// Format writes a placeholder for every verb.
func (*Key) Format(f fmt.State, _ rune) { io.WriteString(f, "authority.Key(redacted)") }

// LogValue keeps the key out of structured logs.
func (*Key) LogValue() slog.Value { return slog.StringValue("authority.Key(redacted)") }

// MarshalText keeps the key out of JSON and YAML.
func (*Key) MarshalText() ([]byte, error) { return []byte("authority.Key(redacted)"), nil }

// Public returns the key that the region's trust record names.
func (k *Key) Public() *ecdsa.PublicKey { return &k.secret.PublicKey }

// Signer lets the issuer beside the authority sign endorsements in its name. It
// prints as little as the key.
func (k *Key) Signer() crypto.Signer { return signer{k} }

// signer hides the key from printing and from type assertions.
type signer struct{ *Key }

func (s signer) Public() crypto.PublicKey { return s.Key.Public() }

func (s signer) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.secret.Sign(rand, digest, opts)
}

// OpenKey reads the key in dir, or makes it on the first call. dir must exist.
// Errors wrap those of package keyfile.
func OpenKey(dir string) (*Key, error) {
	secret, err := keyfile.Open(filepath.Join(dir, keyName))
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	return &Key{secret}, nil
}
