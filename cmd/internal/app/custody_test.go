package app

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// A trail that does not continue the copy held of it is on record.
func TestDivergingTrailIsRecorded(t *testing.T) {
	a := &App{store: openStore(t, filepath.Join(t.TempDir(), "state.db")), log: slog.New(slog.DiscardHandler)}
	a.trailDiverges(spiffeid.RequireFromString("spiffe://east.dev.example/node/n7"), 3, errors.New("it shows 4 leaves, the copy has 9"))
	leaves, err := a.store.Outbox(0, 10)
	if err != nil || len(leaves) != 1 || leaves[0].Kind != trail.CustodyConflict.Name() {
		t.Errorf("%+v, %v", leaves, err)
	}
}
