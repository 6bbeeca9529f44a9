package witness

import (
	"crypto/sha256"
	"math/bits"
)

// implied computes the two roots that a consistency proof (RFC 9162 section 2.1.4.2)
// stands for: that of the first size1 leaves, and that of all size2. Where size1 is a
// power of two the proof leaves the first root out, and root1 is taken for it. false: it
// is no proof of these sizes. 0 < size1 < size2.
func implied(size1, size2 uint64, proof [][32]byte, root1 [32]byte) (first, second [32]byte, ok bool) {
	if bits.OnesCount64(size1) == 1 {
		proof = append([][32]byte{root1}, proof...)
	}
	if len(proof) == 0 {
		return first, second, false
	}
	fn, sn := size1-1, size2-1
	for fn&1 == 1 {
		fn, sn = fn>>1, sn>>1
	}
	first, second = proof[0], proof[0]
	for _, c := range proof[1:] {
		if sn == 0 {
			return first, second, false
		}
		if fn&1 == 1 || fn == sn {
			first, second = parent(c, first), parent(c, second)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			second = parent(second, c)
		}
		fn, sn = fn>>1, sn>>1
	}
	return first, second, sn == 0
}

// parent is the hash of an inner node (RFC 6962 section 2.1).
func parent(left, right [32]byte) [32]byte {
	b := make([]byte, 1, 65)
	b[0] = 1
	return sha256.Sum256(append(append(b, left[:]...), right[:]...))
}
