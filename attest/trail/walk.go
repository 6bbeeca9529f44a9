package trail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/tessera/api/layout"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// walk goes once over the leaves and derives every hash again.
type walk struct {
	tiles
	head   Checkpoint
	report *Report
	o      Options

	remembered []Checkpoint // must lie in the past

	tree *compact.Range
	edge map[compact.NodeID][][]byte // tiles not compared yet
	seq  uint64
	last time.Time // of the last leaf that could be read

	jumped  bool   // the leaves before the next one were removed by age
	allowed uint64 // the end of what may be gone, by the trail's own leaves

	// The first leaf whose hash is not the tile's. Which of the two is wrong
	// only the root says.
	doubt   int64
	doubtAt time.Time
	doubted error
}

func (w *walk) run(ctx context.Context) error {
	w.doubt = -1
	whole := true
	for bundle := uint64(0); bundle*width < w.size && whole; bundle++ {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		var err error
		if whole, err = w.bundle(bundle); err != nil {
			return err
		}
		if w.o.Progress != nil {
			w.o.Progress(min(w.size, (bundle+1)*width), w.size)
		}
	}
	if whole {
		if err := w.conclude(); err != nil {
			return err
		}
	} else {
		w.blame()
	}
	if err := w.mayBeGone(ctx); err != nil {
		return err
	}
	r := w.report
	r.Last = w.last
	r.Integrity.Good = r.Integrity.Err == nil
	if !r.Integrity.Good {
		r.Completeness = Verdict{Err: ErrUnjudged, Leaf: -1}
	}
	return nil
}

// bundle takes up to 256 leaves; false means that they do not all exist, so that
// nothing behind them can be derived.
func (w *walk) bundle(index uint64) (bool, error) {
	if w.gone(index) {
		return w.prunedBundle(index)
	}
	raw, short := w.tiles.bundle(index)
	if short != nil && !errors.Is(short, ErrTile) {
		return false, short
	}
	row, bad := w.tile(0, index)
	if bad != nil && !errors.Is(bad, ErrTile) {
		return false, bad
	}
	for i, b := range raw {
		at := index*width + uint64(i)
		l, err := ParseLeaf(b)
		if err == nil {
			w.last = l.At
			err = w.leaf(at, l)
		}
		if err != nil {
			w.report.Integrity.fail(int64(at), w.last, err)
		}
		h := hasher.HashLeaf(b)
		if bad == nil && !bytes.Equal(h, row[i]) && w.doubted == nil {
			w.doubt, w.doubtAt, w.doubted = int64(at), w.last, fmt.Errorf("%w: its hash is not the one in the tile", ErrLeaf)
		}
		if err := w.grow(at, h); err != nil {
			return false, err
		}
	}
	if bad != nil {
		w.report.Integrity.fail(int64(index*width), w.last, bad)
	}
	if short != nil {
		w.report.Integrity.fail(int64(index*width)+int64(len(raw)), w.last, short)
	}
	return short == nil, nil
}

// grow takes the hash of one leaf into the tree.
func (w *walk) grow(at uint64, h []byte) error {
	if err := w.tree.Append(h, w.visit); err != nil {
		return err
	}
	for _, k := range w.remembered {
		if k.Size == at+1 {
			w.known(k)
		}
	}
	return nil
}

// leaf applies the rules of sequence. Its error is one of integrity.
func (w *walk) leaf(index uint64, l Leaf) error {
	w.report.Kinds[l.Kind]++
	if w.o.Leaf != nil {
		w.o.Leaf(Indexed{index, l})
	}
	if index == 0 {
		w.seq, w.report.First = l.Seq, l.At
		return w.genesis(l)
	}
	before := w.seq
	w.seq = l.Seq
	next := before + 1
	switch l.Kind {
	case genesisKind.name:
		return fmt.Errorf("%w: a second genesis", ErrLeaf)
	case gapKind.name:
		g, err := readGap(l)
		if err != nil {
			return err
		}
		w.report.Lost += g.Count
		if g.From == 0 {
			next = before
		} else if g.From == next && l.Seq >= g.From {
			next = l.Seq
		}
	case Pruned.name:
		var p pruned
		err := statement.Unmarshal(l.Body, &p)
		if err == nil && (p.Epoch == 0 && p.Below > index || p.Epoch != 0 && p.Epoch >= w.report.Epoch) {
			err = fmt.Errorf("leaves below %d of epoch %d", p.Below, p.Epoch)
		}
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrLeaf, Pruned, err)
		}
		if p.Epoch == 0 {
			w.allowed = max(w.allowed, p.Below)
		}
	}
	if w.jumped {
		w.jumped, next = false, l.Seq
	}
	if l.Seq != next {
		w.report.Completeness.fail(int64(index), l.At, fmt.Errorf("%w: sequence %d follows %d", ErrSequence, l.Seq, before))
	}
	return nil
}

func (w *walk) genesis(l Leaf) error {
	g, err := readGenesis(l)
	if err != nil {
		return err
	}
	r := w.report
	r.Node, r.Epoch, r.Protection = g.Node, g.Epoch, g.Protection
	origin, err := g.origin()
	if err != nil {
		return err
	}
	switch {
	case origin != w.head.Origin:
		return fmt.Errorf("%w: its genesis is of %s, the head of %s", ErrLeaf, origin, w.head.Origin)
	case !w.o.Node.IsZero() && g.Node != w.o.Node.String():
		return fmt.Errorf("%w: it is the trail of %s, not of %s", ErrLeaf, g.Node, w.o.Node)
	case g.Verifier != r.VerifierKey:
		return fmt.Errorf("%w: its genesis names another trail key", ErrLeaf)
	}
	return nil
}

// visit collects the derived hashes of each tile and compares a full one.
func (w *walk) visit(id compact.NodeID, h []byte) {
	if id.Level%layout.TileHeight != 0 || id.Level == 0 { // level 0 is compared leaf by leaf
		return
	}
	key := compact.NodeID{Level: id.Level / layout.TileHeight, Index: id.Index / width}
	w.edge[key] = append(w.edge[key], h)
	if len(w.edge[key]) == width {
		w.compare(key)
	}
}

func (w *walk) compare(key compact.NodeID) {
	derived := w.edge[key]
	delete(w.edge, key)
	stored, err := w.tile(uint64(key.Level), key.Index)
	covers := uint64(1) << (layout.TileHeight * key.Level) // leaves of one hash
	first := key.Index * width * covers
	if err == nil {
		for i := range derived {
			if !bytes.Equal(derived[i], stored[i]) {
				first += uint64(i) * covers
				err = fmt.Errorf("%w: %s does not cover its leaves", ErrTile, layout.TilePath(uint64(key.Level), key.Index, 0))
				break
			}
		}
	}
	if err != nil && w.doubted == nil {
		w.doubt, w.doubtAt, w.doubted = int64(first), w.last, err
	}
}

// known checks a head remembered elsewhere against the tree of the same size.
func (w *walk) known(k Checkpoint) {
	root, err := w.tree.GetRootHash(nil)
	if err != nil || !bytes.Equal(root, k.Root[:]) {
		w.report.Completeness.fail(int64(k.Size)-1, w.last, fmt.Errorf("%w: the first %d leaves are others than those of the head remembered", ErrRollback, k.Size))
	}
}

// conclude compares what is left, and the root: only the root is signed, so only
// it says whether leaves or tiles are to blame where they differ.
func (w *walk) conclude() error {
	for level := uint(1); len(w.edge) > 0; level++ {
		for key := range w.edge {
			if key.Level == level {
				w.compare(key)
			}
		}
	}
	r := w.report
	if w.size == 0 {
		r.Integrity.fail(-1, time.Time{}, fmt.Errorf("%w: it is empty, without a genesis", ErrLeaf))
		return nil
	}
	root, err := w.tree.GetRootHash(nil)
	if err != nil {
		return err
	}
	signed := bytes.Equal(root, w.head.Root[:])
	switch {
	case w.doubted != nil && signed:
		r.Integrity.fail(w.doubt, w.doubtAt, fmt.Errorf("%w: the leaves are those that were signed, a tile over them is not", ErrTile))
	case w.doubted != nil:
		w.blame()
	case !signed:
		r.Integrity.fail(-1, time.Time{}, ErrRoot)
	}
	for _, k := range w.remembered {
		//bailiwick:check TestTruncatedTail/auditor
		if k.Size > w.size || k.Origin != w.head.Origin {
			r.Completeness.fail(-1, w.last, fmt.Errorf("%w: it has %d leaves of %s, the head remembered %d of %s", ErrRollback, w.size, w.head.Origin, k.Size, k.Origin))
		}
	}
	return nil
}

// blame makes the doubt the verdict, unless an earlier leaf was found bad.
func (w *walk) blame() {
	v := &w.report.Integrity
	if w.doubted != nil && (v.Err == nil || w.doubt <= v.Leaf) {
		*v = Verdict{Err: w.doubted, Leaf: w.doubt, At: w.doubtAt}
	}
}

// signingTime is how long a running writer may take from its leaves to its head.
const signingTime = 3 * time.Second

// beyond judges leaves behind the head. A running writer has such leaves for a
// moment, until its head moves.
func (w *walk) beyond(ctx context.Context) error {
	r := w.report
	if !r.Integrity.Good {
		return nil
	}
	deadline := time.Now().Add(signingTime)
	tick := time.NewTicker(signingTime / 60)
	defer tick.Stop()
	for {
		more, err := w.tiles.beyond()
		if err != nil {
			return err
		}
		raw, err := readFile(filepath.Join(w.dir, layout.CheckpointPath), maxCheckpoint)
		if err != nil {
			return err
		}
		if !more || !bytes.Equal(raw, w.head.Raw) {
			break
		}
		if time.Now().After(deadline) {
			r.Completeness.fail(int64(w.size), w.last, fmt.Errorf("%w of %d", ErrBeyond, w.size))
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	r.Completeness.Good = r.Completeness.Err == nil
	return nil
}
