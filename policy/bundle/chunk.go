package bundle

import (
	"crypto/sha256"
	"fmt"
	"slices"
)

// ChunkSize is the size of every chunk of a content but the last, in bytes.
const ChunkSize = 64 << 10

// ChunkList is the SHA-256 digests of the chunks of a content, one after the other. Whoever has it
// knows of each chunk by itself whether it is right, whoever sends it.
func ChunkList(content []byte) []byte {
	var list []byte
	for chunk := range slices.Chunk(content, ChunkSize) {
		sum := sha256.Sum256(chunk)
		list = append(list, sum[:]...)
	}
	return list
}

// ChunksDigest is what a record says of a chunk list.
func ChunksDigest(list []byte) [32]byte { return sha256.Sum256(list) }

// Count is how many chunks the content has.
func (r *Record) Count() int { return int((r.Size + ChunkSize - 1) / ChunkSize) }

// Travels reports why the content cannot be fetched from peers: a record without the digest of its
// chunks travels with its content in a file only. Errors wrap ErrFeature.
func (r *Record) Travels() error {
	if r.Chunks == ([32]byte{}) {
		return fmt.Errorf("%w: %s carries no list of chunks: sign it again", ErrFeature, r)
	}
	return nil
}

// CheckList reports whether a list is that of the record's chunks. Errors wrap ErrDigest.
func (r *Record) CheckList(list []byte) error {
	if len(list) != r.Count()*sha256.Size || ChunksDigest(list) != r.Chunks {
		return fmt.Errorf("%w: %s: its list of chunks has %d bytes, want %d with SHA-256 %x", ErrDigest, r, len(list), r.Count()*sha256.Size, r.Chunks)
	}
	return nil
}

// CheckChunk reports whether a chunk is the i-th that a list names; CheckList has vouched for
// the list. Errors wrap ErrDigest.
func (r *Record) CheckChunk(list []byte, i int, chunk []byte) error {
	want := uint64(ChunkSize)
	if i == r.Count()-1 {
		want = r.Size - uint64(i)*ChunkSize
	}
	if uint64(len(chunk)) != want || sha256.Sum256(chunk) != [32]byte(list[i*sha256.Size:]) {
		return fmt.Errorf("%w: %s: chunk %d has %d bytes, want %d with another SHA-256", ErrDigest, r, i, len(chunk), want)
	}
	return nil
}
