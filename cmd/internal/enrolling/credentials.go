package enrolling

import (
	"context"
	"errors"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/machine"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

const (
	enrolTimeout = 30 * time.Second
	syncEvery    = 30 * time.Second // how often registration entries are looked at
	lostRetries  = 4                // failures after which a node without an identity waits no longer: 8 s
	askEvery     = 5 * time.Second  // at most, however often issuers have news
	askPause     = 200 * time.Millisecond
	askSpread    = time.Second      // over which nodes ask that were told of a change
	wantPause    = 15 * time.Second // between enrolments that are wanted before they are due
)

// ErrWrongNode means the issuer knows this machine under another name than the
// configuration expects.
var ErrWrongNode = errors.New("the issuer gives this machine another identity: check node in the configuration and the issuer's entries")

// errEpochMoved ends an enrolment that asked for an epoch which is over by now.
var errEpochMoved = errors.New("this node moved to another epoch during the enrolment")

// Credentials owns what this node was issued: its SVIDs, those of its workloads,
// its epoch certificates, and their renewal. One goroutine, renewing, changes it; only
// the epoch in use may be moved on by another, see Begin.
type Credentials struct {
	cfg     config.Config
	version string // of this program, for the issuer's operator to see
	machine *machine.Machine
	trust   *trust.Set
	vault   *Vault
	st      *store.Store
	log     *slog.Logger

	node identity.Credential // source of the node's SVID for link and tunnel

	mu      sync.RWMutex // held for assignments; guards what follows
	held    Holdings
	lastErr error
	due     time.Time // when renewal was first due; zero: it is not
	changed chan struct{}

	change sync.Mutex // held while the holdings are replaced, on disk and in memory

	told        func() error                // returns when the trail tells of trust: before that, nothing is kept
	policyHeads func([][]byte) error        // is told which policy the issuer says is in force, before anything else of an enrolment is used
	enrol       func(context.Context) error // renew; tests have another
	attestNow   chan chan error             // to renewing
	asks        chan struct{}               // to renewing: an issuer has something new, see Ask
	askTrust    atomic.Pointer[string]      // the trust records to be asked for; nil: none
	wanted      chan struct{}               // to renewing: an enrolment would help, see Want
	afresh      chan struct{}               // to renewing: the same, and earlier tries say nothing any more
	stop        func()                      // ends renewing and waits for that; nil: it has not begun
}

// Config is what a node enrols with. All fields are needed but Version and PolicyHeads.
type Config struct {
	Node    config.Config
	Version string // of this program, for the issuer's operator to see
	Machine *machine.Machine
	Trust   *trust.Set
	Vault   *Vault
	Store   *store.Store // for the trail
	Log     *slog.Logger

	// PolicyHeads is told which policy an issuer says is in force, before anything else of
	// an enrolment is used. An error ends the enrolment.
	PolicyHeads func([][]byte) error
}

// New asks nobody anything yet, and holds nothing until Load.
func New(c Config) *Credentials {
	creds := &Credentials{
		cfg: c.Node, version: c.Version, machine: c.Machine, trust: c.Trust, vault: c.Vault, st: c.Store, log: c.Log, policyHeads: c.PolicyHeads,
		told: func() error { return nil }, changed: make(chan struct{}), attestNow: make(chan chan error),
		asks: make(chan struct{}, 1), wanted: make(chan struct{}, 1), afresh: make(chan struct{}, 1),
	}
	creds.enrol = creds.renew
	if creds.policyHeads == nil {
		creds.policyHeads = func([][]byte) error { return nil }
	}
	return creds
}

// Load brings back what was issued before, as far as it is still valid and the
// machine has the keys it was issued for. The rest is issued again.
func (c *Credentials) Load() {
	h, err := c.vault.load(c.machine)
	if err != nil {
		c.log.Error("not all that was issued before is of use; this node enrols again", "err", err)
	}
	if c.machine.Renewed() != "" { // what was issued was for the machine before
		h.agent, h.Node, h.Endorsement = nil, nil, nil
	}
	if cert, err := c.verifyEpoch(h.epoch); err == nil && !cert.Key.Equal(&c.machine.Feed().PublicKey) {
		c.log.Error("the key of the feed is not the one that was certified; this node enrols again", "epoch", cert.Epoch)
		h.epoch, h.spare = nil, nil
	}
	c.set(h)
}

// Now returns everything issued, as of now.
func (c *Credentials) Now() Holdings {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.held
}

// SVID is the node's, for its link and its tunnels: a source that follows renewals.
func (c *Credentials) SVID() x509svid.Source { return &c.node }

// Derive returns a secret of this node's for one purpose. It lasts as long as its identity
// cache.
func (c *Credentials) Derive(purpose string) [32]byte { return c.vault.cache.Derive(purpose) }

// Changed returns a channel that is closed at the next change of what Now returns.
func (c *Credentials) Changed() <-chan struct{} {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.changed
}

// set makes h the current ones. Those who need more than a Source are
// told by the channel.
func (c *Credentials) set(h Holdings) {
	c.node.Set(h.Node)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = h
	close(c.changed)
	c.changed = make(chan struct{})
}

// hold is set for what nobody is told of: the agent SVID is for the issuer only.
func (c *Credentials) hold(h Holdings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = h
}

// Valid reports whether the node has an SVID that works now.
func (c *Credentials) Valid() bool {
	h := c.Now()
	return h.Node != nil && time.Now().Before(h.Node.Certificates[0].NotAfter)
}

// Trouble is since when renewal is overdue, zero if it is not, and why the last
// one failed.
func (c *Credentials) Trouble() (overdue time.Time, err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.due, c.lastErr
}

// Want asks for an enrolment before it is due: only an issuer can help. It never
// blocks, and asking often costs nothing.
func (c *Credentials) Want() {
	select {
	case c.wanted <- struct{}{}:
	default:
	}
}

// Ask has Run ask an issuer soon for what changed. With trust, the digest of an issuer's
// trust records, it goes on until a set with that digest is held, or all were asked. All
// nodes are told at once and do not ask at once.
func (c *Credentials) Ask(trust string) {
	if trust != "" {
		c.askTrust.Store(&trust)
	}
	select {
	case c.asks <- struct{}{}:
	default:
	}
}

// WantAfresh is Want after something changed in this node's favour.
func (c *Credentials) WantAfresh() {
	select {
	case c.afresh <- struct{}{}:
	default:
	}
}

func (c *Credentials) note(err error, due time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastErr, c.due = err, due
}

// Start has renewing begun before the rest of the node is built, which the first
// identity needs none of, and takes longer than. It ends with Run, or with Close.
func (c *Credentials) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	c.stop = func() {
		cancel()
		<-done
	}
	go func() {
		defer close(done)
		c.renewing(ctx)
	}()
}

// Run renews until ctx ends, and begins that where Start did not.
func (c *Credentials) Run(ctx context.Context) error {
	if c.stop == nil {
		c.Start()
	}
	<-ctx.Done()
	return c.Close()
}

// Close ends renewing and waits for that. The error is always nil.
func (c *Credentials) Close() error {
	c.stop()
	return nil
}

// renewing renews what is due, for ever. The first identity is due at once, and so is
// what was wanted, unless an enrolment has just been tried.
func (c *Credentials) renewing(ctx context.Context) {
	var last, retry, askAt, lastAsk time.Time
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
			return
		case asked = <-c.attestNow:
		case <-c.wanted:
			wanted = true
			continue
		case <-c.afresh:
			wanted, failures, last = true, 0, time.Time{}
			continue
		case <-c.asks:
			if askAt.IsZero() {
				askAt = time.Now().Add(max(0, time.Until(lastAsk.Add(askEvery))) + askPause + rand.N(askSpread))
			}
			continue
		case <-time.After(min(time.Until(at), untilAsk(askAt))):
		}
		if asked == nil && time.Now().Before(at) {
			if !askAt.IsZero() {
				askAt, lastAsk = time.Time{}, time.Now()
			}
			want := c.askTrust.Swap(nil)
			if err := c.sync(ctx, want); err != nil && ctx.Err() == nil {
				c.log.Debug("sync entries", "err", err)
				c.askTrust.CompareAndSwap(nil, want) // still to be asked for
			}
			continue
		}
		err := c.enrol(ctx)
		if asked != nil {
			asked <- err
		}
		if ctx.Err() != nil {
			return
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

// untilAsk is how long to wait before an issuer is asked for changes.
func untilAsk(at time.Time) time.Duration {
	if at.IsZero() {
		return syncEvery
	}
	return time.Until(at)
}

// schedule is that of whatever expires first.
func (c *Credentials) schedule() identity.Renewal {
	h := c.Now()
	seed := fnv.New64a()
	seed.Write([]byte(c.cfg.Node.String()))
	r := identity.Renewal{Seed: seed.Sum64()}
	if h.Node == nil {
		return r
	}
	first := slices.MinFunc(h.svids(), func(a, b *x509svid.SVID) int {
		return a.Certificates[0].NotAfter.Compare(b.Certificates[0].NotAfter)
	})
	r.NotBefore, r.NotAfter, r.Got = first.Certificates[0].NotBefore, first.Certificates[0].NotAfter, h.At
	if first == h.agent { // what goes with it is collected again and again
		r.Got = h.admitted
	}
	return r
}

// Attest runs one attestation now, for an operator who asks.
func (c *Credentials) Attest(ctx context.Context) error {
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
