package app

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
)

// debts shows the sync debt by peer and by region to Prometheus, read when asked for.
// Peers are those with a session, and those that are gone and one side lacks something.
type debts struct {
	peers   func(context.Context) (replica.Debt, error)
	regions func(time.Time) map[string]*controlv1.RegionDebt
}

var (
	debtRecords   = debtDesc("peer_records", "Records that one side holds and the other lacks, by peer: missing here by signed heads, or owed to it.", "peer", "side")
	debtBytes     = debtDesc("peer_bytes", "The same in bytes.", "peer", "side")
	debtSeconds   = debtDesc("peer_seconds", "Age of the oldest of them that is known of.", "peer", "side")
	regionHeard   = debtDesc("region_heard_seconds", "Age of the newest summary of another region; -1 where there is none yet.", "region")
	regionOwed    = debtDesc("region_owed_summaries", "Summaries of this region that another region's gateways have not acknowledged; of a gateway only.", "region")
	regionSeconds = debtDesc("region_owed_seconds", "Age of the oldest of them.", "region")
)

func debtDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("bailiwick_sync_"+name, help, labels, nil)
}

// Describe is for prometheus.
func (d debts) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{debtRecords, debtBytes, debtSeconds, regionHeard, regionOwed, regionSeconds} {
		to <- desc
	}
}

// Collect is for prometheus. A node that is too busy to say shows no peers.
func (d debts) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), debtTimeout)
	defer cancel()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	if debt, err := d.peers(ctx); err == nil {
		for _, p := range debt.Peers {
			if !p.Attached && p.Missing.Records+p.Owed.Records == 0 {
				continue
			}
			for side, b := range map[string]replica.Backlog{"missing": p.Missing, "owed": p.Owed} {
				gauge(debtRecords, float64(b.Records), p.Peer.String(), side)
				gauge(debtBytes, float64(b.Bytes), p.Peer.String(), side)
				gauge(debtSeconds, b.Oldest.Seconds(), p.Peer.String(), side)
			}
		}
	}
	for region, r := range d.regions(time.Now()) {
		gauge(regionHeard, r.HeardSeconds, region)
		gauge(regionOwed, float64(r.Summaries), region)
		gauge(regionSeconds, r.OldestSeconds, region)
	}
}

// regionDebts is what is known to be missing between this region and each other.
func (a *App) regionDebts(now time.Time) map[string]*controlv1.RegionDebt {
	out := map[string]*controlv1.RegionDebt{}
	for _, r := range a.trust.Regions() {
		if r.TrustDomain == a.cfg.Node.TrustDomain() {
			continue
		}
		debt := &controlv1.RegionDebt{HeardSeconds: -1}
		if e, ok := a.summaries.Region(r.TrustDomain); ok {
			debt.HeardSeconds = now.Sub(e.At).Seconds()
		}
		if a.gateway != nil {
			for _, owed := range a.gateway.Debt() {
				if owed.Peer.TrustDomain() == r.TrustDomain {
					debt.Summaries = max(debt.Summaries, owed.Owed)
					if !owed.Oldest.IsZero() {
						debt.OldestSeconds = max(debt.OldestSeconds, now.Sub(owed.Oldest).Seconds())
					}
				}
			}
		}
		out[r.Region] = debt
	}
	return out
}
