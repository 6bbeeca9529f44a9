package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// fleet is the question of the decide rows: a policy of three levels with 200 rules, and what
// 10,000 nodes of a region ask of it. All of it is allowed, each service by a rule of its own.
type fleet struct {
	levels []policy.Level
	nodes  []policy.Peer
}

const (
	fleetRules = 200
	fleetNodes = 10_000
)

func newFleet() *fleet {
	f := &fleet{levels: threeLevels(fleetRules)}
	for i := range fleetNodes {
		f.nodes = append(f.nodes, policy.Peer{
			SPIFFEID: "spiffe://east.dev.example/workload/shop", TrustDomain: "east.dev.example", Path: []string{"workload", "shop"},
			Node: fmt.Sprint("east-n", i), Region: "east", Zone: fmt.Sprint("z", i%7), Standing: "ok",
			Attestation: &policy.Attestation{Kind: "tpm", OK: true, AgeSeconds: int64(i % 60)},
		})
	}
	return f
}

// input is built afresh for each decision, as the data path does.
func (f *fleet) input(i int) policy.Input {
	source, self := f.nodes[i%len(f.nodes)], f.nodes[(i+1)%len(f.nodes)]
	return policy.Input{
		V: policy.InputVersion, Kind: policy.Connect, Time: policy.Time{Unix: 1_790_000_000, Trusted: true}, Self: &self, Source: &source,
		Service: &policy.Service{Name: fmt.Sprint("svc-", i%fleetRules), Region: "east", Protocol: "tcp", Port: 8080},
		Action:  &policy.Action{Name: policy.Accept},
	}
}

// threeLevels is a policy of about so many rules: denies at every level, most allows as rules of
// the region, and a table of grants.
func threeLevels(rules int) []policy.Level {
	var region strings.Builder
	for i := range rules {
		rule(&region, "allow", fmt.Sprintf("svc-%d", i), fmt.Sprintf("input.service.name == \"svc-%d\"\n\tinput.source.path[1] == \"shop\"\n\tinput.source.region == \"east\"", i))
	}
	rule(&region, "allow", "granted", "input.source.spiffe_id in data.services[input.service.name].callers")
	var global, local strings.Builder
	rule(&global, "deny", "standing", "input.source.standing in {\"quarantined\", \"revoked\", \"held\"}")
	rule(&global, "deny", "unattested", "not input.source.attestation.ok")
	rule(&global, "deny", "clock", "not input.time.trusted")
	rule(&local, "deny", "telnet", "input.service.port == 23")
	level := func(name, body string) policy.Level {
		return policy.Level{Name: name, Revision: "1", Modules: map[string]string{
			"connect.rego": "# METADATA\n# labels:\n#   owner: bench\npackage bailiwick." + name + ".connect\n\nimport rego.v2\n\n" + body}}
	}
	out := []policy.Level{level(policy.Global, global.String()), level(policy.Regional, region.String()), level(policy.Local, local.String())}
	out[0].Delegation = policy.Delegation{All: true}
	out[1].Delegation = policy.Delegation{Kinds: []policy.Kind{policy.Connect}, Regions: []string{"east"}}
	out[1].Data = map[string]any{"services": map[string]any{"web": map[string]any{"callers": []any{"spiffe://east.dev.example/workload/other"}}}}
	return out
}

func rule(b *strings.Builder, verb, id, body string) {
	fmt.Fprintf(b, "# METADATA\n# title: %s\n%s contains %q if {\n\t%s\n}\n\n", id, verb, id, body)
}

func (f *fleet) engine(cache int) (*policy.Engine, error) {
	e := policy.New(policy.Config{Require: []string{policy.Regional}, Cache: cache})
	return e, e.Activate(f.levels...)
}

// uncached asks count times, with the input built each time.
func (f *fleet) uncached(count int) (func() (float64, error), error) {
	e, err := f.engine(-1)
	return func() (float64, error) {
		return cpuMicros(count, nil, func() error {
			for i := range count {
				if d := e.Decide(context.Background(), f.input(i)); !d.Allow {
					return fmt.Errorf("denied: %s", d.Explain())
				}
			}
			return nil
		})
	}, err
}

// cached asks for what was asked before. An allocation is an error.
func (f *fleet) cached(count int) (func() (float64, error), error) {
	e, err := f.engine(0)
	if err != nil {
		return nil, err
	}
	var inputs []policy.Input
	for i := range 1000 {
		inputs = append(inputs, f.input(i))
		e.Decide(context.Background(), inputs[i])
	}
	return func() (float64, error) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		us, err := cpuMicros(count, nil, func() error {
			for i := range count {
				if d := e.Recall(inputs[i%len(inputs)]); d == nil || !d.Allow {
					return errors.New("an answer was forgotten")
				}
			}
			return nil
		})
		runtime.ReadMemStats(&after)
		if n := after.Mallocs - before.Mallocs; n > uint64(count)/1000 { // the runtime's own
			err = errors.Join(err, fmt.Errorf("%d allocations for %d decisions", n, count))
		}
		return us, err
	}, err
}

// lookup is what plain Go would do, with a map of grants and one of standings.
func (f *fleet) lookup(count int) func() (float64, error) {
	grants, bad := map[[2]string]bool{}, map[string]bool{"quarantined": true, "revoked": true, "held": true}
	for i := range fleetRules {
		grants[[2]string{fmt.Sprint("svc-", i), "spiffe://east.dev.example/workload/shop"}] = true
	}
	var inputs []policy.Input
	for i := range 1000 {
		inputs = append(inputs, f.input(i))
	}
	return func() (float64, error) {
		return cpuMicros(count, nil, func() error {
			for i := range count {
				in := &inputs[i%len(inputs)]
				if bad[in.Source.Standing] || !in.Source.Attestation.OK || !in.Time.Trusted || in.Service.Port == 23 ||
					!grants[[2]string{in.Service.Name, in.Source.SPIFFEID}] {
					return errors.New("denied")
				}
			}
			return nil
		})
	}
}

func decideUncached(s size) (sides, error) {
	f := newFleet()
	ours, err := f.uncached(s.pick(5000, 3))
	if err != nil {
		return sides{}, err
	}
	server, err := f.server(s)
	if err != nil {
		return sides{}, err
	}
	return sides{ours: ours, reference: server.decisions(f, s.pick(3000, 3)), limit: f.lookup(s.pick(500_000, 10)), stop: server.stop}, nil
}

func decideCached(s size) (sides, error) {
	f := newFleet()
	ours, err := f.cached(s.pick(1_000_000, 2000))
	if err != nil {
		return sides{}, err
	}
	server, err := f.server(s)
	if err != nil {
		return sides{}, err
	}
	return sides{ours: ours, reference: server.decisions(f, s.pick(3000, 3)), limit: f.lookup(s.pick(1_000_000, 10)), stop: server.stop}, nil
}

func decideBesideSDK(s size) (sides, error) {
	f := newFleet()
	ours, err := f.uncached(s.pick(5000, 3))
	if err != nil {
		return sides{}, err
	}
	sdk, err := f.sdk(s)
	if err != nil {
		return sides{}, err
	}
	return sides{ours: ours, reference: sdk.decisions(s.pick(5000, 3)), limit: f.lookup(s.pick(500_000, 10)), stop: sdk.stop}, nil
}

// decideAllocations counts what one decision allocates, the input included.
func decideAllocations(s size) (sides, error) {
	f := newFleet()
	ours, err := f.uncached(s.pick(2000, 3))
	if err != nil {
		return sides{}, err
	}
	reference, err := f.rego(s.pick(2000, 3))
	if err != nil {
		return sides{}, err
	}
	each := func(work func() (float64, error)) func() (float64, error) {
		return func() (float64, error) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := work()
			runtime.ReadMemStats(&after)
			return float64(after.Mallocs-before.Mallocs) / float64(s.pick(2000, 3)), err
		}
	}
	return sides{ours: each(ours), reference: each(reference)}, nil
}

// swapEvery is how often generations come in the row about their change.
const swapEvery = 200 * time.Millisecond

// decideWhileSwapping measures the slowest hundredth while every swapEvery another generation,
// compiled from its sources, takes over.
func decideWhileSwapping(s size) (sides, error) {
	f := newFleet()
	e, err := f.engine(-1)
	if err != nil {
		return sides{}, err
	}
	store, err := f.store()
	if err != nil {
		return sides{}, err
	}
	lasts := time.Duration(s.pick(2000, 50)) * time.Millisecond
	revision := 0
	return sides{
		ours: func() (float64, error) {
			return slowest(lasts, func() error {
				revision++
				levels := slices.Clone(f.levels)
				for i := range levels { // a level that is the same is not compiled again
					levels[i].Data = map[string]any{"services": map[string]any{}, "revision": revision}
				}
				return e.Activate(levels...)
			}, func(i int) error {
				if d := e.Decide(context.Background(), f.input(i)); !d.Allow {
					return fmt.Errorf("denied: %s", d.Explain())
				}
				return nil
			})
		},
		reference: func() (float64, error) {
			return slowest(lasts, store.swap, func(i int) error { return store.decide(f.input(i)) })
		},
	}, nil
}

// slowest is the 99th percentile of deciding, in milliseconds, while swap runs every swapEvery.
func slowest(lasts time.Duration, swap func() error, decide func(i int) error) (float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lasts)
	defer cancel()
	swapped := make(chan error, 1)
	go func() {
		tick := time.NewTicker(swapEvery)
		defer tick.Stop()
		for {
			if err := swap(); err != nil {
				swapped <- err
				return
			}
			select {
			case <-ctx.Done():
				swapped <- nil
				return
			case <-tick.C:
			}
		}
	}()
	var took []time.Duration
	for i := 0; ctx.Err() == nil; i++ {
		start := time.Now()
		if err := decide(i); err != nil {
			return 0, err
		}
		took = append(took, time.Since(start))
	}
	if err := <-swapped; err != nil {
		return 0, err
	}
	slices.Sort(took)
	return float64(took[len(took)*99/100].Nanoseconds()) / 1e6, nil
}

// asJSON is an input as others take it.
func asJSON(in policy.Input) (out map[string]any, err error) {
	b, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	return out, json.Unmarshal(b, &out)
}
