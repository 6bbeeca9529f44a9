package enrolling

import (
	"context"
	"errors"
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// Appeal takes a note to the region's authority, with a fresh proof of this machine, by the first
// issuer that takes it: why a node that is quarantined is sound again. Without a TPM what the
// machine enrolled by takes its place, or the key of its feed where that was a token. It changes nothing here; a
// release, if there is one, comes with the next enrolment. Errors are those of package spire.
func (c *Credentials) Appeal(ctx context.Context, note string) error {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	var errs []error
	for _, addr := range c.cfg.Enrol.Issuers {
		by, err := c.speaksBy()
		if err != nil {
			return err
		}
		if err = spire.Appeal(ctx, c.dialConfig(addr), by, c.machine.Node(), note); err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("issuer %s: %w", addr, err))
	}
	return errors.Join(errs...)
}

// speaksBy is what an appeal is heard by.
func (c *Credentials) speaksBy() (spire.Attester, error) {
	if c.machine.Attested() || c.cfg.Enrol.X509PoP != nil {
		return c.evidence()
	}
	h := c.Now()
	for _, der := range [][]byte{h.epoch, h.spare} {
		begins, err := epoch.NotBefore(der)
		if err != nil {
			continue
		}
		if cert, err := c.epochAt(der, begins); err == nil && cert.Epoch == h.InUse { // it may have ended
			return spire.EpochProof{TrustDomain: c.cfg.Node.TrustDomain(), Cert: der, Key: c.machine.Feed()}, nil
		}
	}
	return c.evidence() // it has written nothing yet, and its token may be good still
}
