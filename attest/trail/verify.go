package trail

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/transparency-dev/merkle/compact"
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

	// Heads are signed heads of this trail that others keep, such as custodians: each must be by the trail's
	// key and lie in its past, or completeness fails.
	Heads [][]byte

	// Later, where given, is the folder with the trails of all epochs, <state>/trail: where leaves of an
	// ended epoch were removed by age, the trail of a later one says so. It is taken at its word:
	// verify that one too.
	Later string

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
	r := Report{Kinds: map[string]uint64{}}
	witnessed, werr := readWitnessed(dir) // before the head: where a writer runs, it would be ahead of that
	raw, c, err := readHead(dir)
	if err != nil {
		return r, r.headFails(err)
	}
	r.Origin, r.Size, r.Root = c.Origin, c.Size, hex.EncodeToString(c.Root[:])
	v, err := r.verifier(tiles{dir: dir, size: c.Size}, o)
	if err != nil {
		return r, r.headFails(err)
	}
	if c, err = openCheckpoint(raw, v); err != nil {
		return r, r.headFails(err)
	}
	r.Head = c
	known, err := r.remembered(witnessed, werr, v, o)
	if err != nil {
		return r, err
	}
	w := walk{tiles: tiles{dir: dir, size: c.Size}, head: c, report: &r, o: o, remembered: known,
		tree: (&compact.RangeFactory{Hash: hasher.HashChildren}).NewEmptyRange(0), edge: map[compact.NodeID][][]byte{}}
	if err := w.run(ctx); err != nil {
		return r, err
	}
	return r, w.beyond(ctx)
}

// remembered are the heads that must lie in the trail's past: the caller's, and the
// witnessed one beside the trail, as readWitnessed returned it.
func (r *Report) remembered(witnessed *Checkpoint, err error, v note.Verifier, o Options) (known []Checkpoint, _ error) {
	if o.Known != nil {
		known = append(known, *o.Known)
	}
	for _, raw := range o.Heads {
		c, err := openCheckpoint(raw, v)
		if err != nil {
			r.Completeness.fail(-1, time.Time{}, fmt.Errorf("a head that others keep: %w", err))
			continue
		}
		known = append(known, c)
	}
	if witnessed == nil && err == nil {
		return known, nil
	}
	if err == nil {
		var opened Checkpoint
		if opened, err = openCheckpoint(witnessed.Raw, v); err == nil {
			r.Witnessed = &opened
			return append(known, opened), nil
		}
	}
	if !errors.Is(err, ErrCheckpoint) {
		return nil, err
	}
	r.Completeness.fail(-1, time.Time{}, fmt.Errorf("the witnessed head: %w", err))
	return known, nil
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
