package sim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
)

// certSize is what an epoch certificate has, in bytes of DER, about.
const certSize = 560

func nodeID(i int) spiffeid.ID {
	return spiffeid.RequireFromString(fmt.Sprintf("spiffe://east.dev.example/node/east-n%d", i))
}

// signer signs the same each time, by RFC 6979: a run must repeat to the byte.
type signer struct{ *ecdsa.PrivateKey }

func (s signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.PrivateKey.Sign(nil, digest, opts)
}

// authority hands out feed keys and epoch certificates. The certificates are stand-ins
// of the real size that are known by their bytes; what it takes to verify one is
// charged as virtual time.
type authority struct {
	seed  uint64
	known map[string]feed.EpochKey
}

func newAuthority(seed uint64) *authority {
	return &authority{seed: seed, known: map[string]feed.EpochKey{}}
}

// identity returns the feed key and the certificate of a node's epoch.
func (a *authority) identity(id spiffeid.ID, number uint64) (replica.Identity, error) {
	scalar := sha256.Sum256(fmt.Appendf(nil, "bailiwick sim %d %s %d", a.seed, id, number))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar[:])
	if err != nil { // one in 2^32
		return replica.Identity{}, fmt.Errorf("feed key of %s: %w", id, err)
	}
	cert := make([]byte, certSize)
	copy(cert, fmt.Appendf(nil, "%s %d %x", id, number, scalar[:8]))
	a.known[string(cert)] = feed.EpochKey{
		Origin: id, Epoch: number, Key: &key.PublicKey, Class: "node", Attested: true,
		NotBefore: epoch.Add(-time.Hour), NotAfter: epoch.Add(7 * 24 * time.Hour), Cert: cert,
	}
	return replica.Identity{Signer: signer{key}, Cert: cert}, nil
}

// key is a feed.KeyFunc.
func (a *authority) key(der []byte) (feed.EpochKey, error) {
	key, ok := a.known[string(der)]
	if !ok {
		return feed.EpochKey{}, feed.ErrUncheckable
	}
	return key, nil
}
