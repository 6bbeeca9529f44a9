package app

import (
	"crypto/ecdsa"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity/cache"
)

// prover is what attests for the node's key, wherever that is.
func (m *machine) prover() attester {
	if key, ok := m.node.(*ecdsa.PrivateKey); ok && m.keys != nil {
		if by, err := m.keys.InMemory(&key.PublicKey); err == nil { // our keys are on P-256
			return by
		}
	}
	return m.keys
}

// attester is what spire.TPM asks of keys.
type attester interface {
	Hello(feedPub, bootLog []byte) ([]byte, error)
	Prove(hello, challenge, exporter, csrSPKI, bootLog []byte) ([]byte, error)
}

// own brings back an SVID of the node itself. With a key in memory, the one it was
// issued for is the node's key again: otherwise a restart with no issuer in reach
// would end the node's identity.
func (m *machine) own(s cache.SVID) (*x509svid.SVID, error) {
	if m.inMemory && m.attested() && len(s.Key) > 0 {
		svid, err := s.X509()
		if err == nil {
			m.node = svid.PrivateKey
		}
		return svid, err
	}
	return s.With(m.node)
}

// keyMode says where the node's key is: "resident", "attested", or "" where no TPM
// knows of it.
func (m *machine) keyMode() string {
	switch {
	case !m.attested():
		return ""
	case m.inMemory:
		return string(config.InMemory)
	}
	return string(config.Resident)
}

// keyMode is where an enrolling node's key is; nothing where the claims do not say.
func keyMode(c tpm.Claims) string {
	switch {
	case c.Resident:
		return string(config.Resident)
	case c.NodeKey != nil:
		return string(config.InMemory)
	}
	return ""
}
