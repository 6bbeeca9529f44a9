package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
)

var (
	// ErrKeyMode means others may read the key file. Set its mode to 0600, and
	// ask who could read it so far.
	ErrKeyMode = errors.New("authority key file must have mode 0600")

	// ErrKeyFile means the key file is damaged or holds no P-256 key.
	ErrKeyFile = errors.New("authority key file holds no P-256 key in PKCS #8")
)

const keyFile = "authority.key"

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

// OpenKey reads the key in dir, or makes it, mode 0600, on the first call. dir
// must exist. Errors wrap ErrKeyMode, ErrKeyFile or the file system's.
func OpenKey(dir string) (*Key, error) {
	path := filepath.Join(dir, keyFile)
	k, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		k, err = makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("authority key %s: %w", path, err)
	}
	return k, nil
}

func readKey(path string) (*Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w, not %#o", ErrKeyMode, info.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) != 0 {
		return nil, ErrKeyFile
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, ErrKeyFile // the parser's words may quote the bytes
	}
	secret, ok := any.(*ecdsa.PrivateKey)
	if !ok || secret.Curve != elliptic.P256() {
		return nil, ErrKeyFile
	}
	return &Key{secret}, nil
}

// makeKey writes a new key aside and links it into place, so that a crash
// leaves no half key and an existing one is never replaced.
func makeKey(path string) (*Key, error) {
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), keyFile+".*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return nil, err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return nil, err
	}
	return &Key{secret}, nil
}
