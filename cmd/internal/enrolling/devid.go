package enrolling

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// Admitted reports whether an issuer knows this node now: what only issuers can give may
// be asked for.
func (c *Credentials) Admitted() bool {
	agent := c.Now().agent
	return agent != nil && time.Now().Before(agent.Certificates[0].NotAfter)
}

// CertifyDevID has the first issuer that does certify a DevID key: the chain, its leaf
// first, and the certificate of the authority that signed it, DER. The error joins those
// of all issuers; where Admitted reports false there is nothing to ask with.
func (c *Credentials) CertifyDevID(ctx context.Context, key *tpm.DevID) (chain [][]byte, authority []byte, err error) {
	agent := c.Now().agent
	var errs []error
	for _, addr := range c.cfg.Enrol.Issuers {
		client, err := spire.Dial(c.dialConfig(addr), agent)
		if err == nil {
			chain, authority, err = client.CertifyDevID(ctx, key)
			err = errors.Join(err, client.Close())
		}
		if err == nil {
			return chain, authority, nil
		}
		errs = append(errs, fmt.Errorf("issuer %s: %w", addr, err))
	}
	return nil, nil, errors.Join(errs...)
}

// dialConfig is for a connection to an issuer of this region.
func (c *Credentials) dialConfig(addr string) spire.Config {
	return spire.Config{Addr: addr, TrustDomain: c.cfg.Node.TrustDomain(), Bundles: c.trust}
}
