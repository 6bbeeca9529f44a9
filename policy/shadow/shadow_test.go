package shadow

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

type candidate func(policy.Input) policy.Decision

func (c candidate) Decide(_ context.Context, in policy.Input) policy.Decision { return c(in) }

// begin runs a Shadow with a candidate in a bubble, until the test ends.
func begin(t *testing.T, cfg Config, c candidate) *Shadow {
	t.Helper()
	s := New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	s.Start(Candidate{Engine: c, Revision: "new", Against: "old"})
	return s
}

func enforced(rule string, allow bool) policy.Decision {
	return policy.Decision{ID: policy.NewID(), Allow: allow, Level: policy.Regional, Rule: rule, Revision: "old"}
}

var ask = policy.Input{Kind: policy.Connect}

func TestComparesWhatItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		s := begin(t, Config{Metrics: reg}, func(policy.Input) policy.Decision { return no("closed") })
		s.Observe(ask, enforced("open", true))
		s.Observe(ask, enforced("closed", false))
		other := enforced("open", true)
		other.Revision = "older"
		s.Observe(ask, other)
		synctest.Wait()
		r, ok := s.Report()
		if !ok || r.Compared != 2 || r.Different != 1 || r.Counts[Denies] != 1 || r.PassedOver != 1 || r.Candidate != "new" || r.Against != "old" || r.Ended != "" {
			t.Errorf("%+v", r)
		}
		s.Stop()
		s.Observe(ask, enforced("open", true))
		if r, ok := s.Report(); ok {
			t.Errorf("after the end: %+v", r)
		}
		families, err := reg.Gather()
		if err != nil || len(families) != 3 {
			t.Errorf("%v, %v", families, err)
		}
	})
}

// The candidate is given the question without what the other generation filled in.
func TestAsksTheQuestionAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got atomic.Pointer[policy.Input]
		s := begin(t, Config{}, func(in policy.Input) policy.Decision { got.Store(&in); return no("x") })
		in := ask
		in.Policy.Levels = map[string]policy.LevelState{policy.Global: {Revision: "7"}}
		s.Observe(in, enforced("x", false))
		synctest.Wait()
		if got.Load() == nil || got.Load().Policy.Levels != nil {
			t.Errorf("asked %+v", got.Load())
		}
	})
}

// Nobody waits for a candidate that hangs, and its run says so; what comes then is not queued.
func TestOverrunEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		defer close(free)
		s := begin(t, Config{Overrun: 3 * time.Second, Queue: 4}, func(policy.Input) policy.Decision { <-free; return no("late") })
		begun := time.Now()
		for range 10 {
			s.Observe(ask, enforced("open", true))
			synctest.Wait()
		}
		if !time.Now().Equal(begun) {
			t.Error("whoever told of a decision has waited")
		}
		if r, _ := s.Report(); r.Dropped != 5 || r.Ended != "" { // one is being asked, four wait
			t.Errorf("before the end: %+v", r)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		r, ok := s.Report()
		if !ok || r.Ended == "" || r.Compared != 0 {
			t.Errorf("after it: %+v, %t", r, ok)
		}
		s.Observe(ask, enforced("open", true))
		if again, _ := s.Report(); again.Dropped != 5 {
			t.Errorf("%+v", again)
		}
		// Another candidate begins all the same.
		s.Start(Candidate{Engine: candidate(func(policy.Input) policy.Decision { return yes("open") }), Revision: "newer", Against: "old"})
		s.Observe(ask, enforced("open", true))
		synctest.Wait()
		if r, _ := s.Report(); r.Counts[Same] != 1 || r.Ended != "" {
			t.Errorf("the next: %+v", r)
		}
	})
}

func TestPanicIsADifference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := begin(t, Config{}, func(policy.Input) policy.Decision { panic("no") })
		s.Observe(ask, enforced("open", true))
		synctest.Wait()
		if r, _ := s.Report(); r.Counts[Fails] != 1 || len(r.Groups) != 1 || r.Groups[0].Candidate.Rule != policy.RulePanic {
			t.Errorf("%+v", r)
		}
	})
}

// A candidate that takes 10 ms for each answer gets a quarter of the time.
func TestTakesItsShareOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		s := begin(t, Config{Share: 0.25}, func(policy.Input) policy.Decision {
			at = append(at, time.Now())
			time.Sleep(10 * time.Millisecond)
			return no("x")
		})
		for range 20 {
			s.Observe(ask, enforced("x", false))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for i := 1; i < len(at); i++ {
			if gap := at[i].Sub(at[i-1]); gap < 40*time.Millisecond {
				t.Fatalf("answer %d came %s after the one before", i, gap)
			}
		}
		if r, _ := s.Report(); r.Compared != 20 || len(at) != 20 {
			t.Errorf("%d compared", r.Compared)
		}
	})
}

// Start, Stop, Observe and Report from everywhere, before and while Run runs.
func TestConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Queue: 2})
		first := Candidate{Engine: candidate(func(policy.Input) policy.Decision { return no("x") }), Revision: "0", Against: "old"}
		s.Start(first)
		s.Start(first) // nobody runs yet, and nobody waits
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 50 {
					s.Observe(ask, enforced("x", j%2 == 0))
					s.Report()
					if j%10 == i {
						c := first
						c.Revision = fmt.Sprint(i, j)
						s.Start(c)
					}
					if j%25 == 24 {
						s.Stop()
					}
				}
			})
		}
		wg.Wait()
		s.Start(first)
		s.Observe(ask, enforced("x", true))
		synctest.Wait()
		if r, ok := s.Report(); !ok || r.Compared != 1 {
			t.Errorf("%+v, %t", r, ok)
		}
		cancel()
		running.Wait()
	})
}

func BenchmarkObserve(b *testing.B) {
	in, d := ask, enforced("x", false)
	for _, c := range []struct {
		name string
		s    *Shadow
	}{{"idle", New(Config{})}, {"full", New(Config{Queue: 1})}} {
		if c.name == "full" {
			c.s.Start(Candidate{Against: "old"}) // nobody runs it: all but the first are dropped
		}
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.s.Observe(in, d)
			}
		})
	}
}
