package cache

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

// Sealer wraps a secret so that only this machine opens it again, as a TPM does.
type Sealer interface {
	Seal(secret []byte) ([]byte, error)
	Unseal(sealed []byte) ([]byte, error)
}

// ErrUnsealed means the sealed key file cannot be opened on this machine. Nothing
// is lost that an enrolment does not bring back: SetAsideSealed, and open again.
var ErrUnsealed = errors.New("the sealed key of the identity cache cannot be opened: the TPM was cleared or is another one; the cache is set aside and the node enrols again")

const maxSealed = 8 << 10 // bytes

func sealedPath(dir string) string { return filepath.Join(dir, "cache.key.sealed") }

// IsSealed reports whether the cache in dir has a sealed key.
func IsSealed(dir string) bool {
	_, err := os.Lstat(sealedPath(dir))
	return err == nil
}

// OpenSealed is Open with the key sealed: a plain key file is sealed and removed,
// and where there is none, a new key is made. Errors are ErrUnsealed, those of
// Open, those of by.Seal (then nothing has changed), or the file system's.
func OpenSealed(dir string, by Sealer) (*Cache, error) {
	c := &Cache{dir: dir}
	var err error
	if IsSealed(dir) {
		err = c.unseal(by)
	} else {
		err = c.seal(by)
	}
	if err != nil {
		return nil, err
	}
	// After a crash between the two, both files hold the same key.
	if err := os.Remove(c.keyPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return c, c.prepare()
}

func (c *Cache) unseal(by Sealer) error {
	f, err := os.Open(sealedPath(c.dir))
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSealed))
	if err != nil {
		return err
	}
	key, err := by.Unseal(b)
	if err == nil && len(key) != keySize {
		err = fmt.Errorf("%d bytes", len(key))
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %w", f.Name(), ErrUnsealed, err)
	}
	c.master = [keySize]byte(key)
	return nil
}

// seal writes the sealed key file, checked before the plain one goes.
func (c *Cache) seal(by Sealer) error {
	key, err := readKey(c.keyPath())
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(c.Path()); err == nil {
			return fmt.Errorf("%s: %w", c.keyPath(), ErrKeyMissing)
		}
		key = make([]byte, keySize)
		_, _ = rand.Read(key) // never fails
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.keyPath(), err)
	}
	sealed, err := by.Seal(key)
	if err != nil {
		return fmt.Errorf("seal the key of the identity cache: %w", err)
	}
	if again, err := by.Unseal(sealed); err != nil || !bytes.Equal(again, key) {
		return fmt.Errorf("seal the key of the identity cache: it does not open again: %w", errors.Join(ErrUnsealed, err))
	}
	tmp := sealedPath(c.dir) + ".tmp"
	if err := writeSynced(tmp, sealed); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, sealedPath(c.dir)); err != nil {
		return err
	}
	c.master = [keySize]byte(key)
	return durable.SyncDir(c.dir)
}

// SetAsideSealed renames a sealed key that cannot be opened, and the cache it is
// for, so that the next Open begins anew. It returns the key's new name.
func SetAsideSealed(dir string, now time.Time) (string, error) {
	suffix := ".unusable-" + now.UTC().Format("20060102T150405Z")
	c := &Cache{dir: dir}
	if err := os.Rename(c.Path(), c.Path()+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	to := sealedPath(dir) + suffix
	if err := os.Rename(sealedPath(dir), to); err != nil {
		return "", err
	}
	return to, durable.SyncDir(dir)
}
