package enrolling

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/machine"
	"github.com/bailiwick-mesh/bailiwick/identity/cache"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// The kinds of SVID in the cache, by the name in their Entry field: workloads'
// have the ID of their registration entry there.
const (
	agentEntry = "agent"
	nodeEntry  = "node"
)

// Vault keeps what was issued on disk, encrypted, so that a node comes back
// working with no issuer in reach. What it holds is as valid as it says itself.
type Vault struct {
	cache    *cache.Cache
	write    func(cache.Contents, time.Time) error // cache.Save
	contents cache.Contents
}

// OpenVault reads the cache. One that is damaged is set aside: the node then
// enrols again, and the file stays for whoever wants to know why.
func OpenVault(dir string, seal bool, m *machine.Machine, log *slog.Logger) (*Vault, error) {
	c, err := openCache(dir, seal, m.Device(), log)
	if err != nil {
		return nil, err
	}
	v := &Vault{cache: c, write: c.Save}
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

// TrustRecords are those that were known at the last save.
func (v *Vault) TrustRecords() [][]byte { return v.contents.Trust }

// save replaces everything kept.
func (v *Vault) save(h Holdings, trustRecords [][]byte) error {
	c := cache.Contents{
		Epochs: [][]byte{h.epoch, h.spare}, Trust: trustRecords,
		Class: h.Class, Endorsement: h.Endorsement, TPMEpoch: h.tpmEpoch, InUse: h.InUse, Renews: h.renews,
	}
	add := func(entry string, svid *x509svid.SVID) error {
		if svid == nil {
			return nil // not issued yet
		}
		s, err := cache.FromSVID(entry, svid)
		if err == nil {
			c.SVIDs = append(c.SVIDs, s)
		}
		return err
	}
	errs := []error{add(agentEntry, h.agent), add(nodeEntry, h.Node)}
	if h.JWTKeys != nil {
		var err error
		c.JWTKeys, err = h.JWTKeys.Marshal()
		errs = append(errs, err)
	}
	for _, w := range h.Workloads {
		errs = append(errs, add(w.Entry, w.SVID))
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
	if err := v.write(c, time.Now()); err != nil {
		return err
	}
	v.contents = c
	return nil
}

// load brings back what save kept. Keys in the TPM are the machine's; an identity of
// the node for another key is left out, and the error says so.
func (v *Vault) load(m *machine.Machine) (h Holdings, err error) {
	c := v.contents
	if len(c.Epochs) != 2 {
		return Holdings{}, nil
	}
	h = Holdings{At: c.Time(), Class: c.Class, Endorsement: c.Endorsement, InUse: c.InUse, renews: c.Renews, epoch: c.Epochs[0], spare: c.Epochs[1], tpmEpoch: c.TPMEpoch}
	selectors := map[string]spire.Entry{}
	for _, e := range c.Entries {
		id, ierr := spiffeid.FromString(e.SPIFFEID)
		parent, perr := spiffeid.FromString(e.ParentID)
		if err := errors.Join(ierr, perr); err != nil {
			return Holdings{}, fmt.Errorf("%w: entry %s: %w", cache.ErrDamaged, e.ID, err)
		}
		entry := spire.Entry{
			ID: e.ID, SPIFFEID: id, ParentID: parent, Selectors: e.Selectors, DNSNames: e.DNSNames, Hint: e.Hint,
			TTL: time.Duration(e.TTL) * time.Second, Revision: e.Revision,
		}
		h.entries, selectors[e.ID] = append(h.entries, entry), entry
	}
	for _, s := range c.SVIDs {
		var svid *x509svid.SVID
		var bad error
		if len(s.Key) == 0 || s.Entry == nodeEntry || s.Entry == agentEntry {
			svid, bad = m.Own(s)
		} else {
			svid, bad = s.X509()
		}
		if bad != nil {
			err = errors.Join(err, fmt.Errorf("kept SVID: %w", bad))
			continue
		}
		switch s.Entry {
		case agentEntry:
			h.agent = svid
		case nodeEntry:
			h.Node = svid
		default:
			e := selectors[s.Entry]
			h.Workloads = append(h.Workloads, Workload{SVID: svid, Entry: s.Entry, Hint: e.Hint, selectors: e.Selectors})
		}
	}
	if h.Node != nil && len(c.JWTKeys) > 0 {
		var kerr error
		if h.JWTKeys, kerr = jwtbundle.Parse(h.Node.ID.TrustDomain(), c.JWTKeys); kerr != nil {
			return Holdings{}, fmt.Errorf("%w: JWT keys: %w", cache.ErrDamaged, kerr)
		}
	}
	return h, err
}
