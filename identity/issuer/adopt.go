package issuer

import (
	"crypto/x509"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// errNotAdopted means the record of an agent became another while its SVID was judged.
var errNotAdopted = errors.New("the agent was evicted, banned or renewed meanwhile")

// adoptable returns the record of an agent whose evidence worked once, at another issuer
// of the region, and that comes here with what that gave it: nil unless the SVID is of
// another issuer's root, newer than what is known of the agent, and the agent neither
// evicted here nor there. Whoever shows it could have had it renewed there. known is what
// is known of the agent; nil if nothing is.
func (s *Server) adoptable(c caller, leaf *x509.Certificate, known *agent, now time.Time) (*agent, error) {
	once := s.tokens != nil && strings.HasPrefix(c.id.Path(), "/spire/agent/"+s.tokens.Type()+"/")
	if !once || known != nil && (known.Banned || known.Reattest || leaf.NotAfter.Unix() <= known.Expires) || s.cfg.Evicted != nil && s.cfg.Evicted(c.id) {
		return nil, nil
	}
	verdict, elsewhere := c.on.peer.Load(), false
	for _, root := range s.otherRoots() {
		elsewhere = elsewhere || verdict != nil && root.Equal(verdict.root)
	}
	gone := true
	err := s.cfg.Store.View(func(tx *store.Tx) error {
		gone = evictedHere(tx, c, now)
		return nil
	})
	if err != nil || gone || !elsewhere {
		return nil, err
	}
	a := agent{Type: s.tokens.Type(), At: now.Unix()}
	if known != nil {
		a = *known
	}
	a.Serial, a.Next, a.Unseen, a.Expires = leaf.SerialNumber.Bytes(), nil, nil, leaf.NotAfter.Unix()
	return &a, nil
}

func evictedHere(tx *store.Tx, c caller, now time.Time) bool {
	raw := tx.Get(evictedBucket, []byte(c.id.Path()))
	return len(raw) == 8 && binary.BigEndian.Uint64(raw) >= uint64(now.Add(-EvictionKept).UnixNano())
}

// adopt records an agent that adoptable found, unless things have changed since.
func (s *Server) adopt(tx *store.Tx, c caller) error {
	switch fresh, err := loadAgent(tx, c.id); {
	case err != nil && !errors.Is(err, ErrUnknownAgent):
		return err
	case fresh.Banned || fresh.Expires >= c.adopted.Expires || evictedHere(tx, c, time.Now()):
		return errNotAdopted
	}
	return errors.Join(
		c.adopted.save(tx, c.id),
		leaf(tx, leafAttest, attestLeaf{Type: c.adopted.Type, Agent: c.id.String(), From: c.from.String(), OK: true, Why: "by an SVID of another issuer of the region"}),
	)
}
