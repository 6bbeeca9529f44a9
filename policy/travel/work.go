package travel

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// Kick has what waits for peers tried now.
func (d *Desk) Kick() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for _, c := range d.open {
		if from := time.Unix(c.record.Record.NotBefore, 0); !from.After(now) {
			c.due, c.pause = now, firstRetry
		}
	}
	d.kick()
}

func (d *Desk) kick() {
	select {
	case d.wake <- struct{}{}:
	default: // it wakes anyway
	}
}

// Run works until ctx ends, on one record of each level at once. It fails when the store does.
func (d *Desk) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	g, ctx := errgroup.WithContext(ctx)
	for {
		c, wait := d.next(time.Now())
		if c != nil {
			working, cancel := context.WithCancel(ctx)
			d.begin(c, cancel)
			g.Go(func() error {
				defer cancel()
				err := d.work(working, c)
				d.end(c)
				return err
			})
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return g.Wait()
		case <-d.wake:
		case <-timer.C:
		}
	}
}

// next returns what is due now on a level on which nothing is worked on, or how long to wait.
func (d *Desk) next(now time.Time) (*candidate, time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait := time.Hour
	var first *candidate
	for at, c := range d.open {
		if d.busy[at.Level] == nil && (first == nil || c.due.Before(first.due)) {
			first = c
		}
	}
	if first == nil {
		return nil, wait
	}
	if wait = min(wait, first.due.Sub(now)); wait > 0 {
		return nil, wait
	}
	return first, 0
}

// begin notes that a record is worked on, and how that ends when a newer one comes.
func (d *Desk) begin(c *candidate, cancel context.CancelFunc) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy[c.at.Level], c.replaced = c, cancel
	if d.open[c.at] != c { // another came just now
		cancel()
	}
}

func (d *Desk) end(c *candidate) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.busy, c.at.Level)
	d.kick()
}

// work brings one record as far as it goes now. Errors are the store's.
func (d *Desk) work(ctx context.Context, c *candidate) error {
	refused, err := d.bring(ctx, c)
	switch {
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return nil
	case errors.Is(err, ErrNoContent):
		d.mu.Lock()
		defer d.mu.Unlock()
		c.due, c.pause = time.Now().Add(c.pause), min(2*c.pause, lastRetry)
		if !c.told {
			c.told = true
			d.cfg.Log.Info("policy waits for its content", "policy", c.record.Record.String(), "err", err)
		}
		return nil
	case err != nil:
		return err
	case refused != nil && !errors.Is(refused, bundle.ErrRollback): // else a newer one was handed in meanwhile
		d.refuse(c.record, refused)
	}
	d.mu.Lock()
	if d.open[c.at] == c {
		delete(d.open, c.at)
	}
	if before, was := d.refused[c.at.Slot]; refused == nil && was && before.Record.Version <= c.record.Record.Version {
		delete(d.refused, c.at.Slot)
	}
	under := map[[32]byte]bool{}
	for _, other := range d.open {
		under[other.record.Record.Chunks] = true
	}
	d.recent = slices.DeleteFunc(d.recent, func(digest [32]byte) bool { return !under[digest] })
	rivals := c.rivals
	d.mu.Unlock()
	for _, r := range rivals {
		if err := d.cfg.Conflict(r); err != nil {
			return err
		}
	}
	return d.parts.drop(func(digest [32]byte) bool { return under[digest] })
}

// bring verifies a record as of now, gets its content and has it taken. refused is why it never
// will be; err is ErrNoContent or the store's.
func (d *Desk) bring(ctx context.Context, c *candidate) (refused, err error) {
	v, refused := bundle.VerifyRecord(c.record.Statement(), d.cfg.Global, time.Now())
	if refused != nil {
		return refused, nil
	}
	content, err := d.content(ctx, &v.Record)
	if errors.Is(err, bundle.ErrFeature) {
		return err, nil
	}
	if err != nil {
		return nil, err
	}
	if v, refused = v.With(content); refused != nil {
		return refused, nil
	}
	d.take.Lock()
	defer d.take.Unlock()
	return d.cfg.Take(v)
}

// refuse remembers why a record was not taken.
func (d *Desk) refuse(v *bundle.Verified, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen[v.Name] {
		return
	}
	if len(d.seen) >= maxScopes {
		clear(d.seen) // they are judged again
	}
	d.seen[v.Name] = true
	slot := Slot{v.Record.Level, v.Record.Scope}
	if _, known := d.refused[slot]; !known && len(d.refused) >= maxScopes {
		clear(d.refused)
	}
	d.refused[slot] = Refusal{v.Record, err}
	d.cfg.Log.Error("a policy that verifies is not taken over", "policy", v.Record.String(), "err", err)
}
