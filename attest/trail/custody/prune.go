package custody

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// prune removes leaves of an owner's copies by age, and the files that only they name. Two have to agree: the
// owner, whose trail says which leaves may go, and this node, by Config.Keep. So neither an owner that
// wants its past gone nor a custodian short of room is enough.
func (k *Keeper) prune(owner spiffeid.ID) {
	if k.cfg.Keep == 0 {
		return
	}
	epochs, err := trail.Epochs(k.place(owner).trail)
	for _, e := range epochs {
		dir := trail.EpochDir(k.place(owner).trail, e)
		if c, allowed := k.copies[dir], k.removable[dir]; err == nil && c != nil && allowed > 0 {
			err = k.pruneEpoch(owner, c, allowed)
		}
	}
	if err != nil {
		k.cfg.Log.Warn("custody: old leaves of a copy could not be removed", "owner", owner, "err", err)
	}
}

func (k *Keeper) pruneEpoch(owner spiffeid.ID, c *trail.Copy, allowed uint64) error {
	return c.Prune(time.Now().Add(-k.cfg.Keep), allowed, func(l trail.Indexed) error {
		f, ok := k.cfg.File(l.Leaf)
		if !ok || k.files[owner][f.Name] != f {
			return nil
		}
		if err := os.Remove(filepath.Join(k.place(owner).files, f.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		delete(k.files[owner], f.Name)
		return nil
	})
}
