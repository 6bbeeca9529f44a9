package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/test/sim"
	"github.com/bailiwick-mesh/bailiwick/test/swim"
)

// Rows of delivery: ours in test/sim, memberlist's in test/swim, over links of the same
// latency. Both are simulated and give the same in every round.

const (
	model  = "a model of hashicorp/memberlist's broadcast, v0.7.0 with its defaults for a LAN (test/swim)"
	actual = "hashicorp/memberlist's broadcast, v0.7.0 with its defaults for a LAN, its real code in virtual time"

	simulated = "simulated, links of 0.25 to 0.75 ms: ours is the real core, with verification and commits at each hop (test/sim); " +
		"memberlist's own work costs nothing"

	// faster is by how much the last node has to be reached sooner than memberlist's.
	faster = 50
	// udp is what UDP and IP add to a packet; sim counts what QUIC adds as well.
	udp = 28
)

// figures of one delivery that rows are made of.
type figureOf struct {
	name, unit string
	goal, aim  float64 // the aim is of a region of a thousand
	ours       func(sim.Result) float64
	theirs     func(swim.Result) float64
}

var deliveryFigures = []figureOf{
	{"p50", "ms", 0, 5, func(r sim.Result) float64 { return r.P50 }, func(r swim.Result) float64 { return inMS(r.P50) }},
	{"p99", "ms", 0, 15, func(r sim.Result) float64 { return r.P99 }, func(r swim.Result) float64 { return inMS(r.P99) }},
	{"last", "ms, the slowest of all updates at all nodes", 1. / faster, 25, func(r sim.Result) float64 { return r.Last }, func(r swim.Result) float64 { return inMS(r.Last) }},
	{"copies", "copies that a node gets of an update", 0, 6, func(r sim.Result) float64 { return r.Copies }, func(r swim.Result) float64 { return r.Copies }},
	{"bytes", "bytes that a node sends for an update of 200 bytes", 0, 0, func(r sim.Result) float64 { return r.Bytes }, func(r swim.Result) float64 { return r.Bytes + udp*r.Copies }},
}

var deliveryBenches = func() (out []bench) {
	for _, nodes := range []int{100, 1000, 5000} {
		for _, f := range deliveryFigures {
			b := bench{
				area: "gossip", name: fmt.Sprintf("delivery-%d-%s", nodes, f.name), unit: f.unit, goal: f.goal, once: true, note: simulated, reference: model,
				prepare: func(dir string, s size) (sides, error) { return deliverySides(dir, s.pick(nodes, 10), f) },
			}
			if nodes == 1000 {
				b.aim = f.aim
			}
			if nodes <= realNodes {
				b.reference = actual
			}
			out = append(out, b)
		}
	}
	for _, p := range partitions {
		out = append(out, bench{
			area: "gossip", name: p.name + "-bytes", unit: "bytes between the halves, over those of the records that were missing", goal: 1.3, once: true,
			reference: "the missing records alone", note: p.note,
			prepare: func(_ string, s size) (sides, error) { return p.sides(s, "resent"), nil },
		}, bench{
			area: "gossip", name: p.name + "-time", unit: "time until nothing is missing, over that of the missing bytes on the line", goal: 2, once: true,
			reference: "the missing bytes at the speed of the line", note: p.note,
			prepare: func(_ string, s size) (sides, error) { return p.sides(s, "slower"), nil },
		})
	}
	return append(out, bench{
		area: "gossip", name: "delivery-1000-recorded", unit: "ms, the slowest of all updates at all nodes", goal: 1. / faster, once: true,
		reference: actual + ", RECORDED before: it takes 20 minutes",
		note:      simulated + "; the reference was not measured in this run but by: ",
		prepare:   recordedSides,
	}, bench{
		area: "gossip", name: "model-300", unit: "ms to the last node of a message, median; a check of the model, nearer to 1", once: true,
		reference: actual, note: simulated,
		prepare: modelSides,
	}, bench{
		area: "gossip", name: "delivery-1000-droppers", unit: "ms, p99", goal: 1.2, once: true,
		reference: "the same fleet without droppers", note: "simulated (test/sim): 20 % of the nodes pass nothing on and say nothing of it",
		prepare: func(_ string, s size) (sides, error) {
			return sides{
				ours:      func() (float64, error) { r, err := deliver(s.pick(1000, 10), 0.2); return r.P99, err },
				reference: func() (float64, error) { r, err := deliver(s.pick(1000, 10), 0); return r.P99, err },
			}, nil
		},
	})
}()

// partition is what two rows are of.
type partition struct {
	name           string
	nodes, bridges int
	updates        int
	note           string
	ran            map[size]sim.Report // once for both
}

var partitions = []partition{
	{"rejoin", 8, 1, 12_000, "simulated (test/sim): 8 nodes, halves apart for two minutes at 100 updates/s, then one line of 1 MB/s between them; an hour of it is test/sim/testdata/large/hour.txt", map[size]sim.Report{}},
	{"rejoin-many", 24, 0, 6_000, "simulated (test/sim): 24 nodes, halves apart for a minute at 100 updates/s, then links between all of them, as the mesh wants, over one line of 1 MB/s", map[size]sim.Report{}},
}

func (p partition) sides(s size, value string) sides {
	return sides{
		ours: func() (float64, error) {
			r, ran := p.ran[s]
			if !ran {
				updates := s.pick(p.updates, 50)
				apart := time.Duration(updates) * 10 * time.Millisecond
				var err error
				if r, err = sim.Run(sim.Scenario{
					Nodes: p.nodes, Writers: p.nodes, Bridges: p.bridges, Network: sim.Network{Thin: 1_000_000},
					Steps: []sim.Step{
						{At: time.Second, Do: "write", Count: p.nodes, Every: 20 * time.Millisecond},
						{At: 3 * time.Second, Do: "cut", Share: 0.5},
						{At: 15 * time.Second, Do: "write", Count: updates, Every: 10 * time.Millisecond},
						{At: 16*time.Second + apart, Do: "heal"},
					},
					For: 60*time.Second + apart,
				}); err != nil {
					return 0, err
				}
				if r.Values["diverged"]+r.Values["missing"] > 0 { // snapshots replace updates: not each one comes
					return 0, fmt.Errorf("the halves did not come together: %v", r.Values)
				}
				p.ran[s] = r
			}
			return r.Values[value], nil
		},
		reference: func() (float64, error) { return 1, nil },
	}
}

// realNodes is how many nodes memberlist's real code runs with in every run.
const realNodes = 100

func inMS(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// deliveries are those measured in this run, by their options.
var deliveries = map[[2]float64]sim.Result{}

func deliver(nodes int, droppers float64) (sim.Result, error) {
	o := sim.Options{Nodes: nodes, Droppers: droppers}
	if nodes < 100 {
		o.Updates = 3
	}
	key := [2]float64{float64(nodes), droppers}
	r, ok := deliveries[key]
	if ok {
		return r, nil
	}
	r, err := sim.Deliver(o)
	if err == nil && r.Undelivered > 0 {
		err = fmt.Errorf("%d updates did not come to %d nodes", r.Undelivered, nodes)
	}
	if err == nil {
		deliveries[key] = r
	}
	return r, err
}

func deliverySides(dir string, nodes int, f figureOf) (sides, error) {
	return sides{
		ours: func() (float64, error) {
			r, err := deliver(nodes, 0)
			return f.ours(r), err
		},
		reference: func() (float64, error) {
			if nodes == realNodes {
				r, err := realBroadcast(dir, nodes)
				return f.theirs(r), err
			}
			r, err := deliver(nodes, 0)
			return f.theirs(swim.Model(nodes, max(r.Updates, 1), 1)), err
		},
	}, nil
}

func modelSides(dir string, s size) (sides, error) {
	if s == tiny {
		return sides{}, errTiny
	}
	const nodes = 300
	return sides{
		ours: func() (float64, error) { return inMS(swim.Model(nodes, 200, 1).Tail), nil },
		reference: func() (float64, error) {
			r, err := realBroadcast(dir, nodes)
			return inMS(r.Tail), err
		},
	}, nil
}

// broadcasts are those of real code measured in this run, by the number of nodes.
var broadcasts = map[int]swim.Result{}

// realBroadcast runs memberlist itself, in the bubble of a test. It fails where the
// model is off by more than a fifth.
func realBroadcast(dir string, nodes int) (r swim.Result, err error) {
	if r, ok := broadcasts[nodes]; ok {
		return r, nil
	}
	path := filepath.Join(dir, "swim.json")
	cmd := exec.Command("go", "test", "github.com/bailiwick-mesh/bailiwick/test/swim", "-count=1", "-run=^TestBroadcast$", "-timeout=10m",
		"-args", "-nodes", strconv.Itoa(nodes), "-json", path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return r, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, err
	}
	broadcasts[nodes] = r
	return r, nil
}

func recordedSides(_ string, s size) (sides, error) {
	rec, err := swim.Recorded()
	if err != nil {
		return sides{}, err
	}
	return sides{
		ours: func() (float64, error) {
			r, err := deliver(s.pick(1000, 10), 0)
			return r.Last, err
		},
		reference: func() (float64, error) { return inMS(rec.Result.Last), nil },
		note:      func() string { return rec.Command + ", " + rec.Date },
	}, nil
}
