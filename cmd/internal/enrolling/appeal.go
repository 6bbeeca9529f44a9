package enrolling

import (
	"context"
	"errors"
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// Appeal takes a note to the region's authority, with a fresh proof of this machine, by the first
// issuer that takes it: why a node that is quarantined is sound again. It changes nothing here; a
// release, if there is one, comes with the next enrolment. Errors are those of package spire.
func (c *Credentials) Appeal(ctx context.Context, note string) error {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	var errs []error
	for _, addr := range c.cfg.Enrol.Issuers {
		by, err := c.evidence()
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
