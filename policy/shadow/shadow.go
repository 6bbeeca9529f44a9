package shadow

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Decider is what a candidate is to a Shadow: a policy.Engine of its own.
type Decider interface {
	Decide(ctx context.Context, in policy.Input) policy.Decision
}

// Config sets up a Shadow. Its zero value is good.
type Config struct {
	Queue   int           // questions that may wait; zero means 1,024
	Share   float64       // of one processor that the candidate may take, at most 1; zero means 0.25
	Overrun time.Duration // the longest that one answer may take; zero means 5 s
	// Mask takes out of a decision what may not be shown, before it becomes an example. Nil: nothing.
	Mask func(policy.Decision) policy.Decision
	// Metrics is where the counts go; nil: nowhere.
	Metrics prometheus.Registerer
}

// Candidate is what is to be compared, and with what.
type Candidate struct {
	Engine   Decider
	Revision string // of the candidate's generation
	Against  string // revision of the generation in force
}

// Shadow runs at most one candidate. Its methods may be called concurrently.
type Shadow struct {
	cfg     Config
	run     atomic.Pointer[run]
	start   sync.Mutex // held by Start, which waits for nobody
	begin   chan *run  // to Run; has room for one
	metrics metrics
}

// run is one candidate at work.
type run struct {
	Candidate
	since   time.Time
	queue   chan question
	ended   chan struct{}
	end     func(reason string)
	dropped atomic.Uint64
	passed  atomic.Uint64

	mu     sync.Mutex // held for moments; guards what follows
	tally  Tally
	reason string // why it ended; empty: it goes on
}

type question struct {
	in policy.Input
	d  policy.Decision
}

// New makes a Shadow without a candidate.
func New(cfg Config) *Shadow {
	if cfg.Queue <= 0 {
		cfg.Queue = 1024
	}
	if cfg.Share <= 0 || cfg.Share > 1 {
		cfg.Share = 0.25
	}
	if cfg.Overrun <= 0 {
		cfg.Overrun = 5 * time.Second
	}
	s := &Shadow{cfg: cfg, begin: make(chan *run, 1)}
	s.metrics = newMetrics(cfg.Metrics, s)
	return s
}

// Start puts a candidate in the place of the one before, with nothing counted yet.
func (s *Shadow) Start(c Candidate) {
	r := &run{Candidate: c, since: time.Now(), queue: make(chan question, s.cfg.Queue), ended: make(chan struct{}), tally: Tally{Mask: s.cfg.Mask}}
	var once sync.Once
	r.end = func(reason string) {
		once.Do(func() {
			r.mu.Lock()
			r.reason = reason
			r.mu.Unlock()
			close(r.ended)
		})
	}
	s.start.Lock()
	defer s.start.Unlock()
	if old := s.run.Swap(r); old != nil {
		old.end("replaced")
	}
	select {
	case <-s.begin: // it never began: it is replaced
	default:
	}
	s.begin <- r
}

// Stop ends the run, and forgets what it counted.
func (s *Shadow) Stop() {
	if r := s.run.Swap(nil); r != nil {
		r.end("stopped")
	}
}

// Running reports whether there is a candidate that is being compared.
func (s *Shadow) Running() bool {
	r := s.run.Load()
	if r == nil {
		return false
	}
	select {
	case <-r.ended:
		return false
	default:
		return true
	}
}

// Observe tells of a decision that was made. It returns at once.
func (s *Shadow) Observe(in policy.Input, d policy.Decision) {
	r := s.run.Load()
	if r == nil {
		return
	}
	select {
	case <-r.ended:
		return
	default:
	}
	if d.Revision != r.Against {
		r.passed.Add(1)
		return
	}
	in.Policy = policy.PolicyState{} // the candidate's own is filled in
	select {
	case r.queue <- question{in, d}:
	default:
		r.dropped.Add(1)
		s.metrics.dropped.Inc()
	}
}

// Run asks candidates until ctx ends. It must be called once; nothing is compared before.
func (s *Shadow) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-s.begin:
			s.work(ctx, r)
		}
	}
}

// work compares until the run ends. The candidate answers in a goroutine that is left to itself
// when it does not return: Go cannot end it.
func (s *Shadow) work(ctx context.Context, r *run) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asked, answers := make(chan policy.Input), make(chan policy.Decision, 1)
	defer close(asked)
	go func() {
		for in := range asked {
			answers <- decide(ctx, r.Engine, in)
		}
	}()
	overrun := time.NewTimer(time.Hour)
	defer overrun.Stop()
	var rest time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.ended:
			return
		case q := <-r.queue:
			begun := time.Now()
			overrun.Reset(s.cfg.Overrun)
			asked <- q.in
			select {
			case <-ctx.Done():
				return
			case <-overrun.C:
				r.end(fmt.Sprintf("the candidate did not answer within %s: %s, decision %s", s.cfg.Overrun, q.in.Kind, q.d.ID))
				return
			case d := <-answers:
				s.add(r, q, d)
			}
			rest += time.Duration(float64(time.Since(begun)) * (1/s.cfg.Share - 1))
			if rest < time.Millisecond {
				continue
			}
			if !sleep(ctx, r.ended, rest) {
				return
			}
			rest = 0
		}
	}
}

// decide asks a candidate; a panic in it is a denial like any other failure.
func decide(ctx context.Context, engine Decider, in policy.Input) (d policy.Decision) {
	defer func() {
		if p := recover(); p != nil {
			d = policy.Decision{Kind: in.Kind, Rule: policy.RulePanic, Reason: fmt.Sprintf("deciding failed: %v", p)}
		}
	}()
	return engine.Decide(ctx, in)
}

func (s *Shadow) add(r *run, q question, d policy.Decision) {
	r.mu.Lock()
	class := r.tally.Add(q.in, q.d, d, time.Now().UTC())
	r.mu.Unlock()
	s.metrics.compared.WithLabelValues(string(class)).Inc()
}

func sleep(ctx context.Context, ended <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-ended:
		return false
	case <-t.C:
		return true
	}
}

// Report is what a run has found so far.
type Report struct {
	Candidate  string           `json:"candidate"` // revision
	Against    string           `json:"against"`   // revision in force
	Since      time.Time        `json:"since"`
	Ended      string           `json:"ended,omitempty"` // why it compares no more
	Compared   uint64           `json:"compared"`
	Different  uint64           `json:"different"` // without those where only the rule differs
	Counts     map[Class]uint64 `json:"counts"`
	Denied     uint64           `json:"denied"` // by the policy in force, of those compared
	Errors     uint64           `json:"errors"` // failures of the policy in force, of those compared
	Dropped    uint64           `json:"dropped"`
	PassedOver uint64           `json:"passed_over"` // answered by another generation than Against
	Ungrouped  uint64           `json:"ungrouped"`
	Questions  uint64           `json:"questions"` // different ones, of those compared
	Callers    []Callers        `json:"callers"`
	Uncounted  uint64           `json:"uncounted"` // questions of sources for which there was no room in Callers
	Groups     []Group          `json:"groups"`
}

// Report returns what was found so far, or false where there is no candidate.
func (s *Shadow) Report() (Report, bool) {
	r := s.run.Load()
	if r == nil {
		return Report{}, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return Report{
		Candidate: r.Revision, Against: r.Against, Since: r.since, Ended: r.reason,
		Compared: r.tally.Compared(), Different: r.tally.Different(), Counts: maps.Clone(r.tally.Counts),
		Denied: r.tally.Denied, Errors: r.tally.Errors,
		Dropped: r.dropped.Load(), PassedOver: r.passed.Load(), Ungrouped: r.tally.Ungrouped,
		Questions: r.tally.Questions(), Callers: r.tally.Callers(), Uncounted: r.tally.Uncounted(), Groups: r.tally.Groups(),
	}, true
}
