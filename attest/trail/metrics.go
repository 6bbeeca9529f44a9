package trail

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of one trail. A nil *metrics counts nothing.
type metrics struct {
	reg      prometheus.Registerer
	all      []prometheus.Collector
	gaps     prometheus.Counter
	failures prometheus.Counter
}

func (t *Trail) register(reg prometheus.Registerer) *metrics {
	if reg == nil {
		return nil
	}
	m := &metrics{
		reg: reg,
		gaps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bailiwick_trail_gap_events_total",
			Help: "Events that are in the trail only as a gap.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bailiwick_trail_drain_failures_total",
			Help: "Tries to move leaves from the outbox into the trail that failed.",
		}),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	m.all = []prometheus.Collector{
		m.gaps, m.failures,
		gauge("bailiwick_trail_size", "Leaves under the trail's head.", func() float64 { return float64(t.Head().Size) }),
		gauge("bailiwick_trail_outbox_depth", "Leaves that wait in the outbox.", func() float64 {
			n, err := t.cfg.Store.Pending()
			if err != nil {
				return -1
			}
			return float64(n)
		}),
		gauge("bailiwick_trail_checkpoint_age_seconds", "Seconds since the trail's head was signed.", func() float64 {
			return time.Since(t.Head().At).Seconds()
		}),
	}
	for _, c := range m.all {
		if err := reg.Register(c); err != nil {
			t.log.Warn("trail: metric not registered", "err", err)
		}
	}
	return m
}

// unregister makes room for the trail of the next epoch.
func (m *metrics) unregister() {
	if m == nil {
		return
	}
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}

func (m *metrics) gap(n uint64) {
	if m != nil {
		m.gaps.Add(float64(n))
	}
}

func (m *metrics) failure() {
	if m != nil {
		m.failures.Inc()
	}
}
