package sim

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrExpected means a run was not as its scenario expects. The error tells the story.
var ErrExpected = errors.New("not as expected")

// Report is what became of a run.
type Report struct {
	Scenario Scenario
	Trace    string             // hash of every event
	Values   map[string]float64 // by the names of Values; times in milliseconds
	Wall     time.Duration
}

// Values are what a run gives, by name:
//
//	p50, p99, last  of all updates at all honest nodes that are up but the writer's,
//	                from Put until durable there
//	copies          of a record that a node was sent, on average
//	undelivered     updates that are missing at an honest node that is up, summed
//	diverged        honest nodes whose frontier is not that of most
//	missing         records that honest nodes know they lack
//	owed            records that honest nodes know their honest peers lack
//	harmed          times that an honest node was dropped, convicted or held by another, or lost
//	                what it had written
//	spared          pairs of an honest node and a guilty one that it has not convicted
//	convicted       from the second story of an equivocator until the last honest node that is up
//	                has convicted it, durably
//	resent          after a cut: frame bytes between the sides, over those that were missing
//	slower          after a cut: time until nothing was missing, over what the missing
//	                bytes take on the thin line
//	rejoined        after a cut: that time
var Values = []string{"p50", "p99", "last", "copies", "undelivered", "diverged", "missing", "owed", "harmed", "spared", "convicted", "resent", "slower", "rejoined"}

// Run runs a scenario. Errors wrap ErrExpected, or are of the run itself.
func Run(s Scenario) (Report, error) {
	start := time.Now()
	s.complete()
	f, err := newFleet(s)
	if err != nil {
		return Report{}, err
	}
	for _, step := range s.Steps {
		f.at(step.At, func() { f.do(step) })
	}
	f.run(s.For)
	if f.err != nil {
		return Report{}, fmt.Errorf("%w\n%s", f.err, f.retell())
	}
	r := Report{Scenario: s, Trace: fmt.Sprintf("%016x", f.trace), Values: f.values(), Wall: time.Since(start)}
	var wrong []string
	for _, e := range s.Expect {
		if got := r.Values[e.Value]; e.Less && !(got <= e.Limit) || !e.Less && got != e.Limit {
			wrong = append(wrong, fmt.Sprintf("%s is %.4g, expected %s", e.Value, got, e.Text))
		}
	}
	if len(wrong) > 0 {
		return r, fmt.Errorf("%w: %s\nseed %d, again with: go run ./test/sim/run -seed %d %s\n%s",
			ErrExpected, strings.Join(wrong, "; "), s.Seed, s.Seed, s.Name, f.retell())
	}
	return r, nil
}

func (f *fleet) values() map[string]float64 {
	f.lookForHolds()
	all, lost := f.delays()
	missing, owed := f.debt()
	v := map[string]float64{
		"p50": milliseconds(quantile(all, 0.5)), "p99": milliseconds(quantile(all, 0.99)), "last": milliseconds(quantile(all, 1)),
		"undelivered": float64(lost), "diverged": float64(f.diverged()), "missing": float64(missing), "owed": float64(owed),
		"harmed": float64(len(f.harms)), "spared": float64(f.spared()),
		"convicted": milliseconds(f.convicted()),
	}
	if written := f.written(); written > 0 {
		v["copies"] = float64(f.total().records) / float64(written) / float64(f.Nodes)
	}
	f.rejoinValues(v)
	return v
}
