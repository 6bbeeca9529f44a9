package witnessing

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
)

// Verdict says how much of a verified trail its peers saw. The zero value: nothing.
type Verdict struct {
	Good    bool                  `json:"good"` // a head of Size leaves is witnessed
	Size    uint64                `json:"size"`
	Of      uint64                `json:"of"` // leaves under the newest head
	By      []witness.Cosignature `json:"by,omitempty"`
	Seen    time.Time             `json:"seen,omitzero"` // leaves up to Size existed by then
	Why     string                `json:"why,omitempty"` // where not Good
	OwnWord bool                  `json:"own_word"`      // who the witnesses are was read beside the trail itself
}

// Judge judges the cosignatures of the newest head of a trail and of the newest one kept as
// witnessed; what Verify found of them must be good. rosters is a folder of rosters (their
// files are named by their hashes) from a node that the caller believes; empty: those of
// dir, the folder of all epochs of the trail, which is the owner's own word.
func Judge(r trail.Report, dir, rosters string) Verdict {
	v := Verdict{Of: r.Size, OwnWord: rosters == ""}
	if !r.Integrity.Good {
		v.Why = "integrity fails"
		return v
	}
	if v.OwnWord {
		rosters = filepath.Join(dir, RostersDir)
	}
	find := func(hash [32]byte) (witness.Roster, bool) {
		found, err := readRoster(rosters, hash)
		return found, err == nil
	}
	heads := []trail.Checkpoint{r.Head}
	if r.Witnessed != nil && r.Completeness.Good {
		heads = append(heads, *r.Witnessed)
	}
	for _, c := range heads {
		judged := witness.Judge(c, find)
		if judged.Good || v.Why == "" || len(judged.By) > len(v.By) {
			v.Good, v.Size, v.By, v.Seen, v.Why = judged.Good, c.Size, judged.By, judged.Seen, judged.Why
		}
		if v.Good {
			return v
		}
	}
	v.Size = 0
	return v
}

// String is the verdict in a line.
func (v Verdict) String() string {
	if !v.Good {
		return fmt.Sprintf("none: %s; the head binds the node, but another head could have been shown elsewhere", v.Why)
	}
	var names []string
	for _, c := range v.By {
		id := c.Witness.String()
		names = append(names, id[strings.LastIndexByte(id, '/')+1:])
	}
	said := "as the rosters given say"
	if v.OwnWord {
		said = "as the rosters beside the trail say"
	}
	return fmt.Sprintf("%d of %d leaves, seen by %s, by %d of its %d witnesses: %s, %s",
		v.Size, v.Of, v.Seen.UTC().Format(time.RFC3339), len(v.By), witness.Chosen, strings.Join(names, ", "), said)
}
