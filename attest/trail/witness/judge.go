package witness

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// Cosignature is one witness's word on a head.
type Cosignature struct {
	Witness spiffeid.ID `json:"witness"`
	At      time.Time   `json:"at"` // by the witness's clock
}

// Verdict is what the cosignatures of a head are worth. The zero value is no approval.
type Verdict struct {
	Good bool   // Quorum of the head's witnesses cosigned
	Why  string // where not Good

	By   []Cosignature // of the head's own witnesses, first to last
	Seen time.Time     // when Good: no later than this, one honest witness among them had seen it
}

// Judge reads the cosignatures of a head whose own signature the caller has verified.
// rosters finds the one that the head names; a caller who takes it from the head's owner
// takes the owner's word for who its witnesses are.
func Judge(head trail.Checkpoint, rosters func([32]byte) (Roster, bool)) Verdict {
	owner, _, err := trail.ParseOrigin(head.Origin)
	if err != nil {
		return Verdict{Why: err.Error()}
	}
	if head.Roster == ([32]byte{}) {
		return Verdict{Why: fmt.Sprintf("it names no roster: its region has fewer than %d other nodes that may be witnesses", Chosen)}
	}
	r, ok := rosters(head.Roster)
	if !ok || r.Hash() != head.Roster {
		return Verdict{Why: fmt.Sprintf("the roster it names, %x, is not at hand", head.Roster)}
	}
	v := Verdict{}
	//bailiwick:check TestCollusion/not_chosen instead _ = owner; chosen := r.Members()
	chosen := r.Choose(owner)
	for _, line := range lines(signatures(head.Raw)) {
		for _, m := range chosen {
			at, err := Open(head.Text(), line, m)
			//bailiwick:check TestCollusion/twice instead if err != nil { continue }
			if err != nil || slices.ContainsFunc(v.By, func(c Cosignature) bool { return c.Witness == m.ID }) {
				continue
			}
			v.By = append(v.By, Cosignature{m.ID, at})
		}
	}
	slices.SortFunc(v.By, func(a, b Cosignature) int { return a.At.Compare(b.At) })
	//bailiwick:check TestTwoHeads
	if len(v.By) < Quorum {
		v.Why = fmt.Sprintf("%d of its %d witnesses cosigned, %d are needed", len(v.By), len(chosen), Quorum)
		return v
	}
	v.Good = true
	//bailiwick:check TestBackDated instead v.Seen = v.By[0].At
	v.Seen = v.By[Quorum-1].At // if two lie, the third does not
	return v
}

// signatures are the lines of a note below its text.
func signatures(raw []byte) []byte {
	if i := bytes.LastIndex(raw, []byte("\n\n")); i >= 0 {
		return raw[i+2:]
	}
	return nil
}

// Assemble puts cosignature lines below a signed head. Lines that a note cannot hold are
// left out; which of the others count is for Judge.
func Assemble(head []byte, cosignatures ...[]byte) []byte {
	out := bytes.Clone(head)
	for _, c := range cosignatures {
		for _, line := range lines(c) {
			if strings.HasPrefix(line, "— ") {
				out = append(out, line...)
			}
		}
	}
	return out
}
