package policy

import (
	"cmp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	by                    map[Kind]outcomes // "" is any other
	evaluated, remembered prometheus.Counter
	activations           *prometheus.CounterVec
	reverts               prometheus.Counter
	seconds               prometheus.Histogram
}

type outcomes struct{ allow, deny prometheus.Counter }

func newMetrics(reg prometheus.Registerer) metrics {
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bailiwick_policy_decisions_total", Help: "Decisions by kind and outcome."}, []string{"kind", "outcome"})
	cache := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bailiwick_policy_cache_total", Help: "Decisions by whether they were remembered (hit) or evaluated (miss)."}, []string{"outcome"})
	m := metrics{
		evaluated: cache.WithLabelValues("miss"), remembered: cache.WithLabelValues("hit"), by: map[Kind]outcomes{},
		reverts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bailiwick_policy_reverts_total", Help: "Policy generations that were taken out of force because their evaluations failed again and again."}),
		activations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bailiwick_policy_activations_total", Help: "Policy generations offered, by outcome."}, []string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "bailiwick_policy_decision_seconds", Help: "Time of one decision, but for those only recalled.",
			Buckets: prometheus.ExponentialBuckets(20e-6, 4, 8)}),
	}
	for _, kind := range append([]Kind{""}, Kinds...) {
		label := cmp.Or(string(kind), "other") // a label comes from a closed set
		m.by[kind] = outcomes{decisions.WithLabelValues(label, "allow"), decisions.WithLabelValues(label, "deny")}
	}
	if reg != nil {
		reg.MustRegister(decisions, cache, m.activations, m.reverts, m.seconds)
	}
	return m
}

func (m metrics) decision(d *Decision, took time.Duration) {
	if m.by == nil {
		return
	}
	c, ok := m.by[d.Kind]
	if !ok {
		c = m.by[""]
	}
	c.count(d)
	if d.Cached {
		m.remembered.Inc()
	} else {
		m.evaluated.Inc()
	}
	m.seconds.Observe(took.Seconds())
}

func (c outcomes) count(d *Decision) {
	if d.Allow {
		c.allow.Inc()
	} else {
		c.deny.Inc()
	}
}

func (m metrics) activation(ok bool) {
	outcome := "refused"
	if ok {
		outcome = "active"
	}
	m.activations.WithLabelValues(outcome).Inc()
}
