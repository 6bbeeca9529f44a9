package app

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// globalKeys reads the public keys of the global authority.
func globalKeys(c config.Config) ([]*ecdsa.PublicKey, error) {
	var paths []string
	for _, path := range c.Trust.GlobalKeys {
		paths = append(paths, string(path))
	}
	return config.PublicKeys("trust.global_keys", paths...)
}

// loadTrust takes in what the configuration brings and what was learned since, the
// newest of each region.
func loadTrust(c config.Config, global []*ecdsa.PublicKey, kept [][]byte) (*trust.Set, error) {
	set, err := trust.NewSet(global, c.Trust.Threshold)
	if err != nil {
		return nil, err
	}
	for _, raw := range kept {
		err := set.Restore(raw)
		if errors.Is(err, trust.ErrUnsigned) {
			continue // the global keys were changed since: what the old ones vouched for counts no more
		}
		if err != nil && !errors.Is(err, trust.ErrOld) {
			return nil, fmt.Errorf("kept trust record: %w", err)
		}
	}
	for _, path := range c.Trust.Records {
		err := eachRecord(string(path), func(raw []byte) error {
			if _, _, err := set.Apply(raw, time.Now()); err != nil && !errors.Is(err, trust.ErrOld) {
				return err
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if _, ok := set.Record(c.Node.TrustDomain()); !ok {
		return nil, fmt.Errorf("trust.records: %w: %s", trust.ErrUnknown, c.Node.TrustDomain())
	}
	return set, nil
}

// subjects turns verified facts about identities into the words of policy.
type subjects struct {
	self     spiffeid.ID
	dir      *directory
	standing *standings
	attested func(spiffeid.ID) policyAttestation
}

// policyAttestation is how a node proved itself, as far as known here.
type policyAttestation struct {
	kind  string
	class string // limits class; empty where it is not known
	ok    bool
	at    time.Time
}

// node describes a node.
func (s *subjects) node(id spiffeid.ID) *policy.Peer { return s.by(id, s.attested(id)) }

// by describes a node that proved itself in a way.
func (s *subjects) by(id spiffeid.ID, a policyAttestation) *policy.Peer {
	p := &policy.Peer{
		SPIFFEID: id.String(), TrustDomain: id.TrustDomain().Name(), Path: segments(id),
		Region: s.dir.region(id.TrustDomain()), Standing: s.standing.of(id).Standing.String(),
	}
	if n, err := identity.ParseNode(id); err == nil {
		p.Node, p.Zone = n.Name, n.Zone
	}
	p.Attestation = &policy.Attestation{Kind: a.kind, OK: a.ok}
	if !a.at.IsZero() {
		p.Attestation.AgeSeconds = max(0, int64(time.Since(a.at).Seconds()))
	}
	p.Roles = s.roles(id, a.class)
	return p
}

// roles are those that enrolment and the authority gave a node. What its own
// record says is for people.
func (s *subjects) roles(id spiffeid.ID, class string) (out []string) {
	td := id.TrustDomain()
	if s.dir.book(td).Record(s.dir.region(td)).Master == id {
		out = append(out, roleAuth)
	}
	if class == roleGateway {
		out = append(out, roleGateway)
	}
	return out
}

// workload describes a workload by its own ID and the node it runs on.
func (s *subjects) workload(id, node spiffeid.ID) *policy.Peer {
	p := s.node(node)
	p.SPIFFEID, p.TrustDomain, p.Path = id.String(), id.TrustDomain().Name(), segments(id)
	p.Region = s.dir.region(id.TrustDomain())
	return p
}

func segments(id spiffeid.ID) []string { return strings.Split(strings.TrimPrefix(id.Path(), "/"), "/") }
