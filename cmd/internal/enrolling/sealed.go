package enrolling

import (
	"errors"
	"log/slog"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/identity/cache"
)

// openCache opens the identity cache, its key sealed to the TPM where that is
// wanted or was before. A seal that does not hold costs an enrolment, never a start.
func openCache(dir string, seal bool, device *tpm.Device, log *slog.Logger) (*cache.Cache, error) {
	if !seal && !cache.IsSealed(dir) {
		return cache.Open(dir)
	}
	if device == nil {
		log.Warn("the identity cache cannot be sealed: this node uses no TPM")
		if !cache.IsSealed(dir) {
			return cache.Open(dir)
		}
	} else {
		c, err := cache.OpenSealed(dir, device)
		if err == nil || errors.Is(err, cache.ErrKey) || errors.Is(err, cache.ErrKeyExposed) || errors.Is(err, cache.ErrKeyMissing) {
			return c, err // not the TPM's doing
		}
		log.Error("the identity cache is not sealed", "err", err)
		if !cache.IsSealed(dir) {
			return cache.Open(dir)
		}
	}
	aside, err := cache.SetAsideSealed(dir, time.Now())
	if err != nil {
		return nil, err
	}
	log.Error("the identity cache is of no use without its key; this node enrols again", "kept_at", aside)
	if !seal || device == nil {
		return cache.Open(dir)
	}
	if c, err := cache.OpenSealed(dir, device); err == nil {
		return c, nil
	}
	return cache.Open(dir)
}
