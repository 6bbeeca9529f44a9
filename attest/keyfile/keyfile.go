// Package keyfile keeps signing keys that are not in a TPM: one ECDSA P-256 key
// a file, PKCS #8 in one PEM block "PRIVATE KEY" (RFC 5958, RFC 7468), mode 0600.
//
// What always holds: a key that is there is never replaced, not even when it is
// damaged; a file is whole or not there, also after a power cut; a file that
// others may read is refused, because nobody can say who has.
//
// Package keyfile does not encrypt: who reads the file has the key.
package keyfile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

// maxSize bounds what is read; a P-256 key takes some 240 bytes.
const maxSize = 4096

var (
	// ErrExposed means others may read the file. Set its mode to 0600, find out
	// who could read it so far, and replace the key if anyone did.
	ErrExposed = errors.New("a key file can be read by others: chmod 600 it, and replace the key if anyone did")

	// ErrDamaged means the file holds no P-256 key. Restore it from its backup.
	// Removing it makes a new key, which nobody else knows yet.
	ErrDamaged = errors.New("a key file holds no P-256 key in PKCS #8: restore it from its backup")

	// ErrMissing means a key that had to be there is not. A new one would be of
	// no use: nobody knows it. Name the file that holds the key.
	ErrMissing = errors.New("there is no key file")
)

// Open reads the key at path, making it first where there is none. The folder
// must exist. Errors wrap ErrExposed, ErrDamaged or the file system's, and name
// the file.
func Open(path string) (*ecdsa.PrivateKey, error) {
	key, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = create(path)
	}
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return key, nil
}

// OpenExisting reads the key at path, and makes none. Errors wrap ErrMissing,
// ErrExposed, ErrDamaged or the file system's, and name the file.
func OpenExisting(path string) (*ecdsa.PrivateKey, error) {
	key, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s", ErrMissing, path)
	case err != nil:
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return key, nil
}

func read(path string) (*ecdsa.PrivateKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%w: its mode is %#o", ErrExposed, mode)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSize))
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) != 0 {
		return nil, ErrDamaged
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, ErrDamaged // the parser's own words may quote the bytes
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, ErrDamaged
	}
	return key, nil
}

// create writes a new key, and never replaces what another process has made meanwhile.
func create(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := durable.Create(path, b, 0o600); err != nil {
		return nil, err
	}
	return key, nil
}
