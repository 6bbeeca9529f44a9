package custody

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// maxBeside is the largest file beside a trail, in bytes.
const maxBeside = 8 << 20

// witnessed takes over from a source which heads of an epoch have cosignatures: those kept earlier, and
// the newest, which its answer to q has. The copy is up to the source's head.
func (k *Keeper) witnessed(ctx context.Context, c *trail.Copy, source spiffeid.ID, q question, a answer) error {
	dir := c.Dir()
	upTo := source.String() + "\n" + string(a.Head) + string(a.Seen)
	if k.seen[dir] == upTo {
		return nil
	}
	q.Seen = true
	for {
		newest, err := trail.NewestSeen(dir)
		if err != nil {
			return err
		}
		q.From = newest
		more, err := k.ask(ctx, source, q)
		if err != nil {
			return err
		}
		if len(more.Heads) == 0 {
			break
		}
		if err := k.room(more.Heads...); err != nil {
			return err
		}
		if err := c.KeepSeen(more.Heads); errors.Is(err, trail.ErrRollback) {
			return nil // the trail has grown meanwhile: the next round takes them
		} else if err != nil {
			return fmt.Errorf("%w: %w", ErrAnswer, err)
		}
		if now, err := trail.NewestSeen(dir); err != nil || now <= newest {
			return errors.Join(fmt.Errorf("%w: heads of no more leaves than %d", ErrAnswer, newest), err)
		}
	}
	if a.Seen != nil {
		if err := c.SetWitnessed(a.Seen); err != nil {
			return err
		}
	}
	k.seen[dir] = upTo
	return nil
}

// beside takes over the files beside a trail that are not here.
func (k *Keeper) beside(ctx context.Context, owner, source spiffeid.ID) error {
	for _, folder := range slices.Sorted(maps.Keys(k.cfg.Beside)) {
		q := question{Owner: owner.String(), Folder: folder}
		a, err := k.ask(ctx, source, q)
		if err != nil {
			return err
		}
		dir := filepath.Join(k.place(owner).trail, folder)
		for _, name := range a.Names {
			if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
				continue
			}
			q.File = name
			if err := k.fileBeside(ctx, source, dir, q); err != nil {
				return fmt.Errorf("%s/%s: %w", folder, name, err)
			}
		}
	}
	return nil
}

// fileBeside fetches one file, which is small.
func (k *Keeper) fileBeside(ctx context.Context, source spiffeid.ID, dir string, q question) error {
	var have []byte
	for {
		q.Offset = uint64(len(have))
		a, err := k.ask(ctx, source, q)
		if err != nil {
			return err
		}
		if have = append(have, a.Part...); len(have) > maxBeside {
			return fmt.Errorf("%w: more than %d bytes", ErrAnswer, maxBeside)
		}
		if len(a.Part) < maxPart {
			break
		}
	}
	if err := k.cfg.Beside[q.Folder](q.File, have); err != nil { // damaged there; another source may have it whole
		k.cfg.Log.Debug("custody: a file beside a trail is not what its name says", "source", source, "file", q.File, "err", err)
		return nil
	}
	if err := k.room(have); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return durable.Replace(filepath.Join(dir, q.File), have, 0o644)
}

// room takes the room that files need, if there is as much. Errors wrap ErrFull.
func (k *Keeper) room(files ...[]byte) error {
	for _, b := range files {
		k.used += int64(len(b))
	}
	if k.used > k.cfg.MaxBytes {
		return fmt.Errorf("%w: %d bytes", ErrFull, k.cfg.MaxBytes)
	}
	return nil
}
