package app

import (
	"crypto/sha256"
	"errors"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// maxVerified bounds the memory of verified epoch certificates.
const maxVerified = 8192

// verifier checks epoch certificates of every known region, each once while
// the trust records stay the same. It also
// remembers which class each node was last given: policy asks for it.
type verifier struct {
	trust *trust.Set

	mu      sync.RWMutex    // held for map work only
	trusted <-chan struct{} // closed once known is of trust records that were replaced
	known   map[[32]byte]epoch.Certificate
	classes map[spiffeid.ID]epoch.Certificate // the newest epoch of each
}

func newVerifier(set *trust.Set) *verifier {
	return &verifier{trust: set, trusted: set.Changed(), known: map[[32]byte]epoch.Certificate{}, classes: map[spiffeid.ID]epoch.Certificate{}}
}

// certificate verifies one certificate: chain, purpose and name, at a time at
// which it was valid. Whether a record is within its time is for the record's
// own clock to say.
func (v *verifier) certificate(der []byte) (epoch.Certificate, error) {
	key := sha256.Sum256(der)
	trusted := v.upToDate()
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
	if v.trusted != trusted {
		return cert, nil // verified by records that others have replaced meanwhile: not for next time
	}
	if len(v.known) >= maxVerified {
		clear(v.known) // rare, and every entry can be had again
	}
	v.known[key] = cert
	if v.classes[cert.ID].Epoch <= cert.Epoch {
		v.classes[cert.ID] = cert
	}
	return cert, nil
}

// upToDate forgets what was verified by trust records that were replaced since: a root
// that was retired vouches for nothing more. It returns what trusted is then.
func (v *verifier) upToDate() <-chan struct{} {
	v.mu.RLock()
	trusted := v.trusted
	v.mu.RUnlock()
	select {
	case <-trusted:
	default:
		return trusted
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.trusted == trusted {
		v.trusted = v.trust.Changed()
		clear(v.known)
	}
	return v.trusted
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
