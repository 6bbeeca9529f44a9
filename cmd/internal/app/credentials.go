package app

import (
	"context"
	"errors"
	"hash/fnv"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

const (
	enrolTimeout = 30 * time.Second
	syncEvery    = 30 * time.Second // how often registration entries are looked at
	lostRetries  = 4                // failures after which a node without an identity waits no longer: 8 s
	wantPause    = 15 * time.Second // between enrolments that are wanted before they are due
)

// ErrWrongNode means the issuer knows this machine under another name than the
// configuration expects.
var ErrWrongNode = errors.New("the issuer gives this machine another identity: check node in the configuration and the issuer's entries")

// errEpochMoved ends an enrolment that asked for an epoch which is over by now.
var errEpochMoved = errors.New("this node moved to another epoch during the enrolment")

// credentials owns what this node was issued: its SVIDs, those of its workloads,
// its epoch certificates, and their renewal. One goroutine, run, changes it; only
// the epoch in use may be moved on by another, see spend.
type credentials struct {
	cfg     config.Config
	machine *machine
	trust   *trust.Set
	vault   *vault
	st      *store.Store
	log     *slog.Logger

	node identity.Credential // source of the node's SVID for link and tunnel

	mu      sync.RWMutex // held for assignments; guards what follows
	held    holdings
	lastErr error
	due     time.Time // when renewal was first due; zero: it is not
	changed chan struct{}

	change sync.Mutex // held while the holdings are replaced, on disk and in memory

	enrol     func(context.Context) error // renew; tests have another
	attestNow chan chan error             // to run
	wanted    chan struct{}               // to run: an enrolment would help, see want
	afresh    chan struct{}               // to run: the same, and earlier tries say nothing any more
}

func newCredentials(c config.Config, m *machine, set *trust.Set, v *vault, st *store.Store, log *slog.Logger) *credentials {
	creds := &credentials{cfg: c, machine: m, trust: set, vault: v, st: st, log: log, changed: make(chan struct{}), attestNow: make(chan chan error), wanted: make(chan struct{}, 1), afresh: make(chan struct{}, 1)}
	creds.enrol = creds.renew
	return creds
}

// load brings back what was issued before, as far as it is still valid and the
// machine has the keys it was issued for. The rest is issued again.
func (c *credentials) load() {
	h, err := c.vault.load(c.machine)
	if err != nil {
		c.log.Error("what was issued before is of no use; this node enrols again", "err", err)
		return
	}
	if h.node == nil {
		return
	}
	if cert, err := c.verifyEpoch(h.epoch); err == nil && !cert.Key.Equal(&c.machine.feed.PublicKey) {
		c.log.Error("the key of the feed is not the one that was certified; this node enrols again", "epoch", cert.Epoch)
		h.epoch, h.spare = nil, nil
	}
	c.set(h)
}

// now returns everything issued, as of now.
func (c *credentials) now() holdings {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.held
}

// savedAt is when an issuer last gave something.
func (c *credentials) savedAt() time.Time {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.held.at
}

// onChange returns a channel that is closed at the next change.
func (c *credentials) onChange() <-chan struct{} {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.changed
}

// set makes holdings the current ones. Those who need more than a Source are
// told by the channel.
func (c *credentials) set(h holdings) {
	c.node.Set(h.node)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = h
	close(c.changed)
	c.changed = make(chan struct{})
}

// valid reports whether the node has an SVID that works now.
func (c *credentials) valid() bool {
	h := c.now()
	return h.node != nil && time.Now().Before(h.node.Certificates[0].NotAfter)
}

// trouble is since when renewal is overdue, zero if it is not, and why the last
// one failed.
func (c *credentials) trouble() (overdue time.Time, err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.due, c.lastErr
}

// want asks for an enrolment before it is due: only an issuer can help. It never
// blocks, and asking often costs nothing.
func (c *credentials) want() {
	select {
	case c.wanted <- struct{}{}:
	default:
	}
}

// wantAfresh is want after something changed in this node's favour.
func (c *credentials) wantAfresh() {
	select {
	case c.afresh <- struct{}{}:
	default:
	}
}

func (c *credentials) note(err error, due time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastErr, c.due = err, due
}

// run renews what is due, for ever. The first identity is due at once, and so is
// what was wanted, unless an enrolment has just been tried.
func (c *credentials) run(ctx context.Context) error {
	var last, retry time.Time
	failures, wanted := 0, false
	for {
		schedule := c.schedule()
		at := schedule.Due()
		switch {
		case failures > 0:
			at = retry
		case wanted:
			at = last.Add(wantPause)
		}
		var asked chan error
		select {
		case <-ctx.Done():
			return nil
		case asked = <-c.attestNow:
		case <-c.wanted:
			wanted = true
			continue
		case <-c.afresh:
			wanted, failures, last = true, 0, time.Time{}
			continue
		case <-time.After(min(time.Until(at), syncEvery)):
		}
		if asked == nil && time.Now().Before(at) {
			if err := c.sync(ctx); err != nil && ctx.Err() == nil {
				c.log.Debug("sync entries", "err", err)
			}
			continue
		}
		err := c.enrol(ctx)
		if asked != nil {
			asked <- err
		}
		if ctx.Err() != nil {
			return nil
		}
		last = time.Now()
		if err == nil {
			failures, wanted = 0, false
			c.note(nil, time.Time{})
			continue
		}
		failures++
		retry = schedule.Retry(last, failures)
		if schedule.Expired(last) {
			retry = schedule.Retry(last, min(failures, lostRetries)) // nobody meets it: the issuer's return must not go unnoticed
		}
		since := schedule.Due()
		if last.Before(since) {
			since = time.Time{} // it was asked for early: nothing is overdue
			if !wanted {
				failures = 0
			}
		}
		c.note(err, since)
		c.log.Warn("renewal failed", "err", err, "again", time.Until(retry).Round(time.Second))
	}
}

// schedule is that of whatever expires first.
func (c *credentials) schedule() identity.Renewal {
	h := c.now()
	seed := fnv.New64a()
	seed.Write([]byte(c.cfg.Node.String()))
	r := identity.Renewal{Seed: seed.Sum64()}
	if h.node == nil {
		return r
	}
	all := []*x509svid.SVID{h.node}
	for _, w := range h.workloads {
		all = append(all, w.svid)
	}
	first := slices.MinFunc(all, func(a, b *x509svid.SVID) int {
		return a.Certificates[0].NotAfter.Compare(b.Certificates[0].NotAfter)
	}).Certificates[0]
	r.NotBefore, r.NotAfter = first.NotBefore, first.NotAfter
	return r
}

// attest runs one attestation now, for an operator who asks.
func (c *credentials) attest(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case c.attestNow <- answer:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
