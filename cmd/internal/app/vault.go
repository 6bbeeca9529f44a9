package app

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/identity/cache"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// The kinds of SVID in the cache, by the name in their Entry field: workloads'
// have the ID of their registration entry there.
const (
	agentEntry = "agent"
	nodeEntry  = "node"
)

// vault keeps what was issued on disk, encrypted, so that a node comes back
// working with no issuer in reach. What it holds is as valid as it says itself.
type vault struct {
	cache    *cache.Cache
	contents cache.Contents
}

// openVault reads the cache. One that is damaged is set aside: the node then
// enrols again, and the file stays for whoever wants to know why.
func openVault(dir string, seal bool, m *machine, log *slog.Logger) (*vault, error) {
	c, err := openCache(dir, seal, m, log)
	if err != nil {
		return nil, err
	}
	v := &vault{cache: c}
	v.contents, err = c.Load()
	switch {
	case errors.Is(err, cache.ErrDamaged):
		aside, aerr := c.SetAside(time.Now())
		log.Error("the identity cache is of no use; this node enrols again", "err", err, "kept_at", aside)
		return v, aerr
	case errors.Is(err, cache.ErrNone):
		return v, nil
	}
	return v, err
}

// trustRecords are those that were known at the last save.
func (v *vault) trustRecords() [][]byte { return v.contents.Trust }

// save replaces everything kept.
func (v *vault) save(h holdings, trustRecords [][]byte) error {
	c := cache.Contents{
		Epochs: [][]byte{h.epoch, h.spare}, Trust: trustRecords,
		Class: h.class, Endorsement: h.endorsement, TPMEpoch: h.tpmEpoch, InUse: h.inUse,
	}
	add := func(entry string, svid *x509svid.SVID) error {
		s, err := cache.FromSVID(entry, svid)
		if err == nil {
			c.SVIDs = append(c.SVIDs, s)
		}
		return err
	}
	errs := []error{add(agentEntry, h.agent), add(nodeEntry, h.node)}
	for _, w := range h.workloads {
		errs = append(errs, add(w.entry, w.svid))
	}
	for _, e := range h.entries {
		c.Entries = append(c.Entries, cache.Entry{
			ID: e.ID, SPIFFEID: e.SPIFFEID.String(), ParentID: e.ParentID.String(), Selectors: e.Selectors,
			DNSNames: e.DNSNames, Hint: e.Hint, TTL: int64(e.TTL.Seconds()), Revision: e.Revision,
		})
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := v.cache.Save(c, time.Now()); err != nil {
		return err
	}
	v.contents = c
	return nil
}

// load brings back what save kept. Keys in the TPM are the machine's.
func (v *vault) load(m *machine) (h holdings, err error) {
	c := v.contents
	if len(c.Epochs) != 2 {
		return holdings{}, nil
	}
	h = holdings{at: c.Time(), epoch: c.Epochs[0], spare: c.Epochs[1], class: c.Class, endorsement: c.Endorsement, tpmEpoch: c.TPMEpoch, inUse: c.InUse}
	selectors := map[string]spire.Entry{}
	for _, e := range c.Entries {
		id, ierr := spiffeid.FromString(e.SPIFFEID)
		parent, perr := spiffeid.FromString(e.ParentID)
		if err := errors.Join(ierr, perr); err != nil {
			return holdings{}, fmt.Errorf("%w: entry %s: %w", cache.ErrDamaged, e.ID, err)
		}
		entry := spire.Entry{
			ID: e.ID, SPIFFEID: id, ParentID: parent, Selectors: e.Selectors, DNSNames: e.DNSNames, Hint: e.Hint,
			TTL: time.Duration(e.TTL) * time.Second, Revision: e.Revision,
		}
		h.entries, selectors[e.ID] = append(h.entries, entry), entry
	}
	for _, s := range c.SVIDs {
		var svid *x509svid.SVID
		if len(s.Key) == 0 || s.Entry == nodeEntry || s.Entry == agentEntry {
			svid, err = m.own(s)
		} else {
			svid, err = s.X509()
		}
		if err != nil {
			return holdings{}, fmt.Errorf("kept SVID: %w", err)
		}
		switch s.Entry {
		case agentEntry:
			h.agent = svid
		case nodeEntry:
			h.node = svid
		default:
			e := selectors[s.Entry]
			h.workloads = append(h.workloads, workload{svid: svid, entry: s.Entry, selectors: e.Selectors, hint: e.Hint})
		}
	}
	return h, nil
}
