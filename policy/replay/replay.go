package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// Engine is what answers: a policy.Engine that remembers nothing, or what stands for one.
type Engine interface {
	Decide(ctx context.Context, in policy.Input) policy.Decision
}

// Options change how a replay runs, and never what it finds.
type Options struct {
	Workers  int              // zero means one for each core
	Examples int              // kept of each group; zero means 3
	Progress func(done int64) // called now and then, from one goroutine; nil: nobody watches
}

// Why a recorded decision is not asked again.
const (
	SkipMasked  = "masked"   // a masking rule took out or replaced a part of its input
	SkipUnasked = "unasked"  // the node refused by itself: no policy was asked
	SkipInput   = "no input" // it was recorded without an input, or with one this version cannot ask about
)

// Run replays lines. Errors are those of the lines, wrap decision.ErrEvent with the number of the
// line, or are ctx's.
func Run(ctx context.Context, lines iter.Seq2[[]byte, error], engine Engine, o Options) (Report, error) {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Examples <= 0 {
		o.Examples = 3
	}
	start := time.Now()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	work, free := make(chan *batch, o.Workers), make(chan *batch, 2*o.Workers+1)
	for range cap(free) {
		free <- &batch{}
	}
	judges := make([]*judge, o.Workers)
	var wg sync.WaitGroup
	for i := range judges {
		j := &judge{engine: engine, examples: o.Examples, report: newReport()}
		judges[i] = j
		wg.Go(func() {
			for b := range work {
				if err := j.all(ctx, b); err != nil {
					stop(err)
				}
				free <- b
			}
		})
	}
	err := feed(ctx, lines, work, free, o.Progress)
	close(work)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return Report{}, err
	}
	r := newReport()
	for _, j := range judges {
		r.add(j.report, o.Examples)
	}
	return r.finish(time.Since(start)), nil
}

// batch is some lines, one after another in one piece of memory.
type batch struct {
	first int64 // number of the first line, from 1
	text  []byte
	ends  []int
}

const perBatch = 128

// feed hands out the lines. It owns a batch until the batch is in work.
func feed(ctx context.Context, lines iter.Seq2[[]byte, error], work chan<- *batch, free <-chan *batch, progress func(int64)) error {
	var n int64
	b := <-free
	b.reset(1)
	send := func() error {
		if len(b.ends) == 0 {
			return nil
		}
		work <- b
		if progress != nil {
			progress(n)
		}
		b = <-free
		b.reset(n + 1)
		return context.Cause(ctx)
	}
	for line, err := range lines {
		if err != nil {
			return err
		}
		n++
		b.text = append(b.text, line...)
		if b.ends = append(b.ends, len(b.text)); len(b.ends) == perBatch {
			if err := send(); err != nil {
				return err
			}
		}
	}
	return send()
}

func (b *batch) reset(first int64) { b.first, b.text, b.ends = first, b.text[:0], b.ends[:0] }

// judge is one worker.
type judge struct {
	engine   Engine
	examples int
	report   Report
}

func (j *judge) all(ctx context.Context, b *batch) error {
	from := 0
	for i, end := range b.ends {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := j.one(ctx, b.text[from:end], b.first+int64(i)); err != nil {
			return err
		}
		from = end
	}
	return nil
}

// recorded is the part of an event that is compared.
type recorded struct {
	DecisionID  string        `json:"decision_id"`
	Path        string        `json:"path"`
	RequestedBy string        `json:"requested_by"`
	Timestamp   time.Time     `json:"timestamp"`
	Input       *policy.Input `json:"input"` // in one go with the line, which is most of the work of reading it
	Erased      []string      `json:"erased"`
	Masked      []string      `json:"masked"`
	Result      struct {
		Allow    bool            `json:"allow"`
		Level    string          `json:"level"`
		Rule     string          `json:"rule"`
		Target   string          `json:"target"`
		Verdicts json.RawMessage `json:"verdicts"`
		Grants   []policy.Grant  `json:"grants"`
	} `json:"result"`
}

func (j *judge) one(ctx context.Context, line []byte, number int64) error {
	var was recorded
	if err := json.Unmarshal(line, &was); err != nil {
		if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) && (wrong.Field == "input" || strings.HasPrefix(wrong.Field, "input.")) {
			j.report.Read++
			j.report.Skipped[SkipInput]++
			return nil
		}
		return fmt.Errorf("%w: decision %d: %v", decision.ErrEvent, number, err)
	}
	if was.DecisionID == "" || !strings.HasPrefix(was.Path, "bailiwick/") {
		return fmt.Errorf("%w: decision %d has no decision_id, or a path that is not ours: %q", decision.ErrEvent, number, was.Path)
	}
	if was.Path == "bailiwick/"+string(decision.KindChange) {
		return nil // no decision
	}
	j.report.Read++
	switch {
	case len(was.Erased)+len(was.Masked) > 0:
		j.report.Skipped[SkipMasked]++
		return nil
	case len(was.Result.Verdicts) <= len("[]"):
		j.report.Skipped[SkipUnasked]++
		return nil
	case was.Input == nil:
		j.report.Skipped[SkipInput]++
		return nil
	}
	d := j.engine.Decide(ctx, *was.Input)
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if d.Rule == policy.RuleInput {
		j.report.Skipped[SkipInput]++
		return nil
	}
	j.report.compare(&was, &d, number, j.examples)
	return nil
}
