package app

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
)

// The trail of an epoch ends with a leaf that names the next one; going on in an epoch ends
// nothing.
func TestEpochIsSealed(t *testing.T) {
	a := &App{metrics: prometheus.NewRegistry(), store: openStore(t, filepath.Join(t.TempDir(), "store.db")), log: slog.New(slog.DiscardHandler), gatherer: witnessing.NewGatherer(witnessing.Config{})}
	a.trail = &trailKeeper{dir: filepath.Join(t.TempDir(), "trail"), app: a}
	key := leafKey(t)
	for _, number := range []uint64{1, 1, 4} {
		if err := a.trail.open(numbered(0), number, key, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.trail.close(); err != nil {
		t.Fatal(err)
	}
	for number, want := range map[uint64]uint64{1: 1, 4: 0} {
		r, err := trail.Verify(t.Context(), trail.EpochDir(a.trail.dir, number), trail.Options{Node: numbered(0)})
		if err != nil || !r.Good() || r.Kinds[trail.EpochSeal.Name()] != want {
			t.Errorf("epoch %d: %+v, %v", number, r, err)
		}
	}
	last, err := trail.Tail(t.Context(), trail.EpochDir(a.trail.dir, 1), 1)
	if err != nil || len(last) != 1 || last[0].Kind != trail.EpochSeal.Name() {
		t.Errorf("%+v, %v", last, err)
	}
}
