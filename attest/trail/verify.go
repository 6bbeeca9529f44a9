package trail

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"
)

var (
	// ErrRoot means that leaves and tiles agree with each other but not with the
	// signed head: the head belongs to another history.
	ErrRoot = errors.New("the leaves are not those of the signed head")

	// ErrSequence means an outbox sequence is missing or there twice, and no gap
	// leaf says so.
	ErrSequence = errors.New("a leaf is missing or repeated")

	// ErrBeyond means leaves on disk are under no head: the node stopped before
	// it signed them, its key does not sign, or an older head was put back.
	ErrBeyond = errors.New("leaves lie beyond the signed head")

	// ErrRollback means that a head known from elsewhere is not in this trail's
	// past: leaves were cut off or exchanged.
	ErrRollback = errors.New("the trail does not contain a head that was signed before")

	// ErrUnjudged means completeness could not be judged because integrity fails.
	ErrUnjudged = errors.New("not judged: integrity fails")

	// ErrNoTrust means Verify was given neither a key nor a node to expect.
	ErrNoTrust = errors.New("give a verifier key, or the node whose own word to take")
)

// Options say whom to believe.
type Options struct {
	// VerifierKey is the trail key, in the form of the function VerifierKey.
	// Empty: take the genesis at its word, and check only that it is Node's.
	VerifierKey string

	// Node must be the trail's owner. It may be zero if VerifierKey is given.
	Node spiffeid.ID

	// Known is a head of this trail that was remembered elsewhere, verified
	// with OpenCheckpoint; it must lie in the trail's past. nil: none.
	Known *Checkpoint

	// Progress, where given, is called now and then from Verify's goroutine.
	Progress func(done, total uint64)

	// Leaf, where given, is called with each leaf in order, before the verdict
	// is known.
	Leaf func(Indexed)
}

// Verify checks the trail in dir, the folder of one epoch, as of its present
// head. It reads everything under the head once, needs no other process and
// changes nothing. What is wrong with the trail is in the Report; an error
// means that it could not be judged: ErrNoTrail, ErrNoTrust, ErrKey, ctx's, or
// the file system's.
func Verify(ctx context.Context, dir string, o Options) (Report, error) {
	if o.VerifierKey == "" && o.Node.IsZero() {
		return Report{}, ErrNoTrust
	}
	r := Report{Unwitnessed: true, Kinds: map[string]uint64{}}
	raw, c, err := readHead(dir)
	if err != nil {
		return r, r.headFails(err)
	}
	r.Origin, r.Size, r.Root = c.Origin, c.Size, hex.EncodeToString(c.Root[:])
	v, err := r.verifier(tiles{dir, c.Size}, o)
	if err != nil {
		return r, r.headFails(err)
	}
	if c, err = openCheckpoint(raw, v); err != nil {
		return r, r.headFails(err)
	}
	w := walk{tiles: tiles{dir, c.Size}, head: c, report: &r, o: o,
		tree: (&compact.RangeFactory{Hash: hasher.HashChildren}).NewEmptyRange(0), edge: map[compact.NodeID][][]byte{}}
	if err := w.run(ctx); err != nil {
		return r, err
	}
	return r, w.beyond(ctx)
}

// headFails turns a finding about the head into a verdict, and lets through
// what is no finding.
func (r *Report) headFails(err error) error {
	if !errors.Is(err, ErrCheckpoint) && !errors.Is(err, ErrLeaf) && !errors.Is(err, ErrTile) {
		return err
	}
	r.Integrity.fail(-1, time.Time{}, err)
	r.Completeness.fail(-1, time.Time{}, ErrUnjudged)
	return nil
}

// verifier chooses the key: the caller's, or the one the genesis names.
func (r *Report) verifier(t tiles, o Options) (note.Verifier, error) {
	r.VerifierKey, r.OwnWord = o.VerifierKey, o.VerifierKey == ""
	if !r.OwnWord {
		return newVerifier(o.VerifierKey)
	}
	if t.size == 0 {
		return nil, fmt.Errorf("%w: it is empty, without a genesis", ErrLeaf)
	}
	l, err := t.leaf(0)
	if err != nil {
		return nil, err
	}
	g, err := readGenesis(l)
	if err != nil {
		return nil, err
	}
	r.VerifierKey = g.Verifier
	v, err := newVerifier(g.Verifier)
	if err != nil {
		return nil, fmt.Errorf("%w: genesis: %w", ErrLeaf, err)
	}
	return v, nil
}

// walk goes once over the leaves and derives every hash again.
type walk struct {
	tiles
	head   Checkpoint
	report *Report
	o      Options

	tree *compact.Range
	edge map[compact.NodeID][][]byte // tiles not compared yet
	seq  uint64
	last time.Time // of the last leaf that could be read

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
		if err := w.tree.Append(h, w.visit); err != nil {
			return false, err
		}
		if k := w.o.Known; k != nil && k.Size == at+1 {
			w.known(*k)
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
	if k := w.o.Known; k != nil && (k.Size > w.size || k.Origin != w.head.Origin) {
		r.Completeness.fail(-1, w.last, fmt.Errorf("%w: it has %d leaves of %s, the head remembered %d of %s", ErrRollback, w.size, w.head.Origin, k.Size, k.Origin))
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
