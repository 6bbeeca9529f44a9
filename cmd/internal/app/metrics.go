package app

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
)

// gauges are what an operator watches of the node itself, read when asked for.
func (a *App) gauges() error {
	for name, g := range map[string]struct {
		help  string
		value func() float64
	}{
		"bailiwick_identity_svid_remaining_seconds": {"Time until the node's SVID ends; below zero it has, or there was none yet.", func() float64 {
			node := a.creds.Now().Node
			if node == nil {
				return -1
			}
			return time.Until(node.Certificates[0].NotAfter).Seconds()
		}},
		"bailiwick_identity_renewal_overdue_seconds": {"How long the node has tried in vain to renew what is due.", func() float64 {
			since, _ := a.creds.Trouble()
			if since.IsZero() {
				return 0
			}
			return max(0, time.Since(since).Seconds())
		}},
		"bailiwick_lease_remaining_seconds": {"Time until the autonomy lease runs out; 0 once its degraded mode applies.", func() float64 {
			status, _, _ := a.lease.status(time.Now())
			return status.Remaining.Seconds()
		}},
		"bailiwick_policy_drift_nodes": {"Nodes of the region that do not enforce the newest policy known here for them, or have not said what they enforce.", func() float64 {
			_, behind := a.policyDrift(time.Now())
			return float64(behind)
		}},
		"bailiwick_policy_stale_in_seconds": {"Time until a level of policy in force has been without news for too long; 0 once one has, +Inf where no level has a bound.", func() float64 {
			left := math.Inf(1)
			for _, v := range a.policies.InForce() {
				if s := v.Record.Staleness(a.lease.quiet(time.Now())); s.Bounded {
					left = min(left, s.Left.Seconds())
				}
			}
			return left
		}},
		"bailiwick_policy_rollouts_stopped": {"Staged policies that this node stopped because they deny or fail too much; a newer version ends that.", func() float64 {
			stopped := 0
			for _, x := range a.rolling.Progress() {
				if x.Outlook.State.Phase == rollout.Stopped {
					stopped++
				}
			}
			return float64(stopped)
		}},
		"bailiwick_standing_cases": {"Identities of the region that are or were not in good standing here.", func() float64 {
			return float64(len(a.standing.set.Cases(time.Now())))
		}},
		"bailiwick_standing_accused": {"Nodes of the region that this node accuses, as their assigned observer.", func() float64 {
			return float64(a.accusing.count(time.Now()))
		}},
		"bailiwick_standing_capped": {"Identities whose sessions are kept here only because the cap on cutting them is reached: somebody has to look.", func() float64 {
			return float64(len(a.standing.set.Capped(time.Now(), a.standing.roster())))
		}},
	} {
		if err := a.metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: g.help}, g.value)); err != nil {
			return err
		}
	}
	return a.metrics.Register(debts{a.replica.Debt, a.regionDebts})
}
