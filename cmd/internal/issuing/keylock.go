package issuing

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ErrKeysInUse means another process issues with the same issuer.keys.
var ErrKeysInUse = errors.New("issuer.keys is in use by another process: give each issuer a folder of its own")

// keyLock is held while an issuer runs: two would overwrite each other's
// authorities.json. A process that dies lets go of it.
const keyLock = "lock" // in issuer.keys

// lockKeys makes the folder if there is none, and locks it until the file is closed.
func lockKeys(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("issuer.keys: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, keyLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("issuer.keys: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("%w: %s", ErrKeysInUse, dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
