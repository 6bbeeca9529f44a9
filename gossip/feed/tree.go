package feed

import (
	"crypto/sha256"
	"math/bits"
	"slices"
)

// Merkle tree of RFC 6962 §2.1 with SHA-256. Trees here are small and built whole.

const leafPrefix = 0

func leafHash(b []byte) [32]byte {
	return sha256.Sum256(append([]byte{leafPrefix}, b...))
}

func nodeHash(l, r [32]byte) [32]byte {
	var b [65]byte
	b[0] = 1
	copy(b[1:], l[:])
	copy(b[33:], r[:])
	return sha256.Sum256(b[:])
}

// split returns the largest power of two below n; n is at least 2.
func split(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }

// treeHash is the hash of a tree of leaves with these hashes.
func treeHash(hashes [][32]byte) [32]byte { return fold(slices.Clone(hashes)) }

// fold is treeHash, level by level, in the place of the hashes. What has no partner on its level
// goes up as it is: so the left side of each node is the largest power of two, as RFC 6962 has it.
func fold(hashes [][32]byte) [32]byte {
	if len(hashes) == 0 {
		return sha256.Sum256(nil)
	}
	var b [65]byte
	b[0] = 1
	for n := len(hashes); n > 1; n = (n + 1) / 2 {
		for i := range n / 2 {
			copy(b[1:], hashes[2*i][:])
			copy(b[33:], hashes[2*i+1][:])
			hashes[i] = sha256.Sum256(b[:])
		}
		if n%2 == 1 {
			hashes[n/2] = hashes[n-1]
		}
	}
	return hashes[0]
}

// treeRoot is the tree hash of leaf inputs.
func treeRoot(leaves [][]byte) [32]byte {
	hashes := make([][32]byte, len(leaves))
	for i, l := range leaves {
		hashes[i] = leafHash(l)
	}
	return fold(hashes)
}

// treePath is the audit path of leaf i (RFC 6962 §2.1.1), leaf's sibling first.
func treePath(hashes [][32]byte, i int) [][32]byte {
	n := len(hashes)
	if n <= 1 {
		return nil
	}
	if k := split(n); i < k {
		return append(treePath(hashes[:k], i), treeHash(hashes[k:]))
	} else {
		return append(treePath(hashes[k:], i-k), treeHash(hashes[:k]))
	}
}

// pathRoot folds an audit path; ok is false when its length does not fit a leaf
// i of n.
func pathRoot(leaf [32]byte, i, n int, path [][32]byte) (root [32]byte, ok bool) {
	if i < 0 || i >= n {
		return root, false
	}
	if n == 1 {
		return leaf, len(path) == 0
	}
	if len(path) == 0 {
		return root, false
	}
	top, rest := path[len(path)-1], path[:len(path)-1]
	if k := split(n); i < k {
		root, ok = pathRoot(leaf, i, k, rest)
		return nodeHash(root, top), ok
	} else {
		root, ok = pathRoot(leaf, i-k, n-k, rest)
		return nodeHash(top, root), ok
	}
}
