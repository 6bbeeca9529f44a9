package enrolling

import (
	"crypto/x509"
	"fmt"
	"os"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/issuing"
	"github.com/bailiwick-mesh/bailiwick/identity/spire"
)

// evidence is what this machine attests with, as it is now.
func (c *Credentials) evidence() (spire.Attester, error) {
	if !c.machine.Attested() {
		if p := c.cfg.Enrol.X509PoP; p != nil {
			return issuing.ProofOfPossession("enrol.x509pop", *p)
		}
		b, err := os.ReadFile(string(c.cfg.Enrol.TokenFile))
		if err != nil {
			return nil, fmt.Errorf("join token: %w", err)
		}
		return spire.NewJoinToken(strings.TrimSpace(string(b))), nil
	}
	feedKey, err := x509.MarshalPKIXPublicKey(&c.machine.Feed().PublicKey)
	if err != nil {
		return nil, err
	}
	if dir := c.cfg.Enrol.DevID; dir != "" {
		key, chain, err := c.machine.Keys().ReadDevID(string(dir))
		if err != nil {
			return nil, fmt.Errorf("enrol.devid: %w", err)
		}
		return spire.DevID{Key: key, Chain: chain, FeedKey: feedKey}, nil
	}
	log, err := c.machine.BootLog()
	if err != nil {
		return nil, err
	}
	return spire.TPM{Keys: c.machine.Prover(), FeedKey: feedKey, BootLog: log}, nil
}

// entry is what the issuer must know of this machine, in the words of its entries file;
// empty where it is known by something else than its TPM.
func (c *Credentials) entry() string {
	if !c.machine.Attested() || c.cfg.Enrol.DevID != "" {
		return ""
	}
	return fmt.Sprintf("{id: %s, ek: %x}", c.cfg.Node, c.machine.Keys().EKHash())
}
