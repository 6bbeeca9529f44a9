package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
)

// TestDebtMetrics: the sync debt of each peer and each region, and of nobody whom it does
// not concern any more.
func TestDebtMetrics(t *testing.T) {
	debt := replica.Debt{Peers: []replica.PeerDebt{
		{Peer: nodeN1, Attached: true, Missing: replica.Backlog{Records: 3, Bytes: 700, Oldest: 2 * time.Second}},
		{Peer: liar, Owed: replica.Backlog{Records: 5, Bytes: 900, Oldest: time.Minute}},
		{Peer: nodeN1.TrustDomain().ID()}, // gone, and nothing is owed
	}}
	var busy error
	d := debts{
		peers: func(context.Context) (replica.Debt, error) { return debt, busy },
		regions: func(time.Time) map[string]*controlv1.RegionDebt {
			return map[string]*controlv1.RegionDebt{"west": {HeardSeconds: 7, Summaries: 2, OldestSeconds: 9}, "north": {HeardSeconds: -1}}
		},
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(d)
	shown := func() map[string]float64 {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				name := f.GetName()
				for _, l := range m.Label {
					name += " " + l.GetValue()
				}
				out[name] = m.GetGauge().GetValue()
			}
		}
		return out
	}
	regions := map[string]float64{
		"bailiwick_sync_region_heard_seconds west": 7, "bailiwick_sync_region_owed_summaries west": 2, "bailiwick_sync_region_owed_seconds west": 9,
		"bailiwick_sync_region_heard_seconds north": -1, "bailiwick_sync_region_owed_summaries north": 0, "bailiwick_sync_region_owed_seconds north": 0,
	}
	want := maps.Clone(regions)
	for name, value := range map[string]float64{
		"records %s missing": 3, "bytes %s missing": 700, "seconds %s missing": 2, "records %s owed": 0, "bytes %s owed": 0, "seconds %s owed": 0,
	} {
		want["bailiwick_sync_peer_"+fmt.Sprintf(name, nodeN1)] = value
	}
	for name, value := range map[string]float64{
		"records %s missing": 0, "bytes %s missing": 0, "seconds %s missing": 0, "records %s owed": 5, "bytes %s owed": 900, "seconds %s owed": 60,
	} {
		want["bailiwick_sync_peer_"+fmt.Sprintf(name, liar)] = value
	}
	if got := shown(); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	busy = errors.New("the loop does not answer")
	if got := shown(); !maps.Equal(got, regions) {
		t.Errorf("while the node is busy: %v", got)
	}
}
