package trail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/transparency-dev/formats/proof"
	mproof "github.com/transparency-dev/merkle/proof"
)

// MaxProof is the largest inclusion proof, in bytes: a head with many
// cosignatures and 64 hashes.
const MaxProof = maxCheckpoint + 4<<10

// ErrProof means that an inclusion proof is malformed, or does not lead from its
// leaf to the root of the head in it.
var ErrProof = errors.New("the proof does not show that the leaf is in the trail")

// Snapshot reads a trail as of one head, the one that was in its folder when the
// Snapshot was made. It verifies nothing that it returns, but refuses what does
// not fit together. A writer may run meanwhile.
type Snapshot struct {
	tiles tiles
	head  Checkpoint
}

// OpenSnapshot reads the present head of the folder of one epoch. Errors wrap
// ErrNoTrail or ErrCheckpoint, or are the file system's.
func OpenSnapshot(dir string) (*Snapshot, error) {
	raw, c, err := readHead(dir)
	if err != nil {
		return nil, err
	}
	c.Raw = raw
	return &Snapshot{tiles{dir: dir, size: c.Size, kept: &kept{}}, c}, nil
}

// Head is the head as it was read; its signature was not checked.
func (s *Snapshot) Head() Checkpoint { return s.head }

// Dir is the folder that is read.
func (s *Snapshot) Dir() string { return s.tiles.dir }

// FirstKept is the index of the first leaf behind the first 256 that was not removed by age. The first 256
// never are.
func (s *Snapshot) FirstKept() uint64 { return s.tiles.firstKept() }

// Genesis is what leaf 0 says.
func (s *Snapshot) Genesis() (Genesis, error) {
	l, err := s.tiles.leaf(0)
	if err != nil {
		return Genesis{}, err
	}
	return readGenesis(l)
}

// Raw returns a leaf exactly as it was hashed. Errors wrap ErrTile, or ErrPruned.
func (s *Snapshot) Raw(index uint64) ([]byte, error) {
	if index >= s.head.Size {
		return nil, fmt.Errorf("%w: no leaf %d under a head of %d", ErrTile, index, s.head.Size)
	}
	if s.tiles.gone(index / width) {
		return nil, fmt.Errorf("leaf %d: %w", index, ErrPruned)
	}
	b, err := s.tiles.bundle(index / width)
	if uint64(len(b)) <= index%width {
		return nil, fmt.Errorf("leaf %d: %w", index, errors.Join(ErrTile, err))
	}
	return b[index%width], nil
}

// Leaves yields the leaves from an index on, in order, up to the head, but those
// that were removed by age. It ends with the first error: ErrTile, ErrLeaf, ctx's,
// or the file system's.
func (s *Snapshot) Leaves(ctx context.Context, from uint64) iter.Seq2[Indexed, error] {
	return func(yield func(Indexed, error) bool) {
		for index := from; index < s.head.Size; {
			some, err := list(ctx, s.tiles, index, width-int(index%width))
			for _, l := range some {
				if !yield(l, nil) {
					return
				}
			}
			if err != nil {
				yield(Indexed{}, err)
				return
			}
			if len(some) == 0 {
				return // all that is left was removed by age
			}
			index = some[len(some)-1].Index + 1
		}
	}
}

// Root computes the root of the first n leaves from the tiles, to hold against a
// head of that size. Errors wrap ErrTile.
func (s *Snapshot) Root(n uint64) ([32]byte, error) {
	if n > s.head.Size {
		return [32]byte{}, fmt.Errorf("%w: no %d leaves under a head of %d", ErrTile, n, s.head.Size)
	}
	return s.tiles.root(n)
}

// Prove returns the proof that a leaf is under the head, in the format of C2SP
// tlog-proof, with the whole head in it. Errors wrap ErrTile, or ErrProof where
// the tiles do not lead to the head's root.
func (s *Snapshot) Prove(index uint64) ([]byte, error) {
	raw, err := s.Raw(index)
	if err != nil {
		return nil, err
	}
	nodes, err := mproof.Inclusion(index, s.head.Size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	hashes := make([][]byte, len(nodes.IDs))
	for i, id := range nodes.IDs {
		if hashes[i], err = s.tiles.node(id); err != nil {
			return nil, err
		}
	}
	if hashes, err = nodes.Rehash(hashes, hasher.HashChildren); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if err := mproof.VerifyInclusion(hasher, index, s.head.Size, hasher.HashLeaf(raw), hashes, s.head.Root[:]); err != nil {
		return nil, fmt.Errorf("%w: leaf %d: %w", ErrProof, index, err)
	}
	p := proof.TLogProof{Index: index, Checkpoint: s.head.Raw}
	for _, h := range hashes {
		p.Hashes = append(p.Hashes, [32]byte(h))
	}
	return p.Marshal(), nil
}

// Proven is a leaf that a head proves.
type Proven struct {
	Indexed
	Head Checkpoint
}

// VerifyProof checks a proof of C2SP tlog-proof for a leaf as it was hashed,
// under the key in the form of VerifierKey. It needs nothing else. Errors wrap
// ErrProof, ErrLeaf, ErrCheckpoint or ErrKey.
func VerifyProof(leaf, b []byte, vkey string) (Proven, error) {
	p, err := readProof(b)
	if err != nil {
		return Proven{}, err
	}
	c, err := OpenCheckpoint(p.Checkpoint, vkey)
	if err != nil {
		return Proven{}, err
	}
	hashes := make([][]byte, len(p.Hashes))
	for i := range p.Hashes {
		hashes[i] = p.Hashes[i][:]
	}
	//bailiwick:check TestReplayedLeaf/auditor
	if err := mproof.VerifyInclusion(hasher, p.Index, c.Size, hasher.HashLeaf(leaf), hashes, c.Root[:]); err != nil {
		return Proven{}, fmt.Errorf("%w: leaf %d: %w", ErrProof, p.Index, err)
	}
	l, err := ParseLeaf(leaf)
	if err != nil {
		return Proven{}, err
	}
	return Proven{Indexed{p.Index, l}, c}, nil
}

// ProofHead is the head in a proof, unverified. Errors wrap ErrProof.
func ProofHead(b []byte) ([]byte, error) {
	p, err := readProof(b)
	return p.Checkpoint, err
}

// readProof takes a proof in its one spelling.
func readProof(b []byte) (p proof.TLogProof, err error) {
	if len(b) > MaxProof {
		return p, fmt.Errorf("%w: %d bytes, at most %d", ErrProof, len(b), MaxProof)
	}
	if err := p.Unmarshal(b); err != nil {
		return p, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if p.ExtraData != nil || !bytes.Equal(p.Marshal(), b) {
		return p, fmt.Errorf("%w: it is spelled another way than C2SP tlog-proof has it", ErrProof)
	}
	return p, nil
}

// ReadGenesisLeaf returns what a genesis says, such as one that VerifyProof
// vouches for at index 0. Errors wrap ErrLeaf.
func ReadGenesisLeaf(l Leaf) (Genesis, error) { return readGenesis(l) }

// Origin is the name that a genesis gives its trail. Errors wrap ErrLeaf or
// ErrNode.
func (g Genesis) Origin() (string, error) { return g.origin() }

// Plain is the body for people and programs that know no CBOR: maps with text
// keys, lists, text, numbers; byte strings in hex. A body that is not CBOR is
// its hex.
func (l Leaf) Plain() any { return plain(l.Body) }
