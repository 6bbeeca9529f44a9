package main

import (
	"context"
	"runtime"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// activation is a policy of 1,000 rules, most of them regional, on its way into force.
type activation struct{ fleet }

func newActivation(s size) *activation {
	return &activation{fleet{levels: threeLevels(s.pick(990, 10))}}
}

func (a *activation) ours() (any, error) {
	e := policy.New(policy.Config{Require: []string{policy.Regional}})
	return e, e.Activate(a.levels...)
}

// reference compiles the same rules as OPA does: parsed, in one compiler, ready to be asked.
func (a *activation) reference() (any, error) {
	files, data := a.modules()
	options := []func(*rego.Rego){rego.Query("x = data.bench.decision"), rego.Store(inmem.NewFromObject(data))}
	for path, source := range files {
		options = append(options, rego.Module(path, source))
	}
	q, err := rego.New(options...).PrepareForEval(context.Background())
	return q, err
}

func activationTime(s size) (sides, error) {
	a := newActivation(s)
	each := func(work func() (any, error)) func() (float64, error) {
		return func() (float64, error) {
			took, err := seconds(func() error {
				_, err := work()
				return err
			})
			return took * 1e3, err
		}
	}
	return sides{ours: each(a.ours), reference: each(a.reference)}, nil
}

// activationPeak is how much more memory there is at the worst moment than before.
func activationPeak(s size) (sides, error) {
	a := newActivation(s)
	return sides{ours: peak(a.ours), reference: peak(a.reference)}, nil
}

// activationKept is what remains.
func activationKept(s size) (sides, error) {
	a := newActivation(s)
	return sides{ours: kept(a.ours), reference: kept(a.reference)}, nil
}

func kept(work func() (any, error)) func() (float64, error) {
	return func() (float64, error) {
		before := heap()
		made, err := work()
		after := heap()
		runtime.KeepAlive(made)
		return (float64(after) - float64(before)) / 1e6, err
	}
}

// objects is the memory of all objects, whether they are still in use or not.
func objects() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func peak(work func() (any, error)) func() (float64, error) {
	return func() (float64, error) {
		before := heap()
		most, stop := before, make(chan struct{})
		var watching sync.WaitGroup
		watching.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				most = max(most, objects())
				select {
				case <-stop:
					return
				case <-tick.C:
				}
			}
		})
		made, err := work()
		close(stop)
		watching.Wait()
		var m runtime.MemStats // which, unlike a sample, misses nothing small
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapAlloc)
		runtime.KeepAlive(made)
		return float64(most-before) / 1e6, err
	}
}
