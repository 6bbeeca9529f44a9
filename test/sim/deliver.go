package sim

import (
	"fmt"
	"runtime"
	"time"
)

// Options say what Deliver runs. Zero fields have defaults; see Scenario.
type Options struct {
	Nodes    int
	Seed     uint64
	Updates  int           // one after another, by the writers in turn; 50, fewer in large fleets
	Every    time.Duration // between updates; 20 ms
	Size     int           // bytes of the value of an update
	Writers  int           // nodes with a feed of their own; 20, and 8 above 2,000 nodes
	Droppers float64       // share of nodes that pass nothing on, silently
	Network
	Costs Costs
}

// Result is one row of a delivery measurement. Times are virtual, in milliseconds.
type Result struct {
	Nodes       int     `json:"nodes"`
	Seed        uint64  `json:"seed"`
	Updates     int     `json:"updates"`
	Writers     int     `json:"writers"`
	Droppers    float64 `json:"droppers"`
	P50         float64 `json:"p50_ms"` // of all updates at all nodes but the writer's: from Put until durable and readable there
	P99         float64 `json:"p99_ms"`
	Last        float64 `json:"last_ms"`               // the slowest of them all
	Copies      float64 `json:"copies"`                // of a record that a node receives, on average
	Bytes       float64 `json:"bytes"`                 // that a node sends for one update, with what QUIC and UDP add
	Idle        float64 `json:"idle_bytes_per_second"` // that a node sends when nothing is written
	Undelivered int     `json:"undelivered"`
	Trace       string  `json:"trace"`  // hash of every event: the same for the same Options
	Memory      int     `json:"memory"` // bytes of this process for each node, at the end
	Wall        float64 `json:"wall_seconds"`
}

// idleFor is how long a fleet is watched at rest.
const idleFor = 5 * time.Second

// settle is what a fleet gets to connect, and to come to rest.
const settle = 3 * time.Second

// Deliver measures how updates spread over a fleet at rest. Errors are of the run
// itself; what did not come is in the Result.
func Deliver(o Options) (Result, error) {
	start := time.Now()
	s := Scenario{
		Name: "deliver", Nodes: o.Nodes, Writers: o.Writers, Seed: o.Seed, Size: o.Size, Network: o.Network, Costs: o.Costs,
	}
	if o.Droppers > 0 {
		s.Adversaries = []Adversary{{Role: dropper{}, Name: "dropper", Share: o.Droppers}}
	}
	if o.Nodes > 2000 {
		setDefault(&s.Writers, 8)
	}
	s.complete()
	if o.Updates == 0 {
		o.Updates = max(min(50, 60_000/o.Nodes), 12)
	}
	if o.Every == 0 {
		o.Every = 20 * time.Millisecond
	}
	f, err := newFleet(s)
	if err != nil {
		return Result{}, err
	}
	// The feeds begin: their certificates travel now.
	f.write(s.Writers, o.Every)
	f.run(settle + time.Duration(s.Writers)*o.Every)
	first := len(f.updates)
	before := f.total()
	f.run(f.elapsed + idleFor)
	idle := f.total().since(before)

	before = f.total()
	f.write(o.Updates, o.Every)
	window := time.Duration(o.Updates)*o.Every + settle
	f.run(f.elapsed + window)
	sent := f.total().since(before)
	if f.err != nil {
		return Result{}, f.err
	}
	f.updates = f.updates[first:]
	memory := f.memory()
	all, lost := f.delays()
	receivers := float64(o.Updates) * float64(s.Nodes)
	perSecond := float64(idle.wire) / idleFor.Seconds()
	return Result{
		Nodes: s.Nodes, Seed: s.Seed, Updates: o.Updates, Writers: s.Writers, Droppers: o.Droppers,
		P50: milliseconds(quantile(all, 0.5)), P99: milliseconds(quantile(all, 0.99)), Last: milliseconds(quantile(all, 1)),
		Copies: float64(sent.records) / receivers,
		Bytes:  (float64(sent.wire) - perSecond*window.Seconds()) / receivers,
		Idle:   perSecond / float64(s.Nodes), Undelivered: lost,
		Memory: memory, Trace: fmt.Sprintf("%016x", f.trace), Wall: time.Since(start).Seconds(),
	}, nil
}

// memory is what the fleet needs in this process, a node. Nodes share the bytes of records.
func (f *fleet) memory() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc) / len(f.nodes)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
