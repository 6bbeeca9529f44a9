package issuer

import (
	"crypto/x509"
	"errors"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// Agent is one attested machine, for operators to see.
type Agent struct {
	ID       spiffeid.ID
	Node     spiffeid.ID // zero: no entry names it
	Type     string
	TPM      bool
	Banned   bool
	Attested time.Time
}

// Agents returns all agents, in the order of their IDs.
func (s *Server) Agents() ([]Agent, error) {
	d := s.entries.Load()
	var out []Agent
	var bad error
	err := s.cfg.Store.View(func(tx *store.Tx) error {
		tx.Range(agentsBucket, nil, func(k, v []byte) bool {
			var a agent
			if bad = statement.Unmarshal(v, &a); bad != nil {
				return false
			}
			id, err := spiffeid.FromSegments(s.td, strings.Split(strings.TrimPrefix(string(k), "/"), "/")...)
			if bad = err; bad != nil {
				return false
			}
			node, _ := d.node(id)
			out = append(out, Agent{ID: id, Node: node.SPIFFEID, Type: a.Type, TPM: a.TPM, Banned: a.Banned, Attested: time.Unix(a.At, 0)})
			return true
		})
		return bad
	})
	return out, err
}

// Authorities returns all signing authorities as of now.
func (s *Server) Authorities() []Authority { return s.cfg.CA.Authorities() }

// Roots returns what the region's trust record has to name of this issuer: the roots
// of all its authorities, prepared and old ones too, and those of an upstream.
func (s *Server) Roots() []*x509.Certificate { return s.cfg.CA.Bundle().X509Authorities() }

// Ban refuses an agent ID everything from now on, also a new attestation, until
// Unban. An agent that never attested can be banned too.
func (s *Server) Ban(id spiffeid.ID, why string) error { return s.setBan(id, true, why) }

// Unban ends a ban. The agent must attest again.
func (s *Server) Unban(id spiffeid.ID, why string) error { return s.setBan(id, false, why) }

func (s *Server) setBan(id spiffeid.ID, banned bool, why string) error {
	what := "unban"
	if banned {
		what = "ban"
	}
	return s.bar(func(tx *store.Tx) error {
		a, err := loadAgent(tx, id)
		if err != nil && !errors.Is(err, ErrUnknownAgent) {
			return err
		}
		a.Banned, a.Serial, a.Next, a.Unseen = banned, nil, nil, nil
		if err := a.save(tx, id); err != nil {
			return err
		}
		return leaf(tx, leafRefuse, refuseLeaf{What: what, To: id.String(), ID: id.String(), Why: why})
	})
}

// bar makes a change that the region's other issuers are to hear of.
func (s *Server) bar(change func(*store.Tx) error) error {
	err := s.cfg.Store.Update(change)
	if err == nil && s.cfg.Barred != nil {
		s.cfg.Barred()
	}
	return err
}

// Evict forgets an agent: its SVIDs are refused at once, and it may attest again
// as if for the first time, a ban included. ErrUnknownAgent: there is none.
func (s *Server) Evict(id spiffeid.ID, why string) error {
	return s.bar(func(tx *store.Tx) error {
		return errors.Join(forget(tx, id, why), enterEviction(tx, id, time.Now()))
	})
}

// Forget is Evict for what another issuer of the region evicted: it is not among
// Evictions here. A ban of this issuer's stays.
func (s *Server) Forget(id spiffeid.ID, why string) error {
	return s.cfg.Store.Update(func(tx *store.Tx) error {
		if a, err := loadAgent(tx, id); err == nil && a.Banned {
			return nil
		}
		return forget(tx, id, why)
	})
}

func forget(tx *store.Tx, id spiffeid.ID, why string) error {
	if _, err := loadAgent(tx, id); err != nil {
		return err
	}
	if err := tx.Delete(agentsBucket, []byte(id.Path())); err != nil {
		return err
	}
	return leaf(tx, leafRefuse, refuseLeaf{What: "evict", To: id.String(), ID: id.String(), Why: why})
}
