package app

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
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

// holdings is everything issued, as of one moment. It is never changed.
type holdings struct {
	agent       *x509svid.SVID
	node        *x509svid.SVID
	workloads   []workload
	entries     []spire.Entry
	class       string
	epoch       []byte // certificate of the epoch the authority gave, DER
	spare       []byte // of the one after
	endorsement []byte
	tpmEpoch    uint64 // the TPM's epoch counter when the spare was given: higher means it is spent
	inUse       uint64 // the epoch this node writes in; 0: none yet
	at          time.Time
}

// workload is one local identity and who may have it.
type workload struct {
	svid      *x509svid.SVID
	entry     string // ID of its registration entry
	selectors []string
	hint      string
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

// renew attests and collects everything anew from the first issuer that serves.
// What was issued is on disk before it is used, and nothing is given up before.
func (c *credentials) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	by, err := c.evidence()
	if err != nil {
		return err
	}
	var errs []error
	for _, addr := range c.cfg.Enrol.Issuers {
		cfg := spire.Config{Addr: addr, TrustDomain: c.cfg.Node.TrustDomain(), Bundles: c.trust}
		agent, err := spire.Attest(ctx, cfg, by, c.machine.node)
		if err == nil {
			if err = c.collect(ctx, cfg, agent.SVID); err == nil {
				return nil
			}
		}
		errs = append(errs, fmt.Errorf("issuer %s: %w", addr, err))
		if errors.Is(err, spire.ErrRefused) || errors.Is(err, spire.ErrBanned) {
			break // another issuer of the region would say the same
		}
	}
	return errors.Join(errs...)
}

// evidence is what this machine attests with.
func (c *credentials) evidence() (spire.Attester, error) {
	if !c.machine.attested() {
		b, err := os.ReadFile(string(c.cfg.Enrol.TokenFile))
		if err != nil {
			return nil, fmt.Errorf("join token: %w", err)
		}
		return spire.NewJoinToken(strings.TrimSpace(string(b))), nil
	}
	log, err := bootLog(string(c.cfg.TPM.BootLog))
	if err != nil {
		return nil, err
	}
	feedKey, err := x509.MarshalPKIXPublicKey(&c.machine.feed.PublicKey)
	if err != nil {
		return nil, err
	}
	return spire.TPM{Keys: c.machine.prover(), FeedKey: feedKey, BootLog: log}, nil
}

// sync asks with the SVID held whether registration entries changed.
func (c *credentials) sync(ctx context.Context) error {
	h := c.now()
	if h.agent == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	for _, addr := range c.cfg.Enrol.Issuers {
		cfg := spire.Config{Addr: addr, TrustDomain: c.cfg.Node.TrustDomain(), Bundles: c.trust}
		client, err := spire.Dial(cfg, h.agent)
		if err != nil {
			return err
		}
		entries, err := client.Entries(ctx, h.entries)
		err = errors.Join(err, client.Close())
		if errors.Is(err, spire.ErrUnreachable) {
			continue
		}
		if err != nil || sameEntries(entries, h.entries) {
			return err
		}
		return c.collect(ctx, cfg, h.agent)
	}
	return nil
}

func sameEntries(a, b []spire.Entry) bool {
	ids := func(list []spire.Entry) (out []string) {
		for _, e := range list {
			out = append(out, fmt.Sprint(e.ID, " ", e.Revision))
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(ids(a), ids(b))
}

// collect fetches with an agent SVID all that goes with it.
func (c *credentials) collect(ctx context.Context, cfg spire.Config, agent *x509svid.SVID) error {
	client, err := spire.Dial(cfg, agent)
	if err != nil {
		return err
	}
	defer client.Close()
	before := c.now()
	h := holdings{at: time.Now(), agent: agent, inUse: before.inUse, tpmEpoch: before.tpmEpoch}
	enrolment, err := client.Enrol(ctx, &c.machine.feed.PublicKey, before.inUse, nil)
	if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	if enrolment.Node != c.cfg.Node {
		return fmt.Errorf("%w: it says %s, the configuration %s", ErrWrongNode, enrolment.Node, c.cfg.Node)
	}
	for _, raw := range enrolment.TrustRecords {
		if _, _, err := c.trust.Apply(raw, time.Now()); err != nil && !errors.Is(err, trust.ErrOld) {
			c.log.Warn("trust record from the issuer", "err", err)
		}
	}
	if err := c.take(&h, enrolment); err != nil {
		return err
	}
	if h.entries, err = client.Entries(ctx, before.entries); err != nil {
		return fmt.Errorf("entries: %w", err)
	}
	if err := c.fetch(ctx, client, &h); err != nil {
		return err
	}
	if h.node == nil {
		return fmt.Errorf("%w: there is no entry for %s", ErrWrongNode, c.cfg.Node)
	}
	c.change.Lock()
	defer c.change.Unlock()
	if moved := c.now().inUse; moved != before.inUse {
		return fmt.Errorf("%w: from %d to %d", errEpochMoved, before.inUse, moved)
	}
	if err := c.vault.save(h, c.trust.Export()); err != nil {
		return fmt.Errorf("keep what was issued: %w", err)
	}
	err = c.st.Update(func(tx *store.Tx) error {
		leaf := h.node.Certificates[0]
		return trail.Append(tx, trail.IdentitySVID, map[string]any{
			"id": h.node.ID.String(), "serial": leaf.SerialNumber.Text(16), "not_after": leaf.NotAfter.Unix(),
			"workloads": len(h.workloads), "epoch": h.inUse, "class": h.class,
		})
	})
	if err != nil {
		return err
	}
	c.set(h)
	c.log.Info("identity issued", "id", h.node.ID, "until", h.node.Certificates[0].NotAfter.UTC().Format(time.RFC3339), "workloads", len(h.workloads), "epoch", h.inUse, "class", h.class)
	return nil
}

// fetch asks for one SVID an entry: for the node with its own key, for
// workloads with a new one.
func (c *credentials) fetch(ctx context.Context, client *spire.Client, h *holdings) error {
	var requests []spire.Request
	for _, e := range h.entries {
		key := c.machine.node
		if e.SPIFFEID != c.cfg.Node {
			if len(e.Selectors) == 0 {
				continue
			}
			k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				return err
			}
			key = crypto.Signer(k)
		}
		requests = append(requests, spire.Request{EntryID: e.ID, ID: e.SPIFFEID, Key: key})
	}
	results, err := client.NewX509SVIDs(ctx, requests)
	if err != nil {
		return fmt.Errorf("SVIDs: %w", err)
	}
	for i, r := range results {
		if r.Err != nil {
			if requests[i].ID == c.cfg.Node {
				return r.Err
			}
			c.log.Warn("workload SVID", "id", requests[i].ID, "err", r.Err)
			continue
		}
		if r.SVID.ID == c.cfg.Node {
			h.node = r.SVID
			continue
		}
		e := h.entries[slices.IndexFunc(h.entries, func(e spire.Entry) bool { return e.ID == requests[i].EntryID })]
		h.workloads = append(h.workloads, workload{svid: r.SVID, entry: e.ID, selectors: e.Selectors, hint: e.Hint})
	}
	return nil
}

// take checks an enrolment and moves to another epoch where it says so.
func (c *credentials) take(h *holdings, e spire.Enrolment) error {
	h.class, h.epoch, h.spare, h.endorsement = e.Class, e.Epoch, e.Spare, e.Endorsement
	current, err := c.verifyEpoch(e.Epoch)
	if err != nil {
		return fmt.Errorf("epoch certificate: %w", err)
	}
	spare, err := c.verifyEpoch(e.Spare)
	if err != nil {
		return fmt.Errorf("spare epoch certificate: %w", err)
	}
	if h.inUse != current.Epoch && h.inUse != spare.Epoch {
		h.inUse = current.Epoch
	}
	if !c.machine.attested() {
		return nil
	}
	record, _ := c.trust.Record(c.cfg.Node.TrustDomain())
	if _, err := endorse.Verify(e.Endorsement, record.AuthorityKey, c.cfg.Node.TrustDomain(), time.Now()); err != nil {
		return fmt.Errorf("AK endorsement: %w", err)
	}
	counters, err := c.machine.device.Counters()
	if err != nil {
		return err
	}
	h.tpmEpoch = counters.Epoch
	return nil
}

// identities returns what a process with these selectors may have.
func (h holdings) identities(selectors []string) (out []workload) {
	for _, w := range h.workloads {
		if !slices.ContainsFunc(w.selectors, func(s string) bool { return !slices.Contains(selectors, s) }) {
			out = append(out, w)
		}
	}
	return out
}

// of returns the SVID of a workload identity of this node.
func (h holdings) of(id spiffeid.ID) (*x509svid.SVID, bool) {
	for _, w := range h.workloads {
		if w.svid.ID == id {
			return w.svid, true
		}
	}
	return nil, false
}
