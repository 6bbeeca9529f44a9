package trail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/storage/posix"
	"k8s.io/klog/v2"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

// writer is the one that appends to a folder. It is owned by one goroutine.
//
// Tessera integrates; the writer signs and publishes. An appender lives for one
// batch only, which it is told the exact size of: so a batch becomes part of the
// tree as a whole or not at all, in order, and nothing of Tessera runs, polls or
// logs while nothing is new. Tessera's own publishing is never used: it compares
// file times with the clock, and stops when a clock is set back.
type writer struct {
	dir    string
	signer *signer
	size   uint64     // leaves integrated
	head   Checkpoint // last published; its size is at most size
	at     time.Time  // when that was
	seq    uint64     // of the last leaf
	roster func() [32]byte
}

// silence keeps Tessera's library logger from writing to standard error. What
// it would say comes back as errors.
var silence = sync.OnceFunc(func() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) })

// neverSigns is what Tessera gets as its signer.
type neverSigns struct{ *signer }

func (neverSigns) Sign([]byte) ([]byte, error) {
	return nil, errors.New("heads are signed by the trail, not by its storage")
}

// openWriter opens or begins a folder. A size of zero says that it has no
// genesis yet. Errors wrap ErrDamaged, ErrCheckpoint, ErrSigner or the disk's.
func openWriter(dir string, s *signer, roster func() [32]byte) (*writer, error) {
	silence()
	w := &writer{dir: dir, signer: s, roster: roster}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	raw, err := readFile(w.path(), maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return w, w.begin()
	}
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(w.path()); err == nil {
		w.at = info.ModTime()
	}
	if w.head, err = openCheckpoint(raw, s.verifier); err != nil {
		return nil, err
	}
	if err := w.batch(func(size uint64, _ *tessera.Appender) error { w.size = size; return nil }, 1); err != nil {
		return nil, err
	}
	if err := w.tiles().sweep(); err != nil {
		return nil, fmt.Errorf("sweep: %w", err)
	}
	if err := w.extends(); err != nil {
		return nil, err
	}
	if w.size == 0 {
		return w, nil
	}
	last, err := w.tiles().leaf(w.size - 1)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	w.seq = last.Seq
	return w, w.tiles().collect(w.size-min(w.size, width*width), w.head.Size)
}

func (w *writer) path() string { return filepath.Join(w.dir, layout.CheckpointPath) }
func (w *writer) tiles() tiles { return tiles{dir: w.dir, size: w.size} }

// begin publishes the empty head, so that from now on a folder without a head
// is a damaged one.
func (w *writer) begin() error {
	if _, err := os.Stat(filepath.Join(w.dir, "tile")); err == nil {
		return fmt.Errorf("%w: it has leaves and no head", ErrDamaged)
	}
	root, err := tiles{}.root(0)
	if err != nil {
		return err
	}
	return w.publishHead(0, root)
}

// extends checks that the tree on disk still contains the tree of the last
// signed head.
func (w *writer) extends() error {
	if w.size < w.head.Size {
		return fmt.Errorf("%w: %d leaves under a head of %d", ErrDamaged, w.size, w.head.Size)
	}
	root, err := w.tiles().root(w.head.Size)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if root != w.head.Root {
		return fmt.Errorf("%w: the tiles are not those of the head of %d leaves", ErrDamaged, w.head.Size)
	}
	return nil
}

// batch runs fn with an appender that integrates exactly n leaves at once.
func (w *writer) batch(fn func(size uint64, a *tessera.Appender) error, n int) (err error) {
	// Tessera panics where it cannot open its lock file; its first try is here.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("trail storage: %v", r)
		}
	}()
	if _, err := os.Stat(filepath.Join(w.dir, ".state", "treeState")); w.head.Size > 0 && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: the storage's notes are gone", ErrDamaged) // it would begin again at leaf 0
	}
	// Not a caller's context: a batch under way ends by itself, with the disk.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	driver, err := posix.New(ctx, posix.Config{Path: w.dir})
	if err != nil {
		return err
	}
	const never = 100 * 365 * 24 * time.Hour
	appender, _, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(neverSigns{w.signer}).
		WithBatching(uint(n), never).
		WithCheckpointInterval(never).
		WithCheckpointRepublishInterval(0).
		WithGarbageCollectionInterval(0))
	if err != nil {
		return err
	}
	size, err := reader.IntegratedSize(ctx)
	if err != nil {
		return err
	}
	return fn(size, appender)
}

// grow makes leaves part of the tree, all or none. They are durable when it
// returns nil.
func (w *writer) grow(leaves []Leaf) error {
	encoded := make([][]byte, len(leaves))
	for i, l := range leaves {
		b, err := l.encode()
		if err != nil {
			return err
		}
		encoded[i] = b
	}
	err := w.batch(func(size uint64, a *tessera.Appender) error {
		if size != w.size {
			return fmt.Errorf("%w: %d leaves where %d were written", ErrDamaged, size, w.size)
		}
		futures := make([]tessera.IndexFuture, len(encoded))
		for i, b := range encoded {
			futures[i] = a.Add(context.Background(), tessera.NewEntry(b))
		}
		var errs []error
		for i, f := range futures {
			index, err := f()
			if err == nil && index.Index != w.size+uint64(i) {
				err = fmt.Errorf("%w: leaf %d became leaf %d", ErrDamaged, w.size+uint64(i), index.Index)
			}
			if err != nil && len(errs) == 0 { // all of a batch fail of one cause
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}, len(encoded))
	if err != nil {
		return fmt.Errorf("append %d leaves: %w", len(leaves), err)
	}
	w.size += uint64(len(leaves))
	w.seq = leaves[len(leaves)-1].Seq
	return nil
}

// publish signs the tree as it stands, where it grew or is for other witnesses.
func (w *writer) publish() error {
	if w.size == w.head.Size && (w.size == 0 || w.names() == w.head.Roster) {
		return nil
	}
	if err := w.extends(); err != nil {
		return err
	}
	root, err := w.tiles().root(w.size)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	before := w.head.Size
	if err := w.publishHead(w.size, root); err != nil {
		return err
	}
	return w.tiles().collect(before, w.size)
}

// names is the roster that the next head names: while none is known, that of the head before.
func (w *writer) names() [32]byte {
	if r := w.roster(); r != ([32]byte{}) {
		return r
	}
	return w.head.Roster
}

func (w *writer) publishHead(size uint64, root [32]byte) error {
	c, err := w.signer.head(size, root, w.names())
	if err != nil {
		return err
	}
	if err := durable.Replace(w.path(), c.Raw, 0o644); err != nil {
		return fmt.Errorf("publish head: %w", err)
	}
	w.head, w.at = c, time.Now()
	return nil
}

// has reports whether the tree holds a leaf, looking back from the end as far as
// its sequence goes.
func (w *writer) has(want Leaf) (bool, error) {
	for index := w.size; index > 0; {
		bundle := (index - 1) / width
		raw, err := w.tiles().bundle(bundle)
		if err != nil {
			return false, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		for _, b := range slices.Backward(raw) {
			l, err := ParseLeaf(b)
			if err != nil {
				return false, fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			if l.Seq < want.Seq {
				return false, nil
			}
			if l.equal(want) {
				return true, nil
			}
		}
		index = bundle * width
	}
	return false, nil
}

// previousHead returns the signed head of the newest epoch below this one, as
// its writer left it.
func previousHead(root string, epoch uint64) (string, error) {
	epochs, err := Epochs(root)
	if err != nil {
		return "", err
	}
	for i := len(epochs) - 1; i >= 0; i-- {
		if epochs[i] >= epoch {
			continue
		}
		raw, err := readFile(filepath.Join(root, fmt.Sprint(epochs[i]), layout.CheckpointPath), 4096)
		if err != nil || !utf8.Valid(raw) {
			continue // a folder without a readable head names nothing
		}
		return string(raw), nil
	}
	return "", nil
}
