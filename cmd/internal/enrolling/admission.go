package enrolling

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// admission returns a new agent SVID, which is on disk, and a client that shows it. One
// that can be renewed with itself is, for what it was given for works once; the one before
// stays good until the new one is shown. All others are for evidence as it is now, and a
// TPM's is better than what a node joined by before it had one.
func (c *Credentials) admission(ctx context.Context, cfg spire.Config) (*x509svid.SVID, *spire.Client, error) {
	var rejected error
	if h := c.Now(); h.renews && !c.machine.Attested() && h.agent != nil && time.Now().Before(h.agent.Certificates[0].NotAfter) {
		svid, err := c.renewAgent(ctx, cfg, h.agent)
		if err == nil {
			err = c.keepAgent(svid, true)
		}
		if err == nil {
			client, err := spire.Dial(cfg, svid)
			return svid, client, err
		}
		if rejected = err; !errors.Is(err, spire.ErrMustAttest) {
			return nil, nil, err
		}
	}
	by, err := c.evidence()
	if err != nil {
		return nil, nil, errors.Join(rejected, err)
	}
	agent, err := spire.Attest(ctx, cfg, by, c.machine.Node())
	if err != nil {
		return nil, nil, errors.Join(rejected, err)
	}
	client, err := spire.Dial(cfg, agent.SVID)
	if err != nil {
		return nil, nil, err
	}
	client.Connect() // while the disk works
	err = c.keepAgent(agent.SVID, !agent.Reattest)
	if err != nil && !agent.Reattest { // what it was given for is spent: as long as this process runs, it is not lost
		c.change.Lock()
		defer c.change.Unlock()
		h := c.Now()
		h.agent, h.admitted, h.renews = agent.SVID, time.Now(), true
		c.hold(h)
	}
	if err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return agent.SVID, client, nil
}

func (c *Credentials) renewAgent(ctx context.Context, cfg spire.Config, agent *x509svid.SVID) (*x509svid.SVID, error) {
	client, err := spire.Dial(cfg, agent)
	if err != nil {
		return nil, err
	}
	svid, err := client.Renew(ctx, c.machine.Node())
	if err != nil {
		err = fmt.Errorf("renew the agent SVID: %w", err)
	}
	return svid, errors.Join(err, client.Close())
}

// keepAgent makes an agent SVID the one in use, once it is on disk.
func (c *Credentials) keepAgent(agent *x509svid.SVID, renews bool) error {
	if err := c.told(); err != nil {
		return err
	}
	c.change.Lock()
	defer c.change.Unlock()
	h := c.Now()
	h.agent, h.admitted, h.renews = agent, time.Now(), renews
	if err := c.vault.save(h, c.trust.Export()); err != nil {
		return fmt.Errorf("keep the agent SVID: %w", err)
	}
	c.hold(h)
	return nil
}
