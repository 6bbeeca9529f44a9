package policy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	decisions   *prometheus.CounterVec
	activations *prometheus.CounterVec
	seconds     prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bailiwick_policy_decisions_total", Help: "Decisions by kind and outcome."}, []string{"kind", "outcome"}),
		activations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bailiwick_policy_activations_total", Help: "Policy generations offered, by outcome."}, []string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "bailiwick_policy_decision_seconds", Help: "Time of one decision.",
			Buckets: prometheus.ExponentialBuckets(20e-6, 4, 8)}),
	}
	if reg != nil {
		reg.MustRegister(m.decisions, m.activations, m.seconds)
	}
	return m
}

func (m metrics) decision(d Decision, took time.Duration) {
	if m.decisions == nil {
		return
	}
	kind := string(d.Kind)
	switch d.Kind {
	case Connect, StateAdmit, AttestNode:
	default:
		kind = "other" // a label comes from a closed set
	}
	outcome := "deny"
	if d.Allow {
		outcome = "allow"
	}
	m.decisions.WithLabelValues(kind, outcome).Inc()
	m.seconds.Observe(took.Seconds())
}

func (m metrics) activation(ok bool) {
	outcome := "refused"
	if ok {
		outcome = "active"
	}
	m.activations.WithLabelValues(outcome).Inc()
}
