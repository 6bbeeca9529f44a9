package decision

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// RuleNotRecorded is the rule of an allow that became a denial because it could not be recorded.
const RuleNotRecorded = "not-recorded"

// Engine is what Log needs of policy.Engine.
type Engine interface {
	Decide(ctx context.Context, in policy.Input) policy.Decision
}

// Config sets up a Log. Only Store and Engine must be given.
type Config struct {
	Store  *store.Store
	Engine Engine
	// Clock gives the time of inputs that have none. Nil means the system's, as a trusted clock.
	Clock       func() policy.Time
	Denials     int           // kept; zero means 1,000
	Allows      int           // sampled allows kept; zero means 200
	SampleEvery int           // zero means 100
	FlushEvery  time.Duration // zero means 10 s
	Log         *slog.Logger
	Metrics     prometheus.Registerer
}

// Log decides and records. Its methods may be called concurrently.
type Log struct {
	cfg     Config
	metrics *prometheus.CounterVec

	write sync.Mutex // held during a commit: whoever has it writes for all who wait

	mu     sync.Mutex // held for moments only; guards what follows
	queue  []*entry
	tally  tally
	failed error // of the last commit; nil when it succeeded
}

// entry is a decision on its way to the disk.
type entry struct {
	d    policy.Decision
	done bool // written by the holder of Log.write; so is err
	err  error
}

// New makes a log over the rings already in the store.
func New(cfg Config) *Log {
	if cfg.Clock == nil {
		cfg.Clock = func() policy.Time { return policy.Time{Unix: time.Now().Unix(), Trusted: true} }
	}
	orDefault(&cfg.Denials, 1000)
	orDefault(&cfg.Allows, 200)
	orDefault(&cfg.SampleEvery, 100)
	orDefault(&cfg.FlushEvery, 10*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &Log{cfg: cfg, tally: newTally(time.Now()), metrics: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bailiwick_decision_records_total", Help: "Decisions by how they were recorded: each, sampled, counted or failed."}, []string{"how"})}
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(l.metrics)
	}
	return l
}

func orDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Decide answers in and records the answer. Like Engine.Decide it never fails.
func (l *Log) Decide(ctx context.Context, in policy.Input) policy.Decision {
	if in.Time.Unix == 0 {
		in.Time = l.cfg.Clock()
	}
	if in.V == 0 {
		in.V = policy.InputVersion
	}
	return l.Record(l.cfg.Engine.Decide(ctx, in))
}

// Record records a decision that was made elsewhere, such as a refusal in Go code, and returns
// what the caller must act on. A decision without a valid ID or a time is given them.
func (l *Log) Record(d policy.Decision) policy.Decision {
	if id, err := hex.DecodeString(d.ID); err != nil || len(id) != 16 {
		d.ID = policy.NewID()
	}
	if d.At.IsZero() {
		d.At = time.Unix(l.cfg.Clock().Unix, 0).UTC()
	}
	how := "each"
	if d.Allow {
		l.mu.Lock()
		sample := l.tally.count(d, l.cfg.SampleEvery) || l.failed != nil
		l.mu.Unlock()
		if !sample {
			l.metrics.WithLabelValues("counted").Inc()
			return d
		}
		how = "sampled"
	}
	err := l.commit(&entry{d: d})
	if err == nil {
		l.metrics.WithLabelValues(how).Inc()
		return d
	}
	l.metrics.WithLabelValues("failed").Inc()
	if d.Allow {
		l.mu.Lock()
		l.tally.uncount(d)
		l.mu.Unlock()
		d.Allow, d.Grant, d.Rule = false, nil, RuleNotRecorded
		d.Level, d.Title, d.Owner, d.File, d.Line = "", "", "", "", 0
		d.Reason = fmt.Sprintf("not recorded, not admitted: %v", err)
	} else {
		d.Reason += fmt.Sprintf(" (not recorded: %v)", err)
	}
	return d
}

// Flush commits the counts of allows so far.
func (l *Log) Flush() error { return l.commit(nil) }

// commit returns when e is on disk. Those who wait for the lock find, when they get it, that the
// one before them has written their entry too: one fsync serves all.
func (l *Log) commit(e *entry) error {
	if e != nil {
		l.mu.Lock()
		l.queue = append(l.queue, e)
		l.mu.Unlock()
	}
	l.write.Lock()
	defer l.write.Unlock()
	if e != nil && e.done {
		return e.err
	}
	l.mu.Lock()
	batch, counts := l.queue, l.tally.take(time.Now())
	l.queue = nil
	l.mu.Unlock()
	if len(batch) == 0 && len(counts.Counts) == 0 {
		return nil
	}
	err := l.save(batch, counts)
	for _, b := range batch {
		b.done, b.err = true, err
	}
	l.mu.Lock()
	l.failed = err
	if err != nil {
		l.tally.back(counts)
	}
	l.mu.Unlock()
	return err
}

// Run flushes until ctx ends, then once more. Its error is that of the last flush.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(l.cfg.FlushEvery)
	defer tick.Stop()
	healthy := true
	for {
		select {
		case <-ctx.Done():
			return l.Flush()
		case <-tick.C:
		}
		err := l.Flush()
		if healthy && err != nil {
			l.cfg.Log.Error("decisions cannot be recorded; everything is denied until they can", "err", err)
		}
		healthy = err == nil
	}
}

// Errors of Get and Last.
var (
	// ErrNotFound: no kept decision has that ID. Only the newest denials and a sample of allows are
	// kept; the trail has a leaf for every denial.
	ErrNotFound = errors.New("no such decision is kept on this node")
	// ErrAmbiguous: several kept decisions have an ID with that prefix; give more of it.
	ErrAmbiguous = errors.New("several decisions have an ID that begins so")
)
