package trail

import (
	"encoding/json"
	"fmt"
	"time"
)

// Verdict is the answer to one question about a trail. The zero value is no
// approval: only Good is.
type Verdict struct {
	Good bool

	// Err is the first thing found wrong. It wraps ErrCheckpoint, ErrLeaf,
	// ErrTile, ErrRoot, ErrSequence, ErrBeyond, ErrRollback or ErrUnjudged.
	Err error

	// Leaf is where: the index of the first leaf that cannot be relied on, or -1
	// where it is not one leaf's fault.
	Leaf int64

	// At is that leaf's time or, where it cannot be read, that of the last leaf
	// before it. Zero where there is none.
	At time.Time
}

func (v Verdict) String() string {
	switch {
	case v.Good:
		return "good"
	case v.Err == nil:
		return "not judged"
	case v.Leaf < 0:
		return v.Err.Error()
	case v.At.IsZero():
		return fmt.Sprintf("leaf %d: %v", v.Leaf, v.Err)
	default:
		return fmt.Sprintf("leaf %d, about %s: %v", v.Leaf, v.At.Format(time.RFC3339), v.Err)
	}
}

// MarshalJSON writes good, and otherwise leaf, at and why.
func (v Verdict) MarshalJSON() ([]byte, error) {
	out := struct {
		Good bool       `json:"good"`
		Leaf *int64     `json:"leaf,omitempty"`
		At   *time.Time `json:"at,omitempty"`
		Why  string     `json:"why,omitempty"`
	}{Good: v.Good}
	if !v.Good {
		out.Why = v.String()
		if v.Leaf >= 0 && v.Err != nil {
			out.Leaf = &v.Leaf
		}
		if !v.At.IsZero() {
			out.At = &v.At
		}
	}
	return json.Marshal(out)
}

// fail keeps the first problem only.
func (v *Verdict) fail(leaf int64, at time.Time, err error) {
	if v.Err == nil {
		v.Err, v.Leaf, v.At = err, leaf, at
	}
}

// Report is what Verify found. Integrity: these are the leaves the node's key
// signed. Completeness: none is missing between them, and none was hidden behind
// an older head.
type Report struct {
	Origin      string `json:"origin"` // as the head says; believe it only with Integrity
	Node        string `json:"node"`
	Epoch       uint64 `json:"epoch"`
	Protection  string `json:"protection"` // of the trail key, as the genesis says
	VerifierKey string `json:"verifier"`   // the key the head was checked with
	OwnWord     bool   `json:"own_word"`   // that key came from the trail's own genesis

	Integrity    Verdict `json:"integrity"`
	Completeness Verdict `json:"completeness"`

	Size  uint64            `json:"size"`
	Root  string            `json:"root"`            // hex
	Kinds map[string]uint64 `json:"kinds,omitempty"` // leaves of each kind
	First time.Time         `json:"first,omitzero"`  // of the genesis
	Last  time.Time         `json:"last,omitzero"`   // of the last leaf
	Lost  uint64            `json:"lost"`            // events that gap leaves say are missing

	// Pruned are leaves that were removed by age, as the trail says itself. Their hashes are proven, their
	// sequence is not, and Kinds does not count them.
	Pruned uint64 `json:"pruned,omitempty"`

	// Head and, where the folder has one, the newest head that was cosigned. Both are
	// signed by the trail's key; who cosigned is for package witness to judge.
	Head      Checkpoint  `json:"-"`
	Witnessed *Checkpoint `json:"-"`
}

// Good reports whether both verdicts are good.
func (r Report) Good() bool { return r.Integrity.Good && r.Completeness.Good }
