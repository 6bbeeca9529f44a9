package app

import (
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/governing"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
)

// What a node says of a rollout is bounded when it is written and when it is read, whatever the
// reason is made of.
func TestRolloutOnTheWire(t *testing.T) {
	long := governing.Rolled{Outlook: rollout.Outlook{State: rollout.State{Phase: rollout.Stopped, Since: time.Now(), Reason: "x" + strings.Repeat("ü", maxReason)}}}
	for name, c := range map[string]struct {
		wire rolloutWire
		ok   bool
	}{
		"a long reason":                   {rolloutOnWire(long), true},
		"a longer one of somebody else's": {rolloutWire{Phase: "stopped", Reason: strings.Repeat("x", maxReason+1)}, false},
		"a phase without an end":          {rolloutWire{Phase: strings.Repeat("x", maxPhase+1)}, false},
	} {
		b, err := statement.Marshal(generationRecord{Levels: []levelWire{}, Rollouts: []rolloutWire{c.wire}})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := parseGeneration(policyKey, b); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
