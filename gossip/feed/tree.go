package feed

import (
	"crypto/sha256"
	"math/bits"
)

// Merkle tree of RFC 6962 §2.1 with SHA-256. Trees here are small and built whole.

func leafHash(b []byte) [32]byte {
	return sha256.Sum256(append([]byte{0}, b...))
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

func treeHash(hashes [][32]byte) [32]byte {
	switch n := len(hashes); n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return hashes[0]
	default:
		k := split(n)
		return nodeHash(treeHash(hashes[:k]), treeHash(hashes[k:]))
	}
}

// treeRoot is the tree hash of leaf inputs.
func treeRoot(leaves [][]byte) [32]byte {
	hashes := make([][32]byte, len(leaves))
	for i, l := range leaves {
		hashes[i] = leafHash(l)
	}
	return treeHash(hashes)
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

// OpsRoot returns the ops root of ops. Writers need not call it; whoever makes
// records by hand, in tests of hostile nodes, does.
func OpsRoot(ops []Op) [32]byte {
	ls, err := leaves(ops)
	if err != nil {
		panic(err) // a struct of strings, numbers and bytes always encodes
	}
	return treeRoot(ls)
}
