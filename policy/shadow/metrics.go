package shadow

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	compared *prometheus.CounterVec
	dropped  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Shadow) metrics {
	m := metrics{
		compared: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bailiwick_policy_shadow_compared_total", Help: "Decisions put to a candidate policy too, by how its answer differs."}, []string{"class"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bailiwick_policy_shadow_dropped_total", Help: "Decisions not put to the candidate policy because its queue was full."}),
	}
	if reg != nil {
		reg.MustRegister(m.compared, m.dropped, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bailiwick_policy_shadow_running", Help: "1 while a candidate policy is compared with the one in force."}, func() float64 {
			if s.Running() {
				return 1
			}
			return 0
		}))
	}
	return m
}
