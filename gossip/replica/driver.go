package replica

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	inboxSize = 256
	batchSize = 128 // events between commits
)

// Run is the loop; it owns the state until ctx ends, a commit fails or what uses a record
// hangs (ErrStuck), which it returns: the store has to be opened anew then. Sessions end
// with it.
func (r *Replica) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	told := make(chan struct{})
	go func() {
		defer close(told)
		r.notices.run(ctx)
	}()
	looped, stuck, watched := make(chan error, 1), make(chan error, 1), make(chan struct{})
	go func() { looped <- r.loop(ctx) }()
	go func() {
		defer close(watched)
		if err := r.hangs(ctx); err != nil {
			stuck <- err
		}
	}()
	select {
	case r.ended = <-looped:
		close(r.done)
		for _, s := range r.attached {
			s.fail(r.stopped())
		}
		for _, q := range r.backlog {
			q.reply(Receipt{}, r.stopped())
		}
	case r.ended = <-stuck: // the loop has what it owns for ever
		close(r.done)
	}
	cancel()
	<-told
	<-watched
	return r.ended
}

func (r *Replica) loop(ctx context.Context) error {
	if err := r.begin(); err != nil {
		return err
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	lazy := time.NewTicker(lazyEvery)
	defer lazy.Stop()
	for {
		var due <-chan time.Time
		if wait, waits := r.dueIn(r.cfg.Now()); waits {
			due = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case ev := <-r.events:
			ev()
		case q := <-r.puts:
			r.backlog = append(r.backlog, q)
		case <-ticker.C:
			r.onTick(r.cfg.Now())
		case <-lazy.C:
			r.tellLazily()
		case <-due:
		}
		r.drain()
		if err := r.flush(r.cfg.Now()); err != nil {
			return err
		}
	}
}

// drain takes what else has come, so that one commit serves it all.
func (r *Replica) drain() {
	for range batchSize {
		select {
		case ev := <-r.events:
			ev()
		default:
			for {
				select {
				case q := <-r.puts:
					r.backlog = append(r.backlog, q)
				default:
					return
				}
			}
		}
	}
}

// do runs fn in the loop and returns when what it changed is durable.
func (r *Replica) do(ctx context.Context, fn func() error) error {
	out := make(chan error, 1)
	ev := func() {
		err := fn()
		r.after = append(r.after, func(failed error) { out <- errors.Join(err, failed) })
	}
	select {
	case r.events <- ev:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.done:
		return r.stopped()
	}
	select {
	case err := <-out:
		return err
	case <-r.done:
		select {
		case err := <-out:
			return err
		default:
			return r.stopped()
		}
	}
}

// post runs fn in the loop, if it still runs.
func (r *Replica) post(fn func()) {
	select {
	case r.events <- fn:
	case <-r.done:
	}
}

type answer struct {
	Receipt
	err error
}

// ask hands a write to the loop and waits for its record.
func (r *Replica) ask(q *request) (Receipt, error) {
	out := make(chan answer, 1)
	q.tell = func(got Receipt, err error) { out <- answer{got, err} }
	select {
	case r.puts <- q:
	case <-q.ctx.Done():
		return Receipt{}, context.Cause(q.ctx)
	case <-r.done:
		return Receipt{}, r.stopped()
	}
	select {
	case a := <-out:
		return a.Receipt, a.err
	case <-q.ctx.Done():
		return Receipt{}, context.Cause(q.ctx)
	case <-r.done:
		select {
		case a := <-out:
			return a.Receipt, a.err
		default:
			return Receipt{}, r.stopped()
		}
	}
}

func (r *Replica) stopped() error {
	return fmt.Errorf("%w: %w", ErrStopped, r.ended)
}
