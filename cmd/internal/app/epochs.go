package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// maxVerified bounds the memory of verified epoch certificates.
const maxVerified = 8192

// verifier checks epoch certificates of every known region, each once. It also
// remembers which class each node was last given: policy asks for it.
type verifier struct {
	trust *trust.Set

	mu      sync.RWMutex // held for map work only
	known   map[[32]byte]epoch.Certificate
	classes map[spiffeid.ID]epoch.Certificate // the newest epoch of each
}

func newVerifier(set *trust.Set) *verifier {
	return &verifier{trust: set, known: map[[32]byte]epoch.Certificate{}, classes: map[spiffeid.ID]epoch.Certificate{}}
}

// certificate verifies one certificate: chain, purpose and name, at a time at
// which it was valid. Whether a record is within its time is for the record's
// own clock to say.
func (v *verifier) certificate(der []byte) (epoch.Certificate, error) {
	key := sha256.Sum256(der)
	v.mu.RLock()
	cert, ok := v.known[key]
	v.mu.RUnlock()
	if ok {
		return cert, nil
	}
	cert, err := v.check(der)
	if err != nil {
		return epoch.Certificate{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.known) >= maxVerified {
		clear(v.known) // rare, and every entry can be had again
	}
	v.known[key] = cert
	if v.classes[cert.ID].Epoch <= cert.Epoch {
		v.classes[cert.ID] = cert
	}
	return cert, nil
}

func (v *verifier) check(der []byte) (epoch.Certificate, error) {
	validFrom, err := epoch.NotBefore(der)
	if err != nil {
		return epoch.Certificate{}, err
	}
	err = feed.ErrUncheckable
	for _, r := range v.trust.Regions() {
		cert, verr := epoch.Verify(der, r.RecordRoots, r.TrustDomain, validFrom)
		if verr == nil {
			return cert, nil
		}
		if !errors.Is(verr, epoch.ErrForeign) {
			err = verr
		}
	}
	return epoch.Certificate{}, err
}

// key is certificate in the words of package feed.
func (v *verifier) key(der []byte) (feed.EpochKey, error) {
	c, err := v.certificate(der)
	if err != nil {
		return feed.EpochKey{}, err
	}
	return feed.EpochKey{
		Origin: c.ID, Epoch: c.Epoch, Key: c.Key, Class: c.Class, Attested: c.Attested(),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Cert: der,
	}, nil
}

// of returns the newest certificate seen of a node.
func (v *verifier) of(id spiffeid.ID) (epoch.Certificate, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	c, ok := v.classes[id]
	return c, ok
}

func (c *credentials) verifyEpoch(der []byte) (epoch.Certificate, error) {
	r, ok := c.trust.Record(c.cfg.Node.TrustDomain())
	if !ok {
		return epoch.Certificate{}, trust.ErrUnknown
	}
	cert, err := epoch.Verify(der, r.RecordRoots, r.TrustDomain, time.Now())
	if err == nil && cert.ID != c.cfg.Node {
		return epoch.Certificate{}, fmt.Errorf("%w: the epoch certificate is for %s", ErrWrongNode, cert.ID)
	}
	return cert, err
}

// begin puts the feed's identity in force: the epoch in use, or after a restored
// disk the spare one, spent once by the TPM's own count. The trail of that epoch
// is the caller's to open. It returns the epoch, or an error that a later
// enrolment may end.
func (c *credentials) begin(ctx context.Context, r *replica.Replica, rewound bool) (uint64, error) {
	c.change.Lock()
	defer c.change.Unlock()
	h := c.now()
	if len(h.epoch) == 0 {
		return 0, fmt.Errorf("%w: none is kept for this feed key", replica.ErrNoIdentity)
	}
	if c.machine.restored.Load() || rewound {
		if err := c.spend(&h); err != nil {
			return 0, err
		}
	}
	for _, der := range [][]byte{h.epoch, h.spare} {
		cert, err := c.verifyEpoch(der)
		if err != nil {
			return 0, err
		}
		if cert.Epoch != h.inUse {
			continue
		}
		if err := r.SetIdentity(ctx, replica.Identity{Signer: c.machine.feed, Cert: der}); err != nil {
			return 0, err
		}
		return cert.Epoch, nil
	}
	return 0, fmt.Errorf("%w: no certificate for epoch %d", replica.ErrNoIdentity, h.inUse)
}

// spend moves to the spare epoch because this disk may not know all that was
// signed in the one before. The TPM counts it, so that an older copy of the disk
// finds it spent. Only begin calls it.
func (c *credentials) spend(h *holdings) error {
	spare, err := c.verifyEpoch(h.spare)
	if err != nil {
		return err
	}
	if spare.Epoch <= h.inUse {
		return fmt.Errorf("%w: the spare epoch %d is in use already; a new one comes with the next enrolment", replica.ErrRewound, spare.Epoch)
	}
	if c.machine.attested() {
		counters, err := c.machine.device.Counters()
		if err != nil {
			return err
		}
		if counters.Epoch != h.tpmEpoch {
			h.inUse = spare.Epoch // so that the next enrolment asks for numbers above it
			c.set(*h)
			return fmt.Errorf("%w: the spare epoch %d was spent by another copy of this disk; a new one comes with the next enrolment", replica.ErrRewound, spare.Epoch)
		}
		if _, err := c.machine.device.BumpEpoch(); err != nil {
			return err
		}
	}
	h.inUse = spare.Epoch
	if err := c.vault.save(*h, c.trust.Export()); err != nil {
		return err
	}
	err = c.st.Update(func(tx *store.Tx) error {
		if err := tx.Delete(machineBucket, restoredKey); err != nil {
			return err
		}
		return trail.Append(tx, trail.IdentityEpoch, map[string]any{"epoch": spare.Epoch, "why": "restored disk"})
	})
	if err != nil {
		return err
	}
	c.machine.restored.Store(false)
	c.set(*h)
	c.log.Warn("this disk was restored: a new epoch of the feed begins", "epoch", spare.Epoch)
	return nil
}
