package travel

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// MaxQuestion and MaxAnswer bound what goes over a stream, in bytes.
const (
	MaxQuestion = 64
	MaxAnswer   = bundle.ChunkSize
)

// maxParts is the list and the chunks of the largest content.
const maxParts = 1 + (bundle.MaxContent+bundle.ChunkSize-1)/bundle.ChunkSize

// ErrQuestion means that bytes are no question for a part of a content. The asker is at fault.
var ErrQuestion = errors.New("not a question for policy content")

// question asks for one part of a content.
type question struct {
	Digest [32]byte `cbor:"1,keyasint"`
	Part   uint32   `cbor:"2,keyasint,omitempty"` // 0: the list of chunks
}

func (q question) encode() []byte {
	b, err := statement.Marshal(q)
	if err != nil {
		panic(err) // of a fixed form
	}
	return b
}

func parseQuestion(b []byte) (q question, err error) {
	if len(b) > MaxQuestion {
		return q, fmt.Errorf("%w: %d bytes, at most %d", ErrQuestion, len(b), MaxQuestion)
	}
	if err := statement.Unmarshal(b, &q); err != nil {
		return q, fmt.Errorf("%w: %w", ErrQuestion, err)
	}
	if q.Part >= maxParts {
		return q, fmt.Errorf("%w: part %d, at most %d", ErrQuestion, q.Part, maxParts-1)
	}
	return q, nil
}

// cut returns a part of a whole content.
func cut(content []byte, part int) []byte {
	if part == 0 {
		return bundle.ChunkList(content)
	}
	from := (part - 1) * bundle.ChunkSize
	if from >= len(content) {
		return nil
	}
	return content[from:min(from+bundle.ChunkSize, len(content))]
}

// check reports whether a part is what the record wants there. list is the record's, checked.
func check(r *bundle.Record, list []byte, part int, b []byte) error {
	if part == 0 {
		return r.CheckList(b)
	}
	return r.CheckChunk(list, part-1, b)
}

// size is how long an answer may be.
func size(r *bundle.Record, part int) int {
	if part == 0 {
		return r.Count() * sha256.Size
	}
	return bundle.ChunkSize
}
