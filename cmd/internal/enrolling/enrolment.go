package enrolling

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/sync/errgroup"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// renew attests, or renews where that works once, and collects everything anew from
// the first issuer that serves. Each step begins with what the one before brought to
// disk, and nothing is given up before it is replaced.
func (c *Credentials) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	var errs []error
	for _, addr := range c.cfg.Enrol.Issuers {
		cfg := c.dialConfig(addr)
		agent, client, err := c.admission(ctx, cfg)
		if errors.Is(err, spire.ErrServer) && c.catchUp(ctx, addr) {
			agent, client, err = c.admission(ctx, cfg)
		}
		if err == nil {
			if err = c.collect(ctx, client, agent); err == nil {
				return nil
			}
		}
		if entry := c.entry(); errors.Is(err, spire.ErrRefused) && c.Now().Node == nil && entry != "" {
			err = fmt.Errorf("%w; the issuer's entry for this machine would be %s", err, entry)
		}
		errs = append(errs, fmt.Errorf("issuer %s: %w", addr, err)) // another may know what this one does not: a join token
	}
	return errors.Join(errs...)
}

// catchUp takes over newer trust records from an address that shows a certificate which
// the records here do not vouch for, and reports whether there were any. This node may
// have been away while its region's roots were replaced.
func (c *Credentials) catchUp(ctx context.Context, addr string) (news bool) {
	records, err := spire.TrustRecords(ctx, addr)
	if err != nil {
		c.log.Debug("trust records", "issuer", addr, "err", err)
	}
	return c.takeRecords(ctx, records, addr)
}

// takeRecords takes over what is newer of the records of an answer, until ctx ends. The
// first that the global keys did not sign ends it: the rest is then anybody's word. It
// logs one line of what was not taken, however much that is.
func (c *Credentials) takeRecords(ctx context.Context, records [][]byte, from string) (news bool) {
	var first error
	for _, raw := range records[:min(len(records), spire.MaxTrustRecords)] {
		if ctx.Err() != nil {
			break
		}
		r, changed, err := c.TakeTrust(raw, from)
		if changed {
			news = true
			c.log.Info("trust record taken over", "region", r.Region, "version", r.Version)
		}
		if first == nil {
			first = err
		}
		if errors.Is(err, trust.ErrMalformed) || errors.Is(err, trust.ErrUnsigned) {
			break
		}
	}
	if first != nil {
		c.log.Warn("not all trust records of the issuer were taken over", "issuer", from, "records", len(records), "err", first)
	}
	return news
}

// sync asks with the SVID held whether registration entries changed, and then fetches
// everything that an issuer gives; also where trust records with a digest are wanted,
// from one issuer after the other until they are here.
func (c *Credentials) sync(ctx context.Context, wanted *string) error {
	h := c.Now()
	if h.agent == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	var last error
	for _, addr := range c.cfg.Enrol.Issuers {
		cfg := c.dialConfig(addr)
		client, err := spire.Dial(cfg, h.agent)
		if err != nil {
			return err
		}
		entries, err := client.Entries(ctx, h.entries)
		keys := h.JWTKeys
		if err == nil {
			keys, err = c.authorities(ctx, client, h)
		}
		err = errors.Join(err, client.Close())
		if errors.Is(err, spire.ErrUnreachable) || errors.Is(err, spire.ErrMustAttest) { // this SVID may be another issuer's
			last = err
			continue
		}
		wants := wanted != nil && *wanted != c.trust.Fingerprint()
		if err != nil || (!wants && sameEntries(entries, h.entries) && h.JWTKeys != nil && keys.Equal(h.JWTKeys)) {
			return err
		}
		if client, err = spire.Dial(cfg, h.agent); err != nil {
			return err
		}
		if err := c.collect(ctx, client, h.agent); err != nil || !wants || *wanted == c.trust.Fingerprint() {
			return err
		}
	}
	if errors.Is(last, spire.ErrMustAttest) {
		c.Want() // none that answers knows this node
	}
	return last
}

// authorities returns what the region's issuers sign JWT-SVIDs with. Where a root is
// tainted that signed something held here, everything is to be had anew.
func (c *Credentials) authorities(ctx context.Context, client *spire.Client, h Holdings) (*jwtbundle.Bundle, error) {
	b, tainted, err := client.Authorities(ctx)
	if err != nil {
		return nil, err
	}
	for _, svid := range h.svids() {
		if slices.ContainsFunc(tainted, func(root *x509.Certificate) bool { return signedBy(svid, root) }) {
			c.log.Info("a root is tainted that signed an SVID held here: renewing", "id", svid.ID)
			c.WantAfresh()
			break
		}
	}
	return b.JWTBundle(), nil
}

// jwtKeys asks what the region's issuers sign JWT-SVIDs with.
func jwtKeys(ctx context.Context, client *spire.Client) (*jwtbundle.Bundle, error) {
	b, err := client.TrustBundle(ctx)
	if err != nil {
		return nil, err
	}
	return b.JWTBundle(), nil
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

// collect fetches by a client, which it closes, all that goes with its agent SVID. The questions do not wait
// for each other's answers: most of each is the issuer waiting for its disk.
func (c *Credentials) collect(ctx context.Context, client *spire.Client, agent *x509svid.SVID) error {
	defer client.Close()
	before := c.Now()
	h := Holdings{At: time.Now(), agent: agent, admitted: before.admitted, renews: before.renews, InUse: before.InUse, tpmEpoch: before.tpmEpoch}
	var news bool
	var unfetched error
	g, asking := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		enrolled, patience := c.enrolled(before), enrolTimeout
		if enrolled {
			patience = before.patience(h.At)
		}
		asking, stop := context.WithTimeout(asking, patience)
		defer stop()
		if news, err = c.enrolAt(asking, client, &h); errors.Is(err, spire.ErrUnreachable) && enrolled {
			c.log.Warn("this issuer gives no epochs now; the node goes on with those it has", "err", err)
			h.Class, h.epoch, h.spare, h.Endorsement = before.Class, before.epoch, before.spare, before.Endorsement
			return nil
		}
		return err
	})
	g.Go(func() (err error) {
		if h.JWTKeys, err = jwtKeys(asking, client); err != nil {
			return fmt.Errorf("JWT keys: %w", err)
		}
		return nil
	})
	g.Go(func() (err error) {
		if h.entries, err = client.Entries(asking, before.entries); err != nil {
			return fmt.Errorf("entries: %w", err)
		}
		unfetched = c.fetch(asking, client, &h)
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if news { // the trust records that came say what may be believed, and it was judged without them
		unfetched = c.fetch(ctx, client, &h)
	}
	if unfetched != nil {
		return unfetched
	}
	if h.Node == nil {
		return fmt.Errorf("%w: there is no entry for %s", ErrWrongNode, c.cfg.Node)
	}
	if err := c.keep(h, before); err != nil {
		return err
	}
	if err := client.PostStatus(ctx, 0, c.version); err != nil {
		c.log.Debug("tell the issuer this program's version", "err", err) // nothing depends on it
	}
	return nil
}

// keep puts in force what was collected on the strength of what was held before, once
// it is on disk and the trail tells of it.
func (c *Credentials) keep(h, before Holdings) error {
	if err := c.told(); err != nil {
		return err
	}
	c.change.Lock()
	defer c.change.Unlock()
	if moved := c.Now().InUse; moved != before.InUse {
		return fmt.Errorf("%w: from %d to %d", errEpochMoved, before.InUse, moved)
	}
	saved := make(chan error, 1)
	go func() { saved <- c.vault.save(h, c.trust.Export()) }() // one wait for the disk for both
	err := c.st.Update(func(tx *store.Tx) error {
		leaf := h.Node.Certificates[0]
		if err := c.recordEpoch(tx, h, before); err != nil {
			return err
		}
		var chain [][]byte
		for _, cert := range h.Node.Certificates {
			chain = append(chain, cert.Raw)
		}
		return trail.Append(tx, trail.IdentitySVID, map[string]any{
			"chain": chain,
			"id":    h.Node.ID.String(), "serial": leaf.SerialNumber.Text(16), "not_after": leaf.NotAfter.Unix(),
			"workloads": len(h.Workloads), "epoch": h.InUse, "class": h.Class,
		})
	})
	if failed := <-saved; failed != nil {
		err = errors.Join(fmt.Errorf("keep what was issued: %w", failed), err)
	}
	if err != nil {
		return err
	}
	c.set(h)
	c.log.Info("identity issued", "id", h.Node.ID, "until", h.Node.Certificates[0].NotAfter.UTC().Format(time.RFC3339), "workloads", len(h.Workloads), "epoch", h.InUse, "class", h.Class)
	return nil
}

// recordEpoch records the certificate of the epoch in use, where it is another than before.
func (c *Credentials) recordEpoch(tx *store.Tx, h, before Holdings) error {
	der, cert := c.epochInUse(h)
	if was, _ := c.epochInUse(before); der == nil || bytes.Equal(der, was) {
		return nil
	}
	return trail.Append(tx, trail.IdentityEpoch, map[string]any{
		"epoch": cert.Epoch, "why": "issued", "class": cert.Class, "not_after": cert.NotAfter.Unix(), "certificate": der,
	})
}

// epochInUse is the certificate of the epoch in use; nil where it is not held, or not valid now.
func (c *Credentials) epochInUse(h Holdings) ([]byte, epoch.Certificate) {
	for _, der := range [][]byte{h.epoch, h.spare} {
		if cert, err := c.verifyEpoch(der); err == nil && cert.Epoch == h.InUse {
			return der, cert
		}
	}
	return nil, epoch.Certificate{}
}

// EpochCert is the certificate of the epoch this node writes in, DER; nil where there is none
// that is valid now.
func (c *Credentials) EpochCert() []byte {
	der, _ := c.epochInUse(c.Now())
	return der
}

// enrolled reports whether what an earlier enrolment gave still works: an issuer whose
// authority is away renews SVIDs, and nothing else.
func (c *Credentials) enrolled(h Holdings) bool {
	for _, der := range [][]byte{h.epoch, h.spare} {
		if cert, err := c.verifyEpoch(der); err != nil || !cert.Key.Equal(&c.machine.Feed().PublicKey) {
			return false
		}
	}
	return true
}

// enrolAt asks an issuer for what signs and verifies state, and reports whether it had
// news of trust.
func (c *Credentials) enrolAt(ctx context.Context, client *spire.Client, h *Holdings) (news bool, err error) {
	counters, err := c.machine.Counters()
	if err != nil {
		return false, err
	}
	e, err := client.Enrol(ctx, &c.machine.Feed().PublicKey, h.InUse, nil, counters.Epoch)
	if err != nil {
		return false, fmt.Errorf("enrol: %w", err)
	}
	if e.Node != c.cfg.Node {
		return false, fmt.Errorf("%w: it says %s, the configuration %s", ErrWrongNode, e.Node, c.cfg.Node)
	}
	if err := c.policyHeads(e.PolicyHeads); err != nil {
		return false, err
	}
	news = c.takeRecords(ctx, e.TrustRecords, "issuer")
	return news, c.take(h, e)
}

// fetch asks for one SVID an entry: for the node with its own key, for
// workloads with a new one.
func (c *Credentials) fetch(ctx context.Context, client *spire.Client, h *Holdings) error {
	h.Node, h.Workloads = nil, nil
	var requests []spire.Request
	for _, e := range h.entries {
		key := c.machine.Node()
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
			h.Node = r.SVID
			continue
		}
		e := h.entries[slices.IndexFunc(h.entries, func(e spire.Entry) bool { return e.ID == requests[i].EntryID })]
		h.Workloads = append(h.Workloads, Workload{SVID: r.SVID, Entry: e.ID, Hint: e.Hint, selectors: e.Selectors})
	}
	return nil
}

// take checks an enrolment and moves to another epoch where it says so.
func (c *Credentials) take(h *Holdings, e spire.Enrolment) error {
	h.Class, h.epoch, h.spare, h.Endorsement = e.Class, e.Epoch, e.Spare, e.Endorsement
	current, err := c.verifyEpoch(e.Epoch)
	if err != nil {
		return fmt.Errorf("epoch certificate: %w", err)
	}
	spare, err := c.verifyEpoch(e.Spare)
	if err != nil {
		return fmt.Errorf("spare epoch certificate: %w", err)
	}
	if h.InUse != current.Epoch && h.InUse != spare.Epoch {
		h.InUse = current.Epoch
	}
	if !c.machine.Attested() {
		return nil
	}
	if c.cfg.Enrol.DevID == "" || len(e.Endorsement) > 0 { // with a DevID, an older issuer endorses nothing
		record, _ := c.trust.Record(c.cfg.Node.TrustDomain())
		if _, err := endorse.Verify(e.Endorsement, record.AuthorityKey, c.cfg.Node.TrustDomain(), time.Now()); err != nil {
			return fmt.Errorf("AK endorsement: %w", err)
		}
	}
	counters, err := c.machine.Counters()
	if err != nil {
		return err
	}
	h.tpmEpoch = counters.Epoch
	return nil
}
