package witness

import (
	"errors"
	"fmt"
	"math/bits"
	"net/http"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// Reason says why a witness refused, in a word that is the same everywhere.
type Reason string

const (
	Malformed Reason = "malformed" // not a request
	Unknown   Reason = "unknown"   // nobody's trail
	Unsigned  Reason = "unsigned"  // not signed by the trail's key
	OtherKey  Reason = "other-key" // the trail has another key than before
	Forked    Reason = "forked"    // a Conflict is known already
	Fork      Reason = "fork"      // a Conflict was found now
	Rollback  Reason = "rollback"  // a signed head of fewer leaves than one cosigned before
	Behind    Reason = "behind"    // the proof is from another size than the one cosigned last
	NoProof   Reason = "no-proof"  // the proof does not prove it
	NotMine   Reason = "not-mine"  // the roster is unknown, or names others
	NotKept   Reason = "not-kept"  // the disk failed, or there is no room
)

// Hint reports whether a refusal is worth telling: the trail's own key signed what does
// not fit. Alone it proves nothing against the node.
func (r Reason) Hint() bool { return slices.Contains([]Reason{Fork, Rollback, NoProof}, r) }

// Log is a trail as a witness knows it from signed records.
type Log struct {
	Owner spiffeid.ID
	Key   string // as trail.VerifierKey prints it
}

// Kept is what a witness remembers of one trail. The zero value: nothing.
type Kept struct {
	Key    string
	Size   uint64
	Root   [32]byte
	Head   []byte // as its owner signed it
	Forked bool
}

// Outcome is what a witness has to do about a request. Status and Size are the answer;
// Keep is to be durable before anything is said.
type Outcome struct {
	Status   int
	Size     uint64 // with status 409: of the head cosigned last
	Why      Reason // empty: cosign Text
	Detail   string // of Why, for people
	Text     string
	Keep     *Kept
	Conflict *Conflict
}

// Decide applies the rules of the package doc to one request. self and roster say who the
// witness is, and which rosters it has worked out. It reads no clock.
func Decide(kept Kept, log Log, req Request, self spiffeid.ID, roster func([32]byte) (Roster, bool)) Outcome {
	refuse := func(status int, why Reason, format string, args ...any) Outcome {
		return Outcome{Status: status, Size: kept.Size, Why: why, Detail: fmt.Sprintf(format, args...)}
	}
	if kept.Key != "" && kept.Key != log.Key {
		return refuse(http.StatusForbidden, OtherKey, "its heads were signed by %.60s...", kept.Key)
	}
	head, err := trail.OpenCheckpoint(req.Head, log.Key)
	if err != nil {
		return refuse(http.StatusForbidden, Unsigned, "%v", err)
	}
	switch {
	case kept.Forked:
		return refuse(http.StatusForbidden, Forked, "two histories of this trail are signed")
	case req.Old > head.Size:
		return refuse(http.StatusBadRequest, Malformed, "the old size is %d, the head's %d", req.Old, head.Size)
	//bailiwick:check TestRestoredDisk/older_head
	case head.Size < kept.Size:
		return refuse(http.StatusConflict, Rollback, "a signed head of %d leaves after one of %d", head.Size, kept.Size)
	//bailiwick:check TestRewrittenTrail
	case head.Size == kept.Size && kept.Size > 0 && head.Root != kept.Root:
		return conflicts(kept, Conflict{Key: log.Key, First: kept.Head, Second: req.Head}, refuse(http.StatusConflict, Fork, "two roots of %d leaves", kept.Size))
	case req.Old != kept.Size:
		return refuse(http.StatusConflict, Behind, "the proof is from %d leaves, the head cosigned last has %d", req.Old, kept.Size)
	case (req.Old == 0 || req.Old == head.Size) && len(req.Proof) > 0:
		return refuse(http.StatusUnprocessableEntity, NoProof, "a proof of %d lines where none is due", len(req.Proof))
	case req.Old > 0 && req.Old < head.Size:
		first, second, ok := implied(req.Old, head.Size, req.Proof, kept.Root)
		no := refuse(http.StatusUnprocessableEntity, NoProof, "the head of %d leaves does not follow from its proof", head.Size)
		switch {
		case !ok || second != head.Root:
			return no
		//bailiwick:check TestRestoredDisk/goes_on TestTwoHeads
		case first != kept.Root:
			no.Why, no.Detail = Fork, fmt.Sprintf("the first %d of its %d leaves are others than before", req.Old, head.Size)
			return conflicts(kept, Conflict{Key: log.Key, First: kept.Head, Second: req.Head, Proof: req.Proof}, no)
		}
	}
	r, known := roster(head.Roster)
	if !known || !slices.ContainsFunc(r.Choose(log.Owner), func(m Member) bool { return m.ID == self }) {
		return refuse(http.StatusForbidden, NotMine, "roster %.16x...: known %t", head.Roster, known)
	}
	return Outcome{
		Status: http.StatusOK, Text: head.Text(),
		Keep: &Kept{Key: log.Key, Size: head.Size, Root: head.Root, Head: req.Head},
	}
}

// conflicts turns a refusal into one with its proof, which is checked as anybody will:
// a witness accuses nobody whom its own evidence does not convict.
func conflicts(kept Kept, c Conflict, o Outcome) Outcome {
	if _, err := c.Verify(); err != nil {
		o.Why, o.Detail = NoProof, err.Error()
		return o
	}
	kept.Forked = true
	o.Keep, o.Conflict = &kept, &c
	return o
}

// ErrConflict means two heads and a proof do not show two histories: they convict nobody.
var ErrConflict = errors.New("the heads do not contradict each other")

// Conflict is two heads of one trail, both signed by its key, that no one history has.
type Conflict struct {
	Key    string     // the trail's, as trail.VerifierKey prints it
	First  []byte     // a head
	Second []byte     // a head of as many leaves, or of more
	Proof  [][32]byte // where it is of more: First's size to Second's, valid for another first root
}

// Verify checks that the heads contradict each other, and returns the first. That the key
// is its node's is for the caller to check. Errors wrap ErrConflict, trail.ErrCheckpoint
// or trail.ErrKey.
func (c Conflict) Verify() (trail.Checkpoint, error) {
	a, err := trail.OpenCheckpoint(c.First, c.Key)
	if err != nil {
		return a, fmt.Errorf("first head: %w", err)
	}
	b, err := trail.OpenCheckpoint(c.Second, c.Key)
	if err != nil {
		return a, fmt.Errorf("second head: %w", err)
	}
	switch {
	case a.Size == b.Size && a.Root != b.Root && len(c.Proof) == 0:
		return a, nil
	case a.Size == 0 || a.Size >= b.Size:
		return a, fmt.Errorf("%w: %d leaves and %d", ErrConflict, a.Size, b.Size)
	case bits.OnesCount64(a.Size) == 1:
		return a, fmt.Errorf("%w: a proof from %d leaves, a power of two, names no first root", ErrConflict, a.Size)
	}
	first, second, ok := implied(a.Size, b.Size, c.Proof, a.Root)
	if !ok || second != b.Root || first == a.Root {
		return a, fmt.Errorf("%w: the proof from %d leaves to %d shows no other first root", ErrConflict, a.Size, b.Size)
	}
	return a, nil
}
