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
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

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
