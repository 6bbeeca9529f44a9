package decision

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
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
	// Recall returns the answer that was given to the same question before, or nil.
	Recall(in policy.Input) *policy.Decision
}

// Rules say how a decision is written down: policy.Engine.Recording.
type Rules func(ctx context.Context, d policy.Decision) (policy.Recording, error)

// DefaultMaxBytes is what all segments of a node may take where nothing is said.
const DefaultMaxBytes = 64 << 20

// Config sets up a Log. Store, Engine and Dir must be given.
type Config struct {
	Store  *store.Store
	Engine Engine
	Rules  Rules             // nil: nothing is masked
	Keys   Keys              // seal what events are about; nil: nothing is sealed, and can be erased
	Dir    string            // of segments; made when it is needed
	Labels map[string]string // of every event; id is the node's SPIFFE ID
	// Each reports whether an allow is written whole, like a denial, however many there are alike.
	// Nil: none is.
	Each func(policy.Decision) bool
	// Clock gives the time of inputs that have none. Nil means the system's, as a trusted clock.
	Clock        func() policy.Time
	MaxBytes     int64         // of all segments; zero means DefaultMaxBytes
	Hold         bool          // no segment is removed, whatever MaxBytes says
	SegmentAt    int           // as many events make a segment, at most MaxSegmentEvents/4; zero means 2,048
	SegmentEvery time.Duration // and so does this time, if there is any event; zero means 15 min
	SampleEvery  int           // where policy says nothing; zero means 100
	FlushEvery   time.Duration // zero means 10 s
	// Gap is told of denials that could not be recorded: they stay denials. Nil: nobody is told.
	Gap     func(count uint64, why string)
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Log decides and records. Its methods may be called concurrently.
type Log struct {
	cfg     Config
	metrics *prometheus.CounterVec
	counted prometheus.Counter      // of metrics
	steps   func(step string) error // breaks a step of writing a segment, in tests
	enough  atomic.Bool             // there are events enough for a segment, once they are durable
	full    chan struct{}           // signalled when they are

	rotating sync.Mutex // held while a segment is made
	write    sync.Mutex // held during a commit: whoever has it writes for all who wait

	mu     sync.Mutex // held for moments only; guards what follows
	queue  []*entry
	tally  tally
	failed error // of the last commit; nil when it succeeded
}

// entry is a decision on its way to the disk.
type entry struct {
	e    Event
	done bool // written by the holder of Log.write; so is err
	err  error
}

// New makes a log that goes on where the store and the folder of segments are.
func New(cfg Config) *Log {
	if cfg.Clock == nil {
		cfg.Clock = func() policy.Time { return policy.Time{Unix: time.Now().Unix(), Trusted: true} }
	}
	if cfg.Rules == nil {
		cfg.Rules = func(context.Context, policy.Decision) (policy.Recording, error) { return policy.Recording{}, nil }
	}
	if cfg.Each == nil {
		cfg.Each = func(policy.Decision) bool { return false }
	}
	if cfg.Gap == nil {
		cfg.Gap = func(uint64, string) {}
	}
	orDefault(&cfg.MaxBytes, DefaultMaxBytes)
	orDefault(&cfg.SegmentAt, 2048)
	cfg.SegmentAt = min(cfg.SegmentAt, MaxSegmentEvents/activeSegments)
	orDefault(&cfg.SegmentEvery, 15*time.Minute)
	orDefault(&cfg.SampleEvery, 100)
	orDefault(&cfg.FlushEvery, 10*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &Log{cfg: cfg, tally: newTally(time.Now()), full: make(chan struct{}, 1), metrics: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bailiwick_decision_records_total", Help: "Decisions by how they were recorded: each, sampled, counted, failed, or dropped and removed for want of room."}, []string{"how"})}
	l.counted = l.metrics.WithLabelValues("counted")
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(l.metrics)
	}
	return l
}

func orDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Decide answers in and records the answer. Like Engine.Decide it never fails. An allow that was
// given before, and of which nothing is to be recorded but that it was given once more, costs no
// evaluation and no allocation; it has no Input, and the ID of the one it repeats.
func (l *Log) Decide(ctx context.Context, in policy.Input) policy.Decision {
	in = l.completed(in)
	if d := l.cfg.Engine.Recall(in); d != nil && d.Allow && l.repeated(d) {
		again := *d
		again.At, again.Cached = time.Unix(in.Time.Unix, 0).UTC(), true
		return again
	}
	d, took := l.ask(ctx, in)
	return l.record(ctx, d, took)
}

// repeated counts a recalled allow, or reports that it is to be kept whole.
func (l *Log) repeated(d *policy.Decision) bool {
	if l.cfg.Each(*d) {
		return false
	}
	l.mu.Lock()
	ok := l.failed == nil && l.tally.repeat(d)
	l.mu.Unlock()
	if ok {
		l.counted.Inc()
	}
	return ok
}

// DecideWithin is Decide for a caller who acts on an allow in a transaction of its own. What is
// to be recorded of an allow, keep records there: both are on disk then, or neither. Nil keep:
// there is nothing to record now. A denial is on disk already.
func (l *Log) DecideWithin(ctx context.Context, in policy.Input) (d policy.Decision, keep func(*store.Tx) error) {
	d, took := l.ask(ctx, l.completed(in))
	if !d.Allow {
		return l.record(ctx, d, took), nil
	}
	if !l.sampled(ctx, d) {
		return d, nil
	}
	e := l.event(ctx, d, took)
	return d, func(tx *store.Tx) error {
		if err := l.put(tx, &e); err != nil {
			return err
		}
		l.metrics.WithLabelValues("sampled").Inc()
		return nil
	}
}

// completed gives an input the time and version that it lacks.
func (l *Log) completed(in policy.Input) policy.Input {
	if in.Time.Unix == 0 {
		now := l.cfg.Clock()
		now.Until = in.Time.Until
		in.Time = now
	}
	if in.V == 0 {
		in.V = policy.InputVersion
	}
	return in
}

func (l *Log) ask(ctx context.Context, in policy.Input) (policy.Decision, time.Duration) {
	start := time.Now()
	d := l.cfg.Engine.Decide(ctx, in)
	return l.named(d), time.Since(start)
}

// named gives a decision the ID and time that it lacks.
func (l *Log) named(d policy.Decision) policy.Decision {
	if id, err := hex.DecodeString(d.ID); err != nil || len(id) != 16 {
		d.ID = policy.NewID()
	}
	if d.At.IsZero() {
		d.At = time.Unix(l.cfg.Clock().Unix, 0).UTC()
	}
	return d
}

// event is a decision as it will be written: masked. took is how long it was in the making; zero
// means that nobody knows.
func (l *Log) event(ctx context.Context, d policy.Decision, took time.Duration) Event {
	e := NewEvent(d, l.cfg.Labels, time.Now())
	if took > 0 {
		e.Metrics = map[string]int64{evalMetric: took.Nanoseconds()}
	}
	rules, err := l.cfg.Rules(context.WithoutCancel(ctx), d)
	if err != nil {
		l.cfg.Log.Warn("a decision is recorded without its input: the masking rules failed", "err", err, "decision", d.ID)
		e.hide(rulesFailed)
	} else {
		e.mask(rules.Masks)
	}
	e.unsealed = e.seal(l.cfg.Keys)
	return e
}

// sampled counts an allow and reports whether it is to be kept whole.
func (l *Log) sampled(ctx context.Context, d policy.Decision) bool {
	if l.cfg.Each(d) {
		return true
	}
	l.mu.Lock()
	every := l.tally.every(d)
	l.mu.Unlock()
	if every == 0 { // the first of its sort
		every = l.cfg.SampleEvery
		if rules, err := l.cfg.Rules(context.WithoutCancel(ctx), d); err == nil && rules.SampleEvery > 0 {
			every = rules.SampleEvery
		}
	}
	l.mu.Lock()
	sample := l.tally.count(d, every) || l.failed != nil
	l.mu.Unlock()
	if !sample {
		l.counted.Inc()
	}
	return sample
}

// Record records a decision that was made elsewhere, such as a refusal in Go code, and returns
// what the caller must act on. A decision without a valid ID or a time is given them.
func (l *Log) Record(d policy.Decision) policy.Decision {
	return l.record(context.Background(), l.named(d), 0)
}

func (l *Log) record(ctx context.Context, d policy.Decision, took time.Duration) policy.Decision {
	how := "each"
	if d.Allow {
		if !l.sampled(ctx, d) {
			return d
		}
		if !l.cfg.Each(d) {
			how = "sampled"
		}
	}
	err := l.commit(&entry{e: l.event(ctx, d, took)})
	if err == nil {
		l.metrics.WithLabelValues(how).Inc()
		return d
	}
	l.metrics.WithLabelValues("failed").Inc()
	if d.Allow {
		if !l.cfg.Each(d) {
			l.mu.Lock()
			l.tally.uncount(d)
			l.mu.Unlock()
		}
		d.Allow, d.Grants, d.Rule = false, nil, RuleNotRecorded
		d.Level, d.Title, d.Owner, d.File, d.Line = "", "", "", "", 0
		d.Reason = fmt.Sprintf("not recorded, not admitted: %v", err)
	} else {
		d.Reason += fmt.Sprintf(" (not recorded: %v)", err)
		l.cfg.Gap(1, "denials could not be recorded")
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
	if err == nil && l.enough.Swap(false) {
		select {
		case l.full <- struct{}{}:
		default:
		}
	}
	return err
}

// Run flushes and makes segments until ctx ends, then once more. Its error is that of the last
// flush. That no segment can be written is logged, and no error: the events stay in the store.
func (l *Log) Run(ctx context.Context) error {
	tick, rotate := time.NewTicker(l.cfg.FlushEvery), time.NewTicker(l.cfg.SegmentEvery)
	defer tick.Stop()
	defer rotate.Stop()
	flushes := health{log: l.cfg.Log, says: "decisions cannot be recorded; everything is denied until they can"}
	rotation := health{log: l.cfg.Log, says: "no segment of decisions can be written; the newest stay in the store until one can"}
	rotation.is(l.Rotate()) // there may be less room than before
	for {
		select {
		case <-ctx.Done():
			err := l.Flush()
			if err == nil {
				rotation.is(l.Rotate())
			}
			return err
		case <-tick.C:
			flushes.is(l.Flush())
			if rotation.failed || l.enough.Swap(false) { // a DecideWithin may have been the last
				rotation.is(l.Rotate())
			}
		case <-rotate.C:
			rotation.is(l.Rotate())
		case <-l.full:
			if !rotation.failed { // else the next flush tries it again: a segment costs much to make
				rotation.is(l.Rotate())
			}
		}
	}
}

// health logs when something begins to fail.
type health struct {
	log    *slog.Logger
	says   string
	failed bool
}

func (h *health) is(err error) {
	if err != nil && !h.failed {
		h.log.Error(h.says, "err", err)
	}
	h.failed = err != nil
}

// Errors of Get and Last.
var (
	// ErrNotFound: no kept decision has that ID. Denials, admin decisions and a sample of other
	// allows are kept, until the disk's bound takes the oldest; the trail has a leaf for every denial.
	ErrNotFound = errors.New("no such decision is kept on this node")
	// ErrAmbiguous: several kept decisions have an ID with that prefix; give more of it.
	ErrAmbiguous = errors.New("several decisions have an ID that begins so")
)
