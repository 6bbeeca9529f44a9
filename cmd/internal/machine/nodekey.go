package machine

import (
	"crypto"
	"crypto/ecdsa"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity/cache"
)

// Node is the node's key, for its SVIDs and its sessions.
func (m *Machine) Node() crypto.Signer { return m.node }

// Prover attests for the node's key, wherever that is. There is none without a TPM.
func (m *Machine) Prover() Prover {
	if key, ok := m.node.(*ecdsa.PrivateKey); ok && m.keys != nil {
		if by, err := m.keys.InMemory(&key.PublicKey); err == nil { // our keys are on P-256
			return by
		}
	}
	return m.keys
}

// Prover is what spire.TPM asks of keys, and what proves the same to peers later.
type Prover interface {
	Hello(feedPub, bootLog []byte) ([]byte, error)
	Prove(hello, challenge, exporter, csrSPKI, bootLog []byte) ([]byte, error)
	Quote(qualifying, bootLog [32]byte) ([]byte, error)
}

// Own brings back an SVID of the node itself, from the cache, before anything else uses the
// node's key. With a key in memory, the one it was
// issued for is the node's key again: otherwise a restart with no issuer in reach
// would end the node's identity.
func (m *Machine) Own(s cache.SVID) (*x509svid.SVID, error) {
	if m.inMemory && m.Attested() && len(s.Key) > 0 {
		svid, err := s.X509()
		if err == nil {
			m.node = svid.PrivateKey
		}
		return svid, err
	}
	return s.With(m.node)
}

// KeyMode says where the node's key is: "resident", "attested", or "" where no TPM
// knows of it.
func (m *Machine) KeyMode() string {
	switch {
	case !m.Attested():
		return ""
	case m.inMemory:
		return string(config.InMemory)
	}
	return string(config.Resident)
}
