package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// gauges are what an operator watches of the node itself, read when asked for.
func (a *App) gauges() error {
	for name, g := range map[string]struct {
		help  string
		value func() float64
	}{
		"bailiwick_identity_svid_remaining_seconds": {"Time until the node's SVID ends; below zero it has, or there was none yet.", func() float64 {
			node := a.creds.now().node
			if node == nil {
				return -1
			}
			return time.Until(node.Certificates[0].NotAfter).Seconds()
		}},
		"bailiwick_identity_renewal_overdue_seconds": {"How long the node has tried in vain to renew what is due.", func() float64 {
			since, _ := a.creds.trouble()
			if since.IsZero() {
				return 0
			}
			return max(0, time.Since(since).Seconds())
		}},
		"bailiwick_lease_remaining_seconds": {"Time until the autonomy lease runs out; 0 once its degraded mode applies.", func() float64 {
			status, _, _ := a.lease.status(time.Now())
			return status.Remaining.Seconds()
		}},
		"bailiwick_standing_cases": {"Identities of the region that are or were not in good standing here.", func() float64 {
			return float64(len(a.standing.set.Cases(time.Now())))
		}},
	} {
		if err := a.metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: g.help}, g.value)); err != nil {
			return err
		}
	}
	return nil
}
