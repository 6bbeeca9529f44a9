// Package cache keeps what a node must have to work after a reboot with no
// issuer in reach: SVIDs with their keys, trust records, entries and epoch
// certificates, encrypted, in one file.
//
// It is a package of its own, and not part of workloadapi, because the node's
// own identity and epoch certificates are in it too, and because the key file it
// makes is also what other stores of the node derive their keys from
// ([Cache.Derive]).
//
// # Files
//
//	cache.key   32 random bytes, mode 0600, made on first use; or
//	cache.key.sealed   the same, sealed to the machine's TPM (OpenSealed)
//	cache.bin   "bailiwick-cache" | version(1) = 1 | nonce(12) | AES-256-GCM of the contents
//
// The contents are [Contents] as deterministic CBOR (package statement); the 16
// bytes before the nonce are authenticated with them. The AES key is HKDF-SHA256
// (RFC 5869) of the key file, so the file itself encrypts nothing.
//
// # What always holds
//
//   - Save replaces the whole or nothing: temporary file, fsync, rename, fsync of
//     the folder. When it returns nil the new contents survive a power cut.
//   - Load returns exactly what one Save wrote, or an error of this package. A
//     truncated, changed or oversized file is [ErrDamaged], never a crash, and is
//     left where it is; SetAside moves it out of the way.
//   - Keys never show: [Key] prints as "redacted" in every format.
//
// # What it does not do
//
// It does not say whether what it returns is still valid: certificates carry
// their own end. It does not notice an older cache.bin put back in place (the
// TPM's counters do that for feeds). Who can read the key file can read the
// cache; with a sealed one, who can use the machine's TPM.
package cache

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// Errors of this package. Each is one cause an operator can act on.
var (
	// ErrNone means nothing was saved yet.
	ErrNone = errors.New("no identity cache yet")
	// ErrDamaged means cache.bin is not what this node wrote last.
	ErrDamaged = errors.New("identity cache is damaged or belongs to another key file: move it away; the node enrols again when an issuer can be reached")
	// ErrVersion means cache.bin was written by a newer version.
	ErrVersion = errors.New("identity cache was written by a newer version: upgrade, or move it away to enrol again")
	// ErrKey means cache.key is not 32 bytes in a regular file.
	ErrKey = errors.New("key file of the identity cache is not usable: restore it from backup, or move it and the cache away to enrol again")
	// ErrKeyExposed means others than its owner may read cache.key.
	ErrKeyExposed = errors.New("key file of the identity cache is open to others: chmod 600 it, and if they may have read it, move it and the cache away to enrol again")
	// ErrKeyMissing means there is a cache.bin and no key for it.
	ErrKeyMissing = errors.New("key file of the identity cache is missing: restore it, or move the cache away to enrol again")
	// ErrTooLarge means the contents are over MaxSize.
	ErrTooLarge = errors.New("identity cache would be too large: this node has too many entries")
)

// MaxSize bounds cache.bin, in bytes. A workload takes about 1.5 KiB.
const MaxSize = 16 << 20

const (
	magic   = "bailiwick-cache"
	version = 1
	keySize = 32
)

// Cache is one folder's cache. Its methods may be called concurrently; two
// processes must not share a folder.
type Cache struct {
	dir    string
	master [keySize]byte
	aead   cipher.AEAD
	mu     sync.Mutex // held during file operations
}

// Open opens the cache in dir, which must exist, and makes the key file where
// there is none. It does not read the contents. Errors: ErrKey, ErrKeyExposed,
// ErrKeyMissing, or the file system's.
func Open(dir string) (*Cache, error) {
	c := &Cache{dir: dir}
	if err := c.loadKey(); err != nil {
		return nil, err
	}
	return c, c.prepare()
}

// prepare makes the cipher of the contents once the key is known.
func (c *Cache) prepare() error {
	key := c.Derive("identity cache")
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return err
	}
	c.aead, err = cipher.NewGCM(block)
	return err
}

func (c *Cache) keyPath() string { return filepath.Join(c.dir, "cache.key") }

// Path returns the path of the encrypted file.
func (c *Cache) Path() string { return filepath.Join(c.dir, "cache.bin") }

// Derive returns a key for another purpose, named by label, from the same key
// file (RFC 5869, SHA-256). The same label gives the same key for as long as the
// key file lives.
func (c *Cache) Derive(label string) (key [32]byte) {
	b, err := hkdf.Key(sha256.New, c.master[:], nil, "bailiwick "+label, len(key))
	if err != nil {
		panic(err) // only lengths over 8160 bytes fail
	}
	return [32]byte(b)
}

func (c *Cache) loadKey() error {
	b, err := readKey(c.keyPath())
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(c.Path()); err == nil {
			return fmt.Errorf("%s: %w", c.keyPath(), ErrKeyMissing)
		}
		if err := c.makeKey(); err != nil {
			return fmt.Errorf("make key file of the identity cache: %w", err)
		}
		b, err = readKey(c.keyPath())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.keyPath(), err)
	}
	c.master = [keySize]byte(b)
	return nil
}

func readKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() != keySize:
		return nil, fmt.Errorf("%w (%s, %d bytes)", ErrKey, info.Mode(), info.Size())
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%w (mode %04o)", ErrKeyExposed, info.Mode().Perm())
	}
	b := make([]byte, keySize)
	_, err = io.ReadFull(f, b)
	return b, err
}

// makeKey never replaces a key: link fails where the name is taken, and what is
// linked is complete and on disk.
func (c *Cache) makeKey() error {
	var key [keySize]byte
	_, _ = rand.Read(key[:]) // never fails (crypto/rand)
	tmp := c.keyPath() + ".tmp"
	if err := writeSynced(tmp, key[:]); err != nil {
		return err
	}
	defer os.Remove(tmp)
	if err := os.Link(tmp, c.keyPath()); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(c.dir)
}

// Save replaces the contents, with now as the time they are from.
func (c *Cache) Save(contents Contents, now time.Time) error {
	contents.SavedAt = now.Unix()
	plain, err := statement.Marshal(contents)
	if err != nil {
		return err
	}
	head := append([]byte(magic), version)
	size := len(head) + c.aead.NonceSize() + len(plain) + c.aead.Overhead()
	if size > MaxSize {
		return fmt.Errorf("%w: %d bytes of at most %d", ErrTooLarge, size, MaxSize)
	}
	nonce := make([]byte, c.aead.NonceSize())
	_, _ = rand.Read(nonce)
	out := append(append(make([]byte, 0, size), head...), nonce...)
	out = c.aead.Seal(out, nonce, plain, head)

	c.mu.Lock()
	defer c.mu.Unlock()
	tmp := c.Path() + ".tmp"
	if err := writeSynced(tmp, out); err != nil {
		return errors.Join(fmt.Errorf("save identity cache: %w", err), os.Remove(tmp))
	}
	if err := os.Rename(tmp, c.Path()); err != nil {
		return fmt.Errorf("save identity cache: %w", err)
	}
	return durable.SyncDir(c.dir)
}

// Load returns what was saved last. Errors: ErrNone, ErrDamaged, ErrVersion, or
// the file system's.
func (c *Cache) Load() (Contents, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, err := os.Open(c.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return Contents{}, fmt.Errorf("%s: %w", c.Path(), ErrNone)
	}
	if err != nil {
		return Contents{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return Contents{}, fmt.Errorf("load identity cache: %w", err)
	}
	contents, err := c.decode(b)
	if err != nil {
		return Contents{}, fmt.Errorf("%s: %w", c.Path(), err)
	}
	return contents, nil
}

func (c *Cache) decode(b []byte) (Contents, error) {
	head := len(magic) + 1
	switch {
	case len(b) > MaxSize:
		return Contents{}, fmt.Errorf("%w: over %d bytes", ErrDamaged, MaxSize)
	case len(b) < head+c.aead.NonceSize()+c.aead.Overhead():
		return Contents{}, fmt.Errorf("%w: %d bytes", ErrDamaged, len(b))
	case string(b[:len(magic)]) != magic:
		return Contents{}, fmt.Errorf("%w: it begins with %x", ErrDamaged, b[:len(magic)])
	case b[len(magic)] > version:
		return Contents{}, fmt.Errorf("%w: version %d, this is %d", ErrVersion, b[len(magic)], version)
	}
	nonce := b[head : head+c.aead.NonceSize()]
	plain, err := c.aead.Open(nil, nonce, b[head+len(nonce):], b[:head])
	if err != nil {
		return Contents{}, fmt.Errorf("%w: authentication failed", ErrDamaged)
	}
	var contents Contents
	if err := statement.Unmarshal(plain, &contents); err != nil {
		return Contents{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return contents, nil
}

// SetAside renames cache.bin, so that nothing is lost and the next Load says
// ErrNone. It returns the new name.
func (c *Cache) SetAside(now time.Time) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	to := c.Path() + ".damaged-" + now.UTC().Format("20060102T150405Z")
	if err := os.Rename(c.Path(), to); err != nil {
		return "", err
	}
	return to, durable.SyncDir(c.dir)
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
