package feed

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"slices"
	"sort"
)

// Shape of a head tree.
const (
	Fanout    = 16 // children of a subtree
	SmallTree = 8  // heads of a subtree without children
	MaxPrefix = 8  // length of the longest prefix; a subtree there has no children
)

// Prefix names a subtree of a head tree: the first hexadecimal digits of the names in
// it, one a byte. The empty prefix is the whole tree.
type Prefix string

// PrefixOf returns bytes as a prefix, if they are one: at most MaxPrefix of them, each
// below Fanout.
func PrefixOf(b []byte) (p Prefix, ok bool) {
	return Prefix(b), len(b) <= MaxPrefix && !slices.ContainsFunc(b, func(d byte) bool { return d >= Fanout })
}

// Child returns the prefix of a subtree's i-th child.
func (p Prefix) Child(i int) Prefix { return p + Prefix([]byte{byte(i)}) }

// Covers reports whether a feed's head belongs to the subtree.
func (p Prefix) Covers(f FeedID) bool {
	name := treeName(f)
	for i := range p {
		if digit(name, i) != int(p[i]) {
			return false
		}
	}
	return true
}

// treeName is what the tree sorts feeds by.
func treeName(f FeedID) [32]byte {
	return sha256.Sum256(binary.BigEndian.AppendUint64(append([]byte(f.Origin.String()), 0), f.Epoch))
}

func digit(name [32]byte, i int) int {
	return int(name[i/2]>>(4*(1-i%2))) % Fanout
}

// HeadTree is a frontier in the shape in which two nodes find out where theirs
// differ; see the package doc. Moving a head costs O(depth), and hashes are computed
// when they are asked for. The zero value is empty. It is not safe for concurrent use.
type HeadTree struct{ root subtree }

type subtree struct {
	size     int
	leaves   []treeLeaf // by name, where there are no children
	children *[Fanout]subtree
	hash     [32]byte
	hashed   bool
}

type treeLeaf struct {
	name [32]byte
	feed FeedID
	head Head
}

// Set makes h the head of f; one without records takes f out.
func (t *HeadTree) Set(f FeedID, h Head) {
	t.root.set(0, treeLeaf{treeName(f), f, h})
}

// Len returns how many heads a subtree has.
func (t *HeadTree) Len(p Prefix) int {
	s, at := t.find(p)
	if at < len(p) {
		return len(s.under(p))
	}
	return s.size
}

// Hash returns the hash of a subtree: zero when it is empty.
func (t *HeadTree) Hash(p Prefix) [32]byte {
	s, at := t.find(p)
	if at < len(p) {
		return hashLeaves(s.under(p))
	}
	return s.sum()
}

// Children returns the hashes of a subtree's children. It reports false of one that is
// too small to have any: then its heads say more.
func (t *HeadTree) Children(p Prefix) (hashes [Fanout][32]byte, ok bool) {
	s, at := t.find(p)
	if at < len(p) || s.children == nil {
		return hashes, false
	}
	for i := range s.children {
		hashes[i] = s.children[i].sum()
	}
	return hashes, true
}

// Heads yields the heads of a subtree.
func (t *HeadTree) Heads(p Prefix) iter.Seq2[FeedID, Head] {
	return func(yield func(FeedID, Head) bool) {
		s, at := t.find(p)
		if at == len(p) {
			s.each(yield)
			return
		}
		for _, l := range s.under(p) {
			if !yield(l.feed, l.head) {
				return
			}
		}
	}
}

// find returns the subtree at p, or the one without children above it, and its depth.
func (t *HeadTree) find(p Prefix) (*subtree, int) {
	s := &t.root
	for i := range p {
		if s.children == nil {
			return s, i
		}
		s = &s.children[p[i]]
	}
	return s, len(p)
}

// under returns the leaves of a subtree without children that lie below p.
func (s *subtree) under(p Prefix) []treeLeaf {
	return slices.DeleteFunc(slices.Clone(s.leaves), func(l treeLeaf) bool { return !p.Covers(l.feed) })
}

func (s *subtree) each(yield func(FeedID, Head) bool) bool {
	for _, l := range s.leaves {
		if !yield(l.feed, l.head) {
			return false
		}
	}
	if s.children != nil {
		for i := range s.children {
			if !s.children[i].each(yield) {
				return false
			}
		}
	}
	return true
}

// set puts a leaf into the subtree at depth, or takes it out.
func (s *subtree) set(depth int, l treeLeaf) {
	s.hashed = false
	if s.children != nil {
		child := &s.children[digit(l.name, depth)]
		before := child.size
		child.set(depth+1, l)
		if s.size += child.size - before; s.size <= SmallTree {
			s.fold()
		}
		return
	}
	i, had := sort.Find(len(s.leaves), func(i int) int { return bytes.Compare(l.name[:], s.leaves[i].name[:]) })
	switch {
	case l.head.Seq == 0 && had:
		s.leaves = slices.Delete(s.leaves, i, i+1)
	case l.head.Seq == 0:
	case had:
		s.leaves[i] = l
	default:
		s.leaves = slices.Insert(s.leaves, i, l)
	}
	if s.size = len(s.leaves); s.size > SmallTree && depth < MaxPrefix {
		leaves := s.leaves
		s.leaves, s.children = nil, new([Fanout]subtree)
		for _, l := range leaves {
			s.children[digit(l.name, depth)].set(depth+1, l)
		}
	}
}

// fold makes a subtree that has become small one without children.
func (s *subtree) fold() {
	var leaves []treeLeaf
	for i := range s.children {
		leaves = append(leaves, s.children[i].leaves...) // small as well, so without children
	}
	s.leaves, s.children = leaves, nil
}

func (s *subtree) sum() [32]byte {
	switch {
	case s.hashed:
	case s.children == nil:
		s.hash = hashLeaves(s.leaves)
	default:
		h := sha256.New()
		h.Write([]byte{1})
		for i := range s.children {
			child := s.children[i].sum()
			h.Write(child[:])
		}
		h.Sum(s.hash[:0])
	}
	s.hashed = true
	return s.hash
}

func hashLeaves(leaves []treeLeaf) (hash [32]byte) {
	if len(leaves) == 0 {
		return hash
	}
	h := sha256.New()
	h.Write([]byte{0})
	var seq [8]byte
	for _, l := range leaves {
		h.Write(l.name[:])
		binary.BigEndian.PutUint64(seq[:], l.head.Seq)
		h.Write(seq[:])
		h.Write(l.head.ID[:])
	}
	h.Sum(hash[:0])
	return hash
}
