package governing

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// staleEvery is how often it is looked at whether policy has become stale.
const staleEvery = time.Second

// WatchStaleness keeps the stale mode of each level what it should be, until ctx ends. quiet
// is how long the region's authority, which has the newest policy of every level, was not
// heard. It fails when the store does.
func (p *Policies) WatchStaleness(ctx context.Context, quiet func(time.Time) time.Duration) error {
	tick := time.NewTicker(staleEvery)
	defer tick.Stop()
	for {
		if err := p.restale(quiet(time.Now())); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// restale puts another generation of the same levels in force where a stale mode begins or ends.
func (p *Policies) restale(quiet time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	is := map[string]string{}
	for _, v := range p.InForce() {
		if mode := v.Record.Staleness(quiet).Applies(); mode != "" {
			is[v.Record.Level] = mode
		}
	}
	if maps.Equal(is, p.stale) {
		return nil
	}
	before := p.stale
	p.stale = is
	if err := p.install(nil, decision.Stale, "", false, time.Now()); err != nil {
		p.stale = before
		if e := (storeError{}); errors.As(err, &e) {
			return err
		}
		p.log.Error("policy without news: its mode cannot be put in force", "modes", is, "err", err)
		return nil
	}
	p.log.Warn("policy without news: what is new is refused, or is not any more", "modes", is, "revision", p.engine.Revision(), "quiet", quiet.Round(time.Second))
	return nil
}

// StaleAt is the stale mode that applies to a level.
func (p *Policies) StaleAt(level string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stale[level]
}
