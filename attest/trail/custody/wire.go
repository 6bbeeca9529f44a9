package custody

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// MaxQuestion and MaxAnswer bound what goes over a stream, in bytes.
const (
	MaxQuestion = 2560
	MaxAnswer   = maxPart + 96<<10

	maxPart   = 256 << 10 // of leaves or of a file in one answer; a single leaf may be larger
	maxEpochs = 4096
	maxNames  = 4096    // of files of one folder
	headOnly  = 1 << 62 // a From beyond all leaves
)

var (
	// ErrQuestion means that bytes are no question for a trail. The asker is at fault.
	ErrQuestion = errors.New("not a question for a trail")
	// ErrAnswer means that bytes are no answer, or none to what was asked. Ask another.
	ErrAnswer = errors.New("not an answer about a trail")
	// ErrNotCustodian means that the asker has no part in this trail: it neither owns it nor ranks
	// among its custodians, or is of another region.
	ErrNotCustodian = errors.New("the asker is no custodian of this trail")
)

type question struct {
	Owner  string `cbor:"1,keyasint"`
	Epoch  uint64 `cbor:"2,keyasint,omitempty"`
	From   uint64 `cbor:"3,keyasint,omitempty"`
	File   string `cbor:"4,keyasint,omitempty"`
	Offset uint64 `cbor:"5,keyasint,omitempty"`
	Seen   bool   `cbor:"6,keyasint,omitempty"`
	Folder string `cbor:"7,keyasint,omitempty"`

	owner spiffeid.ID
}

// headOnly reports whether a question is for a head alone.
func (q question) headOnly() bool {
	return q.File == "" && q.Folder == "" && !q.Seen && q.From >= headOnly
}

func parseQuestion(b []byte) (q question, err error) {
	if len(b) > MaxQuestion {
		return q, fmt.Errorf("%w: %d bytes, at most %d", ErrQuestion, len(b), MaxQuestion)
	}
	if err := statement.Unmarshal(b, &q); err != nil {
		return q, fmt.Errorf("%w: %w", ErrQuestion, err)
	}
	if q.owner, err = spiffeid.FromString(q.Owner); err != nil || folder(q.owner) == "" {
		return q, fmt.Errorf("%w: %q is no node", ErrQuestion, q.Owner)
	}
	named := q.File != "" || q.Folder != ""
	if q.File != "" && !plainName(q.File) || q.Folder != "" && !plainName(q.Folder) ||
		named && (q.Epoch != 0 || q.From != 0 || q.Seen) || q.File == "" && q.Offset != 0 || q.Offset > 1<<40 {
		return q, fmt.Errorf("%w: it asks for leaves and a file at once, or for %q in %q", ErrQuestion, q.File, q.Folder)
	}
	return q, nil
}

// plainName refuses whatever could name something outside of a folder.
func plainName(s string) bool {
	for i, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '.' || i == 0) {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 64
}

type answer struct {
	Epochs []uint64 `cbor:"1,keyasint,omitempty"` // that are there, growing
	Head   []byte   `cbor:"2,keyasint,omitempty"`
	Leaves [][]byte `cbor:"3,keyasint,omitempty"`
	Part   []byte   `cbor:"4,keyasint,omitempty"`
	Hashes []byte   `cbor:"6,keyasint,omitempty"` // of the bundle that begins with the first leaf, which its owner removed by age
	Heads  [][]byte `cbor:"7,keyasint,omitempty"` // that were witnessed earlier, by size
	Names  []string `cbor:"8,keyasint,omitempty"` // of the files of a folder
	Seen   []byte   `cbor:"5,keyasint,omitempty"` // the newest head that witnesses cosigned, where it is another
}

func parseAnswer(b []byte) (a answer, err error) {
	if len(b) > MaxAnswer {
		return a, fmt.Errorf("%w: %d bytes, at most %d", ErrAnswer, len(b), MaxAnswer)
	}
	if err := statement.Unmarshal(b, &a); err != nil {
		return a, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	for i, e := range a.Epochs {
		if i >= maxEpochs || i > 0 && e <= a.Epochs[i-1] {
			return a, fmt.Errorf("%w: its epochs do not grow, or are more than %d", ErrAnswer, maxEpochs)
		}
	}
	if len(a.Names) > maxNames || slices.ContainsFunc(a.Names, func(s string) bool { return !plainName(s) }) {
		return a, fmt.Errorf("%w: names of files that are none, or more than %d", ErrAnswer, maxNames)
	}
	return a, nil
}
