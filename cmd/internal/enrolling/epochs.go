package enrolling

import (
	"context"
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

func (c *Credentials) verifyEpoch(der []byte) (epoch.Certificate, error) {
	return c.epochAt(der, time.Now())
}

func (c *Credentials) epochAt(der []byte, at time.Time) (epoch.Certificate, error) {
	r, ok := c.trust.Record(c.cfg.Node.TrustDomain())
	if !ok {
		return epoch.Certificate{}, trust.ErrUnknown
	}
	cert, err := epoch.Verify(der, r.RecordRoots, r.TrustDomain, at)
	if err == nil && cert.ID != c.cfg.Node {
		return epoch.Certificate{}, fmt.Errorf("%w: the epoch certificate is for %s", ErrWrongNode, cert.ID)
	}
	return cert, err
}

// Feed is what signs this node's records, as far as its identity goes: a replica.
type Feed interface {
	SetIdentity(context.Context, replica.Identity) error
}

// Begin puts the feed's identity in force: the epoch in use, or after a restored
// disk the spare one, spent once by the TPM's own count. The trail of that epoch
// is the caller's to open. It returns the epoch, or an error that a later
// enrolment may end.
func (c *Credentials) Begin(ctx context.Context, f Feed, rewound bool) (uint64, error) {
	c.change.Lock()
	defer c.change.Unlock()
	h := c.Now()
	if len(h.epoch) == 0 {
		return 0, fmt.Errorf("%w: none is kept for this feed key", replica.ErrNoIdentity)
	}
	if c.machine.Restored() || rewound {
		if err := c.spend(&h); err != nil {
			return 0, err
		}
	}
	for _, der := range [][]byte{h.epoch, h.spare} {
		cert, err := c.verifyEpoch(der)
		if err != nil {
			return 0, err
		}
		if cert.Epoch != h.InUse {
			continue
		}
		if err := f.SetIdentity(ctx, replica.Identity{Signer: c.machine.Feed(), Cert: der}); err != nil {
			return 0, err
		}
		return cert.Epoch, c.machine.Settle()
	}
	return 0, fmt.Errorf("%w: no certificate for epoch %d", replica.ErrNoIdentity, h.InUse)
}

// spend moves to the spare epoch because this disk may not know all that was
// signed in the one before. The TPM counts it, so that an older copy of the disk
// finds it spent. Only Begin calls it.
func (c *Credentials) spend(h *Holdings) error {
	spare, err := c.verifyEpoch(h.spare)
	if err != nil {
		return err
	}
	if spare.Epoch <= h.InUse {
		return fmt.Errorf("%w: the spare epoch %d is in use already; a new one comes with the next enrolment", replica.ErrRewound, spare.Epoch)
	}
	if c.machine.Attested() {
		counters, err := c.machine.Counters()
		if err != nil {
			return err
		}
		if counters.Epoch != h.tpmEpoch {
			h.InUse = spare.Epoch // so that the next enrolment asks for numbers above it
			c.set(*h)
			return fmt.Errorf("%w: the spare epoch %d was spent by another copy of this disk; a new one comes with the next enrolment", replica.ErrRewound, spare.Epoch)
		}
		if _, err := c.machine.Device().BumpEpoch(); err != nil {
			return err
		}
	}
	h.InUse = spare.Epoch
	if err := c.vault.save(*h, c.trust.Export()); err != nil {
		return err
	}
	err = c.machine.EndRestored(func(tx *store.Tx) error {
		return trail.Append(tx, trail.IdentityEpoch, map[string]any{
			"epoch": spare.Epoch, "why": "restored disk", "class": spare.Class, "not_after": spare.NotAfter.Unix(), "certificate": h.spare,
		})
	})
	if err != nil {
		return err
	}
	c.set(*h)
	c.log.Warn("this disk was restored: a new epoch of the feed begins", "epoch", spare.Epoch)
	return nil
}
