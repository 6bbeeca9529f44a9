package trail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/transparency-dev/merkle/proof"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

// WitnessedPath is the file of a trail's folder that holds its newest head with the
// cosignatures of enough witnesses. It may be older than the head.
const WitnessedPath = "witnessed"

type cosigned struct {
	head   Checkpoint
	answer chan<- error
}

// SetWitnessed keeps a head of this trail with its cosignatures, which the caller has
// verified, as the newest that is witnessed. When it returns nil the head is durable;
// one that is older than what is kept changes nothing. Errors wrap ErrCheckpoint (it is
// no head of this trail), ErrRollback (it is of more leaves than there are), ErrClosed,
// ctx's or the disk's.
func (t *Trail) SetWitnessed(ctx context.Context, raw []byte) error {
	c, err := openCheckpoint(raw, t.w.signer.verifier)
	if err != nil {
		return err
	}
	answer := make(chan error, 1)
	select {
	case t.cosigned <- cosigned{c, answer}:
	case <-t.done:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return <-answer // one write of the disk away
}

// Witnessed returns the newest head that SetWitnessed was given in this epoch.
func (t *Trail) Witnessed() (Checkpoint, bool) {
	if c := t.witnessed.Load(); c != nil {
		return *c, true
	}
	return Checkpoint{}, false
}

// keepWitnessed is SetWitnessed in the writer's goroutine. A head that is still the
// newest also gets its cosignatures in the checkpoint file itself.
func (t *Trail) keepWitnessed(c Checkpoint) error {
	if c.Size > t.w.head.Size {
		return fmt.Errorf("%w: it has %d leaves, the witnessed head %d", ErrRollback, t.w.head.Size, c.Size)
	}
	if old := t.witnessed.Load(); old != nil && old.Size > c.Size {
		return nil
	}
	if err := replaceWitnessed(t.w.dir, c.Raw, time.Now()); err != nil {
		return fmt.Errorf("keep the witnessed head: %w", err)
	}
	t.witnessed.Store(&c)
	if c.Text() == t.w.head.Text() {
		if err := durable.Replace(t.w.path(), c.Raw, 0o644); err != nil {
			return fmt.Errorf("keep the witnessed head: %w", err)
		}
		t.w.head.Raw = c.Raw
	}
	t.show()
	return nil
}

// rememberWitnessed reads what an earlier run kept.
func (t *Trail) rememberWitnessed() error {
	c, err := readWitnessed(t.w.dir)
	if c == nil || err != nil {
		return err
	}
	opened, err := openCheckpoint(c.Raw, t.w.signer.verifier)
	if err != nil {
		return err
	}
	if opened.Size > t.w.head.Size {
		return fmt.Errorf("%w: %d leaves under a witnessed head of %d", ErrDamaged, t.w.head.Size, opened.Size)
	}
	t.witnessed.Store(&opened)
	return nil
}

// readWitnessed reads the witnessed head of a folder without believing it; nil: none.
func readWitnessed(dir string) (*Checkpoint, error) {
	raw, err := readFile(filepath.Join(dir, WitnessedPath), maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := PeekCheckpoint(raw)
	if err != nil {
		return nil, fmt.Errorf("the witnessed head: %w", err)
	}
	c.Raw = raw
	return &c, nil
}

// Consistency proves that the tree of the first old leaves of the trail in dir is in
// the past of the tree of the first size leaves (RFC 6962 section 2.1.2): at most 63
// hashes, none where old is 0 or size. Both must lie under the head. Nothing is
// verified. A writer may run meanwhile. Errors wrap ErrTile or the file system's.
func Consistency(dir string, old, size uint64) ([][32]byte, error) {
	if old > size {
		return nil, fmt.Errorf("%w: no tree of %d leaves has a past of %d", ErrTile, size, old)
	}
	if old == 0 || old == size {
		return nil, nil
	}
	nodes, err := proof.Consistency(old, size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTile, err)
	}
	hashes := make([][]byte, len(nodes.IDs))
	for i, id := range nodes.IDs {
		if hashes[i], err = (tiles{dir: dir, size: size}).node(id); err != nil {
			return nil, err
		}
	}
	if hashes, err = nodes.Rehash(hashes, hasher.HashChildren); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTile, err)
	}
	out := make([][32]byte, len(hashes))
	for i, h := range hashes {
		out[i] = [32]byte(h)
	}
	return out, nil
}
