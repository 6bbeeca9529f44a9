package link

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	handshakes *prometheus.CounterVec
	live       *prometheus.GaugeVec
	dropped    *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (metrics, error) {
	m := metrics{
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bailiwick_link_handshakes_total",
			Help: "Handshakes that ended, by kind of connection, side (accept, dial) and result (ok, refused_here, refused_by_peer, unreachable, busy, failed).",
		}, []string{"kind", "side", "result"}),
		live: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "bailiwick_link_connections",
			Help: "Live connections, by kind (node, tunnel).",
		}, []string{"kind"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bailiwick_link_datagrams_dropped_total",
			Help: "Datagrams dropped, by reason (queue: slow peer; size: over what the path carries now; protocol: nobody here handles it).",
		}, []string{"reason"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.handshakes, m.live, m.dropped} {
		if err := reg.Register(c); err != nil {
			return m, fmt.Errorf("register metrics of mesh/link: %w", err)
		}
	}
	return m, nil
}
