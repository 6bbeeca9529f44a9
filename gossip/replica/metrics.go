package replica

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

type metrics struct {
	records  *prometheus.CounterVec
	certs    *prometheus.CounterVec
	findings *prometheus.CounterVec
	denied   prometheus.Counter
	own      prometheus.Counter
	pulls    prometheus.Counter
	commits  prometheus.Histogram
	missing  prometheus.Gauge
	owed     prometheus.Gauge
	sessions prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "bailiwick_gossip_" + name + "_total", Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "bailiwick_gossip_" + name + "_total", Help: help}, []string{label})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: "bailiwick_gossip_" + name, Help: help})
	}
	m := &metrics{
		records:  vec("records", "Foreign records judged, by verdict.", "verdict"),
		certs:    vec("certificates", "Epoch certificates not taken, by reason.", "reason"),
		findings: vec("findings", "New findings, by class.", "class"),
		denied:   counter("denied_ops", "Foreign ops that policy did not let apply."),
		own:      counter("own_records", "Records written by this node."),
		pulls:    counter("pulls", "Ranges of records asked for."),
		commits: f.NewHistogram(prometheus.HistogramOpts{
			Name: "bailiwick_gossip_commit_seconds", Help: "Time to make a batch durable.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
		missing:  gauge("missing_records", "Sync debt: signed heads known less records held."),
		owed:     gauge("owed_records", "Records held that attached or former peers lack, summed."),
		sessions: gauge("sessions", "Gossip sessions attached."),
	}
	for _, v := range feed.Verdicts() {
		m.records.WithLabelValues(v.String())
	}
	return m
}

func (m *metrics) verdict(v feed.Verdict) { m.records.WithLabelValues(v.String()).Inc() }
