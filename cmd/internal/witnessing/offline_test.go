package witnessing

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
)

func TestVerdictOfNothing(t *testing.T) {
	if v := Judge(trail.Report{Size: 3}, t.TempDir(), ""); v.Good || v.Why == "" || v.Of != 3 {
		t.Errorf("%+v", v)
	}
	r := trail.Report{Size: 3, Integrity: trail.Verdict{Good: true}, Head: trail.Checkpoint{Origin: "east.dev.example/trail/n1/1", Size: 3, Roster: [32]byte{1}}}
	for _, rosters := range []string{"", filepath.Join(t.TempDir(), "none")} {
		v := Judge(r, t.TempDir(), rosters)
		if v.Good || !strings.Contains(v.String(), "is not at hand") || v.OwnWord != (rosters == "") {
			t.Errorf("%q: %+v", rosters, v)
		}
	}
	if s := (Verdict{Good: true, Size: 2, Of: 3, By: []witness.Cosignature{{Witness: node(4)}}}).String(); !strings.Contains(s, "2 of 3 leaves") || !strings.Contains(s, "n4") {
		t.Error(s)
	}
}
