package tunnel

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	conns   *prometheus.CounterVec
	refused *prometheus.CounterVec
	tunnels *prometheus.CounterVec
	cut     prometheus.Counter
	bytes   *prometheus.CounterVec
	up      prometheus.Counter // bytes from clients
	down    prometheus.Counter // bytes to clients
}

func newMetrics(reg prometheus.Registerer, stats func() Stats) (metrics, error) {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bailiwick_tunnel_" + name, Help: help}, labels)
	}
	m := metrics{
		conns:   vec("connections_total", "Connections admitted, by this node's side (source, destination, local: both).", "side"),
		refused: vec("refused_total", "Connections and tunnels refused, by this node's side (source, destination) and cause.", "side", "cause"),
		tunnels: vec("tunnels_total", "Tunnels made, by who dialled (out: this node, in: the far one).", "direction"),
		cut:     prometheus.NewCounter(prometheus.CounterOpts{Name: "bailiwick_tunnel_cut_total", Help: "Live connections ended by a recheck, a change of standing or a shutdown."}),
		bytes:   vec("bytes_total", "Bytes carried, by direction (up: from the client, down: to it).", "direction"),
	}
	m.up, m.down = m.bytes.WithLabelValues("up"), m.bytes.WithLabelValues("down")
	if reg == nil {
		return m, nil
	}
	gauge := func(name, help string, get func(Stats) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "bailiwick_tunnel_" + name, Help: help},
			func() float64 { return float64(get(stats())) })
	}
	for _, c := range []prometheus.Collector{
		m.conns, m.refused, m.tunnels, m.cut, m.bytes,
		gauge("live_connections", "Connections now.", func(s Stats) int { return s.ConnsOut + s.ConnsIn }),
		gauge("live_tunnels", "Tunnels now.", func(s Stats) int { return s.TunnelsOut + s.TunnelsIn }),
	} {
		if err := reg.Register(c); err != nil {
			return m, fmt.Errorf("register metrics of mesh/tunnel: %w", err)
		}
	}
	return m, nil
}

// cutOne counts a connection ended from here; Close may come before there are
// metrics.
func (m metrics) cutOne() {
	if m.cut != nil {
		m.cut.Inc()
	}
}
