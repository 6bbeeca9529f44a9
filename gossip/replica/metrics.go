package replica

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

type metrics struct {
	records   *prometheus.CounterVec
	certs     *prometheus.CounterVec
	findings  *prometheus.CounterVec
	denied    *prometheus.CounterVec
	own       prometheus.Counter
	pulls     prometheus.Counter
	snapshots prometheus.Counter
	commits   prometheus.Histogram
	missing   debtGauges
	owed      debtGauges
	sessions  *prometheus.GaugeVec
	sent      *prometheus.CounterVec
	waiting   *prometheus.GaugeVec
	prunes    prometheus.Counter
	mesh      prometheus.Gauge
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
		records:   vec("records", "Foreign records judged, by verdict.", "verdict"),
		certs:     vec("certificates", "Epoch certificates not taken, by reason.", "reason"),
		findings:  vec("findings", "New findings, by class.", "class"),
		denied:    vec("denied_ops", "Foreign ops that do not apply here: their kind's schema, or policy.", "why"),
		own:       counter("own_records", "Records written by this node."),
		pulls:     counter("pulls", "Ranges of records asked for."),
		snapshots: counter("snapshots", "Snapshots that became complete here, own and foreign; what they supersede was pruned."),
		commits: f.NewHistogram(prometheus.HistogramOpts{
			Name: "bailiwick_gossip_commit_seconds", Help: "Time to make a batch durable.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
		missing: debtGauges{
			gauge("missing_records", "Sync debt: signed heads known less records held."),
			gauge("missing_bytes", "Sync debt in bytes."),
			gauge("missing_seconds", "Age of the oldest missing record that is known of."),
		},
		owed: debtGauges{
			gauge("owed_records", "Records held that attached or former peers lack, summed."),
			gauge("owed_bytes", "The same in bytes."),
			gauge("owed_seconds", "Age of the oldest record that a peer lacks."),
		},
		sessions: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "bailiwick_gossip_sessions", Help: "Gossip sessions attached, by mode.",
		}, []string{"mode"}),
		sent: vec("sent_bytes", "Bytes of frames sent, by class.", "class"),
		waiting: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "bailiwick_gossip_waiting_bytes", Help: "Bytes of frames that wait for a budget or a slow peer, by class.",
		}, []string{"class"}),
		prunes: counter("prunes", "Links of a tree over which records are announced from then on, for they came twice."),
		mesh:   gauge("mesh_peers", "Attached peers that records are pushed to."),
	}
	for _, v := range feed.Verdicts() {
		m.records.WithLabelValues(v.String())
	}
	return m
}

// debtGauges show one side of the sync debt.
type debtGauges struct{ records, bytes, seconds prometheus.Gauge }

func (g debtGauges) set(b Backlog) {
	g.records.Set(float64(b.Records))
	g.bytes.Set(float64(b.Bytes))
	g.seconds.Set(b.Oldest.Seconds())
}

func (m *metrics) verdict(v feed.Verdict) { m.records.WithLabelValues(v.String()).Inc() }
